//! How many processes a pool should have: up at once, down slowly.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{LimitedBy, WorkerPoolSpec},
    store::WorkerReport,
};

/// What could run.
#[derive(Clone, Debug, Default)]
pub struct Runnable {
    /// Tasks that the pool's processes have in flight.
    pub running: i64,
    /// Waiting tasks that are due and assigned, by alias; those of webhooks have none.
    pub groups: Vec<(Option<String>, i64)>,
    pub rooms: Vec<Room>,
}

/// A server that gives slots.
#[derive(Clone, Debug)]
pub struct Room {
    /// Aliases that it serves.
    pub models: Vec<String>,
    pub limit: i64,
}

/// How many processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recommendation {
    pub replicas: i32,
    /// `replicas.max` keeps it from more.
    pub capped: bool,
}

/// Tasks at once that the pool could do: webhooks' as many as wait, others' as many as servers have slots for.
pub fn usable(runnable: &Runnable) -> i64 {
    let waits = |model: &str| runnable.groups.iter().any(|(asked, n)| *n > 0 && asked.as_deref() == Some(model));
    let free: i64 = runnable.groups.iter().filter(|(model, _)| model.is_none()).map(|(_, n)| n).sum();
    let asking: i64 = runnable.groups.iter().filter(|(model, _)| model.is_some()).map(|(_, n)| n).sum();
    let slots: i64 = runnable.rooms.iter().filter(|r| r.models.iter().any(|m| waits(m))).map(|r| r.limit.max(0)).sum();
    free + (asking + runnable.running).min(slots).max(runnable.running)
}

/// Enough for that many tasks, between the pool's bounds.
pub fn recommend(spec: &WorkerPoolSpec, usable: i64) -> Recommendation {
    let each = i64::from(spec.concurrency.max.max(1));
    let needed = (usable.max(0) + each - 1) / each;
    let (min, max) = (i64::from(spec.replicas.min), i64::from(spec.replicas.max.max(spec.replicas.min)));
    let replicas = i32::try_from(needed.clamp(min, max)).unwrap_or(i32::MAX);
    Recommendation { replicas, capped: needed > max }
}

/// What was recommended lately: within `replicas.scaleDownSeconds`, as a HorizontalPodAutoscaler's stabilization window has it.
#[derive(Clone, Debug, Default)]
pub struct Settling(VecDeque<(Timestamp, i32)>);

impl Settling {
    /// The highest of the window. What runs already counts as recommended when nothing is known yet: a new leader scales
    /// nothing down at once.
    pub fn settle(
        &mut self,
        now_wanted: Recommendation,
        running: Option<i32>,
        window: SignedDuration,
        now: Timestamp,
    ) -> Recommendation {
        if let Some(running) = running.filter(|_| self.0.is_empty()) {
            self.0.push_back((now, running));
        }
        self.0.push_back((now, now_wanted.replicas));
        self.0.retain(|(at, _)| now.duration_since(*at) < window && *at <= now);
        let highest = self.0.iter().map(|(_, n)| *n).max().unwrap_or(now_wanted.replicas);
        Recommendation { replicas: highest.max(now_wanted.replicas), ..now_wanted }
    }
}

/// What keeps the pool from more, as most of its processes say; its bounds where these do.
pub fn limited_by(reports: &[WorkerReport], wanted: Option<&Recommendation>) -> Option<LimitedBy> {
    if wanted.is_some_and(|wanted| wanted.capped) {
        return Some(LimitedBy::Replicas);
    }
    let said: Vec<LimitedBy> = reports.iter().filter_map(|r| LimitedBy::parse(&r.limited_by)).collect();
    let count = |word: &LimitedBy| said.iter().filter(|w| *w == word).count();
    said.iter().max_by_key(|word| count(word)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const WINDOW: SignedDuration = SignedDuration::from_secs(300);

    fn room(models: &[&str], limit: i64) -> Room {
        Room { models: models.iter().map(ToString::to_string).collect(), limit }
    }

    fn waiting(groups: &[(&str, i64)]) -> Vec<(Option<String>, i64)> {
        groups.iter().map(|(model, n)| ((!model.is_empty()).then(|| (*model).to_owned()), *n)).collect()
    }

    #[test]
    fn a_pool_can_use_what_servers_give_to_what_waits() {
        for (what, running, groups, rooms, expected) in [
            ("nothing waits", 0, vec![], vec![room(&["a"], 4)], 0),
            ("less than there is room", 0, waiting(&[("a", 3)]), vec![room(&["a"], 4)], 3),
            ("more than there is room", 2, waiting(&[("a", 400)]), vec![room(&["a"], 4), room(&["b"], 9)], 4),
            ("two servers of one alias", 0, waiting(&[("a", 400)]), vec![room(&["a"], 4), room(&["a", "b"], 2)], 6),
            ("no server serves it", 0, waiting(&[("a", 400)]), vec![room(&["b"], 4)], 0),
            ("what runs is kept", 5, vec![], vec![], 5),
            ("webhooks take no slot", 1, waiting(&[("", 30), ("a", 1)]), vec![room(&["a"], 2)], 32),
        ] {
            assert_eq!(usable(&Runnable { running, groups, rooms }), expected, "{what}");
        }
    }

    fn spec(min: i32, max: i32, each: i32) -> WorkerPoolSpec {
        let spec =
            json!({"queueRefs": [{"name": "q"}], "replicas": {"min": min, "max": max}, "concurrency": {"max": each}});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn replicas_are_enough_and_within_bounds() {
        for (usable, min, max, each, replicas, capped) in [
            (0, 1, 3, 15, 1, false),
            (0, 0, 3, 15, 0, false),
            (1, 0, 3, 15, 1, false),
            (15, 1, 3, 15, 1, false),
            (16, 1, 3, 15, 2, false),
            (999, 1, 3, 15, 3, true),
        ] {
            assert_eq!(
                recommend(&spec(min, max, each), usable),
                Recommendation { replicas, capped },
                "{usable} in {min}..{max}"
            );
        }
    }

    #[test]
    fn it_goes_up_at_once_and_down_after_a_window_of_less() {
        let at = |s: i64| Timestamp::from_second(1_800_000_000 + s).unwrap();
        let mut settling = Settling::default();
        let mut settle = |window, wanted, at| {
            let wanted = Recommendation { replicas: wanted, capped: false };
            settling.settle(wanted, None, SignedDuration::from_secs(window), at).replicas
        };
        for (second, wanted, expected) in [
            (0, 1, 1),
            (10, 3, 3),
            (20, 1, 3),
            (309, 1, 3),
            (310, 1, 1),
            (320, 2, 2),
            (400, 0, 2),
            (619, 0, 2),
            (620, 0, 0),
        ] {
            assert_eq!(settle(300, wanted, at(second)), expected, "at {second} s");
        }
        assert_eq!(
            [settle(10, 3, at(700)), settle(10, 1, at(709)), settle(10, 1, at(710))],
            [3, 3, 1],
            "a shorter window"
        );
        let mut fresh = Settling::default();
        let wanted = Recommendation { replicas: 1, capped: false };
        assert_eq!(fresh.settle(wanted, Some(3), WINDOW, at(0)).replicas, 3, "a new leader");
    }

    proptest! {
        #[test]
        fn what_is_settled_is_never_below_what_is_wanted_nor_above_what_was(wants in prop::collection::vec((0_i32..20, 0_i64..200), 1..50)) {
            let mut settling = Settling::default();
            let (mut second, mut most) = (0, 0);
            for (replicas, pause) in wants {
                second += pause;
                most = most.max(replicas);
                let now = Timestamp::from_second(1_800_000_000 + second).unwrap();
                let settled = settling.settle(Recommendation { replicas, capped: false }, None, WINDOW, now).replicas;
                prop_assert!((replicas..=most).contains(&settled));
            }
        }
    }
}

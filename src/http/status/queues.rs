//! One line for each queue: how many wait and run, who needs a human, and why those that wait do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Level, LineText, ResourceLine};
use crate::{
    http::{Api, ApiError, tasks, types::Item},
    store::{QueueCounts, WaitingGroup, world},
    tasks::explain::{Group, World, group, line},
};

/// Groups that the line names; there may be one for each expert.
const MOST_GROUPS: usize = 5;

/// A queue on the screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueLine {
    pub namespace: String,
    pub name: String,
    pub level: Level,
    /// It is Ready, or suspended on purpose, and no task needs a human.
    pub healthy: bool,
    pub waiting: i64,
    pub running: i64,
    /// Completed in the last 24 hours.
    pub done: i64,
    /// Failed in the last 24 hours.
    pub failed: i64,
    pub needs_human: i64,
    /// Why the queue is not ready, and why those that wait do, the most first; empty when it is and none waits.
    pub detail: String,
    /// The same, for pages.
    #[serde(skip)]
    pub(in crate::http) text: LineText,
}

/// The queues that are declared or have tasks, worst first.
pub async fn queue_lines(
    api: &Api,
    namespace: Option<&str>,
    declared: &[Item],
    now: Timestamp,
) -> Result<Vec<QueueLine>, ApiError> {
    let mut counts = tasks::queue_counts(api, namespace).await?;
    for item in declared {
        if !counts.iter().any(|c| (c.namespace.as_str(), c.queue.as_str()) == (item.namespace(), item.name())) {
            counts.push(QueueCounts::none(item.namespace(), item.name()));
        }
    }
    if counts.iter().all(|c| c.pending == 0) {
        return Ok(lines(&counts, declared, &[], &World::default(), now));
    }
    let waiting = api.store.waiting().await?;
    Ok(lines(&counts, declared, &waiting, &world::read(&*api.store).await?, now))
}

fn lines(
    counts: &[QueueCounts],
    declared: &[Item],
    waiting: &[WaitingGroup],
    world: &World,
    now: Timestamp,
) -> Vec<QueueLine> {
    let item = |c: &QueueCounts| declared.iter().find(|i| i.namespace() == c.namespace && i.name() == c.queue);
    let mut lines: Vec<QueueLine> =
        counts.iter().map(|c| of(c, waiting, world, now).with_object(item(c), now)).collect();
    lines.sort_by(|a, b| {
        let key = |l: &QueueLine| (std::cmp::Reverse(l.level), std::cmp::Reverse(l.needs_human));
        key(a).cmp(&key(b)).then_with(|| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)))
    });
    lines
}

impl QueueLine {
    /// Lays over it what is known of its resource; a queue that is declared no longer has none.
    fn with_object(mut self, item: Option<&Item>, now: Timestamp) -> Self {
        let Some(object) = item.map(|item| ResourceLine::of_declared(item, now)).filter(|o| o.level != Level::Ok)
        else {
            return self;
        };
        self.level = self.level.max(object.level);
        self.healthy &= object.healthy;
        // What holds all tasks of the queue is told by those that wait already.
        let is_told = matches!(object.state.as_str(), "Held" | "Suspended") && !self.detail.is_empty();
        if !is_told {
            self.text = LineText::joined([object.text, self.text], " · ");
            self.detail = self.text.in_words(now);
        }
        self
    }
}

fn of(counts: &QueueCounts, waiting: &[WaitingGroup], world: &World, now: Timestamp) -> QueueLine {
    let ours = waiting.iter().filter(|w| w.namespace == counts.namespace && w.queue == counts.queue);
    let mut groups = group(&ours.map(world::waiting).collect::<Vec<_>>(), world, now);
    // A fact that stands in the way does not go away by waiting.
    let stuck = groups.iter().any(|g| !g.waits);
    let more: i64 = groups.iter().skip(MOST_GROUPS).map(|g| g.count).sum();
    groups.truncate(MOST_GROUPS);
    let mut detail = line(&groups);
    if more > 0 {
        detail.push_str(&format!(" · {more} for other reasons"));
    }
    QueueLine {
        namespace: counts.namespace.clone(),
        name: counts.queue.clone(),
        level: if counts.deferred_to_human > 0 || stuck { Level::Warning } else { Level::Ok },
        healthy: counts.deferred_to_human == 0,
        waiting: counts.pending,
        running: counts.in_progress,
        done: counts.completed,
        failed: counts.failed,
        needs_human: counts.deferred_to_human,
        text: LineText::new(detail.clone()),
        detail,
    }
}

/// Tasks of a queue that wait for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingLine {
    pub namespace: String,
    pub queue: String,
    pub group: Group,
}

/// What the pending tasks of a namespace, or of all, wait for: the most first in each queue.
pub async fn waiting_lines(api: &Api, world: &World, in_namespace: Option<&str>) -> Result<Vec<WaitingLine>, ApiError> {
    let (waiting, now) = (api.store.waiting().await?, api.store.now().await?);
    let mut queues: Vec<(&str, &str)> = waiting.iter().map(|w| (w.namespace.as_str(), w.queue.as_str())).collect();
    queues.retain(|(namespace, _)| in_namespace.is_none_or(|wanted| *namespace == wanted));
    queues.sort_unstable();
    queues.dedup();
    let of_queue = |(namespace, queue): (&str, &str)| {
        let ours = waiting.iter().filter(|w| w.namespace == namespace && w.queue == queue).map(world::waiting);
        let groups = group(&ours.collect::<Vec<_>>(), world, now);
        let (namespace, queue) = (namespace.to_owned(), queue.to_owned());
        groups.into_iter().map(move |group| WaitingLine { namespace: namespace.clone(), queue: queue.clone(), group })
    };
    Ok(queues.into_iter().flat_map(of_queue).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{
        QueueKey,
        assign::QueueView,
        explain::{PoolState, QueueState},
    };

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn counts(queue: &str, pending: i64, deferred: i64) -> QueueCounts {
        QueueCounts {
            namespace: "default".into(),
            queue: queue.into(),
            pending,
            unassigned: 0,
            in_progress: 2,
            deferred_to_human: deferred,
            completed: 118,
            failed: 0,
            oldest_deferred: None,
            oldest_pending: None,
        }
    }

    fn waits(queue: &str, due: bool, count: i64, domain: &str) -> WaitingGroup {
        WaitingGroup {
            namespace: "default".into(),
            queue: queue.into(),
            domain: domain.into(),
            role: String::new(),
            expert: None,
            model: None,
            due,
            count,
        }
    }

    fn world() -> World {
        let queue = |name: &str| QueueState {
            view: QueueView {
                key: QueueKey { namespace: "default".into(), name: name.into() },
                default_expert: None,
                claimed_by: Default::default(),
            },
            suspended: false,
            held: None,
        };
        let pool =
            PoolState { namespace: "default".into(), name: "p".into(), queues: vec!["a".into()], suspended: false };
        World { queues: vec![queue("a"), queue("b"), queue("c")], pools: vec![pool], ..World::default() }
    }

    #[test]
    fn what_needs_a_human_comes_first_then_what_is_stuck_then_the_name() {
        let waiting = [waits("b", true, 1, "legal"), waits("a", false, 3, "")];
        let all = [counts("a", 3, 0), counts("b", 1, 0), counts("c", 0, 2)];
        let lines = lines(&all, &[], &waiting, &world(), now());
        let told: Vec<_> = lines.iter().map(|l| (l.name.as_str(), l.level, l.healthy, l.detail.as_str())).collect();
        assert_eq!(
            told,
            [
                ("c", Level::Warning, false, ""),
                ("b", Level::Warning, true, "1: no expert does \"legal\""),
                ("a", Level::Ok, true, "3 wait for their time to run"),
            ]
        );
    }

    #[test]
    fn a_queue_that_is_not_ready_says_why_beside_its_tasks() {
        let queue = |name: &str, state: &str, ready: &str, message: &str| -> Item {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "ostler.dev/v1alpha1", "kind": "TaskQueue", "spec": {},
                "metadata": {"name": name, "namespace": "default", "generation": 2},
                "status": {"state": state, "observedGeneration": 2, "conditions": [{"type": "Ready", "status": ready,
                    "reason": state, "message": message, "lastTransitionTime": "2026-03-01T11:58:00Z"}]},
            }))
            .unwrap()
        };
        let declared = [
            queue("a", "Open", "True", "open"),
            queue("b", "ExpertMissing", "False", "there is no Expert x"),
            queue("c", "Held", "False", "waits for LLMBackend mlx to be Ready"),
        ];
        let waiting = [waits("b", true, 1, "legal")];
        let lines =
            lines(&[counts("a", 0, 0), counts("b", 1, 0), counts("c", 0, 0)], &declared, &waiting, &world(), now());
        let told: Vec<_> = lines.iter().map(|l| (l.name.as_str(), l.level, l.healthy, l.detail.as_str())).collect();
        assert_eq!(
            told,
            [
                ("b", Level::Bad, false, "there is no Expert x (for 2m) · 1: no expert does \"legal\""),
                ("c", Level::Warning, false, "waits for LLMBackend mlx to be Ready (for 2m)"),
                ("a", Level::Ok, true, ""),
            ]
        );
    }

    #[test]
    fn many_reasons_are_cut_to_the_most_frequent() {
        let waiting: Vec<WaitingGroup> = (1..=8).map(|n| waits("a", true, n, &format!("d{n}"))).collect();
        let line = &lines(&[counts("a", 36, 0)], &[], &waiting, &world(), now())[0];
        assert!(line.detail.starts_with("8: no expert does \"d8\" · 7: "), "{}", line.detail);
        assert!(line.detail.ends_with(" · 6 for other reasons"), "{}", line.detail);
    }
}

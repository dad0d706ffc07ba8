//! Queues: what most of their tasks wait for. While no task waits, nothing is read.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::{
    api::{ConditionStatus, Kind, ObjectKey, condition},
    causes::{CauseClass, CauseFact, CauseHealth, CauseTrouble, WhoActs},
    store::{Follower, StoreError, Topics, world},
    tasks::explain::{Why, World, why},
};

use super::{
    super::{declared::ControlPlane, shared::NamespacedName},
    rest::required,
};

/// What waits is looked at again after this, whether or not something was told.
const FRESH: Duration = Duration::from_secs(30);

/// What waits, as it was last read.
pub struct WorkWatch {
    changes: Follower,
    projected: Follower,
    read_at: Option<Instant>,
    /// By queue: for what, and how many.
    waiting: BTreeMap<(String, String), (Why, i64)>,
}

impl WorkWatch {
    pub fn new(world: &ControlPlane) -> Self {
        let store = &world.parts.store;
        Self {
            changes: store.follow(Topics::TASKS | Topics::WORLD | Topics::REPORTS),
            projected: store.follow(Topics::WORLD),
            read_at: None,
            waiting: BTreeMap::new(),
        }
    }

    /// Whether something was projected since this was last asked.
    pub fn is_changed(&mut self) -> bool {
        self.projected.take()
    }

    /// Every queue that is declared.
    pub async fn queues(&mut self, world: &ControlPlane, now: Timestamp) -> Result<Vec<CauseFact>, StoreError> {
        let is_old = self.read_at.is_none_or(|at| at.elapsed() >= FRESH && !self.waiting.is_empty());
        if self.changes.take() || is_old {
            self.waiting = read(world, now).await?;
            self.read_at = Some(Instant::now());
        }
        Ok(world
            .feeds
            .queues
            .objects
            .state()
            .iter()
            .map(|queue| {
                let key = NamespacedName::of(&**queue);
                let suspended = world.shared.wishes.suspended(Kind::TaskQueue, &key).unwrap_or(queue.spec.suspend);
                let waiting = self.waiting.get(&(key.namespace.clone(), key.name.clone()));
                let conditions =
                    queue.status.as_ref().map(|status| status.base.conditions.as_slice()).unwrap_or_default();
                let stalled = condition(conditions, "Stalled").filter(|c| c.status == ConditionStatus::True);
                let (health, points_to) = match (suspended, stalled, waiting) {
                    (true, ..) => (CauseHealth::Wished, Vec::new()),
                    (false, Some(stalled), _) => {
                        let trouble = stuck(stalled.reason.clone(), stalled.message.clone());
                        (CauseHealth::Unwell(CauseTrouble { class: CauseClass::Config, ..trouble }), Vec::new())
                    }
                    (false, None, None) => (CauseHealth::Well, Vec::new()),
                    (false, None, Some((why, _))) => {
                        let requires = required(&key.namespace, &queue.spec.requires);
                        of_why(why, &key.namespace, requires)
                    }
                };
                CauseFact {
                    points_to,
                    waiting: waiting.map_or(0, |(_, count)| *count),
                    ..CauseFact::new(ObjectKey::new(Kind::TaskQueue, key.namespace, queue.name_any()), health)
                }
            })
            .collect())
    }
}

/// Of each queue what most of its tasks wait for.
async fn read(world: &ControlPlane, now: Timestamp) -> Result<BTreeMap<(String, String), (Why, i64)>, StoreError> {
    let groups = world.parts.store.waiting().await?;
    if groups.is_empty() {
        return Ok(BTreeMap::new());
    }
    let everything: World = world::read(&*world.parts.store).await?;
    let mut by_queue: BTreeMap<(String, String), Vec<(Why, i64)>> = BTreeMap::new();
    for group in groups {
        let waiting = world::waiting(&group);
        let why = why(&waiting.item, &everything, now);
        let known = by_queue.entry((group.namespace, group.queue)).or_default();
        match known.iter_mut().find(|(other, _)| *other == why) {
            Some((_, count)) => *count += waiting.count,
            None => known.push((why, waiting.count)),
        }
    }
    let largest = |groups: Vec<(Why, i64)>| groups.into_iter().max_by_key(|(_, count)| *count);
    Ok(by_queue.into_iter().filter_map(|(queue, groups)| Some((queue, largest(groups)?))).collect())
}

fn stuck(reason: String, message: String) -> CauseTrouble {
    CauseTrouble {
        class: CauseClass::Work,
        acts: WhoActs::Person,
        since: None,
        reason,
        message,
        tried: Vec::new(),
        next: "`ostler status` shows what waits; `ostler tasks explain ID` says why".to_owned(),
        silent: false,
    }
}

/// How a queue is whose tasks wait for that, and what it points to.
fn of_why(why: &Why, namespace: &str, requires: Vec<ObjectKey>) -> (CauseHealth, Vec<ObjectKey>) {
    let of = |kind: Kind, name: &str| vec![ObjectKey::new(kind, namespace, name)];
    let stuck = |word: &str| CauseHealth::Unwell(stuck(word.to_owned(), why.in_words()));
    match why {
        Why::BackendDown { backend, .. } => (CauseHealth::Waiting, of(Kind::LLMBackend, backend)),
        Why::QueueHeld { .. } => (CauseHealth::Waiting, requires),
        Why::ExpertSuspended { expert } => (CauseHealth::Waiting, of(Kind::Expert, expert)),
        Why::NoWorker { pool } => (stuck("NoWorker"), of(Kind::WorkerPool, pool)),
        Why::NoPool { .. } => (stuck("NoPool"), Vec::new()),
        Why::NoBackend { .. } => (stuck("NoBackend"), Vec::new()),
        Why::Nobody { .. } => (stuck("NoExpert"), Vec::new()),
        Why::ExpertMissing { expert } => (stuck("ExpertMissing"), of(Kind::Expert, expert)),
        Why::QueueMissing { .. } | Why::QueueSuspended { .. } => (CauseHealth::Wished, Vec::new()),
        Why::NotDue { .. }
        | Why::ToBeAssigned
        | Why::PlacesTaken { .. }
        | Why::SlotsFull { .. }
        | Why::CallsSpent { .. }
        | Why::WorkersBusy { .. }
        | Why::Claimable
        | Why::Soon => (CauseHealth::Well, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_points_to_what_its_tasks_wait_for_and_is_stuck_where_only_a_person_helps() {
        let down = Why::BackendDown {
            backend: "mlx".into(),
            state: "Down".into(),
            reason: "Refused".into(),
            since: None,
            others: 0,
        };
        let requires = || vec![ObjectKey::new(Kind::LLMBackend, "team", "gate")];
        for (why, health, points) in [
            (down, "waiting", vec!["mlx"]),
            (Why::QueueHeld { queue: "q".into(), gate: "g".into() }, "waiting", vec!["gate"]),
            (Why::ExpertSuspended { expert: "igor".into() }, "waiting", vec!["igor"]),
            (Why::NoWorker { pool: "p".into() }, "stuck", vec!["p"]),
            (Why::NoBackend { alias: "x".into() }, "stuck", vec![]),
            (Why::ExpertMissing { expert: "olga".into() }, "stuck", vec!["olga"]),
            (Why::Soon, "well", vec![]),
            (Why::PlacesTaken { expert: "igor".into(), running: 2, most: 2 }, "well", vec![]),
            (Why::NotDue { at: None }, "well", vec![]),
        ] {
            let (found, points_to) = of_why(&why, "team", requires());
            let found = match found {
                CauseHealth::Waiting => "waiting",
                CauseHealth::Unwell(trouble) if trouble.class == CauseClass::Work => "stuck",
                CauseHealth::Well => "well",
                other => panic!("{why}: {other:?}"),
            };
            let names: Vec<_> = points_to.iter().map(|key| key.name.as_str()).collect();
            assert_eq!((found, names), (health, points), "{why}");
        }
    }
}

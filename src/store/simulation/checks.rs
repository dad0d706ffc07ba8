//! What holds, whatever crashes: looked at after each step.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::home::{EXPERTS, SeenTask};
use crate::tasks::{TaskId, TaskState, machine::Life};

/// What an outsider saw so far.
#[derive(Debug, Default)]
pub struct Watch {
    known: BTreeMap<TaskId, SeenTask>,
    pub inserted: usize,
    purged: usize,
    ended: HashSet<(TaskId, i32)>,
    /// Calls that were started, by task and cycle.
    executions: HashMap<(TaskId, i32), i32>,
    /// Claims that a person took away.
    revoked: HashSet<(TaskId, i64)>,
    pub leases_lost: i32,
}

/// A rule that does not hold.
pub type CheckResult = Result<(), String>;

macro_rules! holds {
    ($that:expr, $($words:tt)+) => {
        if !$that {
            return Err(format!($($words)+));
        }
    };
}

impl Watch {
    pub fn life(&self, id: TaskId) -> Option<&Life> {
        self.known.get(&id).map(|seen| &seen.life)
    }

    pub fn tasks(&self) -> impl Iterator<Item = &SeenTask> {
        self.known.values()
    }

    /// Looks at everything; `by_person`: a command was what happened.
    pub fn look(&mut self, now: Vec<SeenTask>, by_person: bool) -> CheckResult {
        let mut missing = self.known.len();
        for seen in &now {
            match self.known.get(&seen.id) {
                Some(before) => {
                    missing -= 1;
                    if before == seen {
                        continue;
                    }
                    let before = before.life;
                    self.changed(seen, &before, by_person)?;
                }
                None => holds!(seen.life.state == TaskState::Pending, "{seen:?} came from nowhere"),
            }
            self.count(seen)?;
            self.known.insert(seen.id, seen.clone());
        }
        if missing > 0 {
            let kept: HashSet<TaskId> = now.iter().map(|seen| seen.id).collect();
            for gone in self.known.values().filter(|seen| !kept.contains(&seen.id)) {
                holds!(gone.life.state.is_terminal(), "{gone:?} was live, and is gone");
            }
            self.purged += missing;
            self.known.retain(|id, _| kept.contains(id));
        }
        holds!(
            self.inserted == now.len() + self.purged,
            "inserted {} is not {} kept and {} purged",
            self.inserted,
            now.len(),
            self.purged
        );
        for (index, (name, most, ..)) in EXPERTS.iter().enumerate() {
            let runs = |s: &&SeenTask| s.life.state == TaskState::InProgress && s.expert == Some(index);
            let running = now.iter().filter(runs).count();
            holds!(i64::try_from(running).is_ok_and(|n| n <= *most), "{name} has {running} of {most} places taken");
        }
        Ok(())
    }

    fn changed(&mut self, seen: &SeenTask, before: &Life, by_person: bool) -> CheckResult {
        let (id, life) = (seen.id, seen.life);
        holds!(life.epoch >= before.epoch, "the epoch of {id} fell: {before:?} to {life:?}");
        holds!(life.cycle >= before.cycle, "the cycle of {id} fell: {before:?} to {life:?}");
        if before.state.is_terminal() {
            holds!(life.cycle == before.cycle + 1, "{id} had ended in its cycle: {before:?} to {life:?}");
        } else if life.state.is_terminal() {
            holds!(self.ended.insert((id, life.cycle)), "{id} ended twice in one cycle: {life:?}");
        }
        if by_person && before.state == TaskState::InProgress {
            self.revoked.insert((id, before.epoch));
        }
        if life.cycle == before.cycle {
            self.leases_lost += life.leases_lost - before.leases_lost;
        }
        Ok(())
    }

    fn count(&self, seen: &SeenTask) -> CheckResult {
        let executions = self.executions.get(&(seen.id, seen.life.cycle)).copied().unwrap_or_default();
        let running = i32::from(seen.life.state == TaskState::InProgress);
        holds!(
            executions <= seen.life.counted() + running,
            "{} was executed {executions} times in its cycle, which is more than {:?} counts",
            seen.id,
            seen.life
        );
        Ok(())
    }

    /// A call of a task was sent.
    pub fn executed(&mut self, id: TaskId, cycle: i32) -> CheckResult {
        *self.executions.entry((id, cycle)).or_default() += 1;
        self.known.get(&id).map_or(Ok(()), |seen| self.count(seen))
    }

    /// A worker believes that the claim is its own, by a lease that it knows to hold.
    pub fn believed(&self, worker: &str, id: TaskId, epoch: i64) -> CheckResult {
        let ours = self.life(id).is_some_and(|life| life.epoch == epoch && life.state == TaskState::InProgress);
        holds!(
            ours || self.revoked.contains(&(id, epoch)),
            "{worker} holds task {id} with epoch {epoch} under a lease in force, and it is {:?}",
            self.life(id)
        );
        Ok(())
    }

    /// A completion was answered, before [`Watch::look`] saw what it did.
    pub fn completed(&self, id: TaskId, epoch: i64, changed: bool, after: &[SeenTask]) -> CheckResult {
        let before = self.known.get(&id);
        let ours = before.is_some_and(|s| s.life.state == TaskState::InProgress && s.life.epoch == epoch);
        holds!(changed == ours, "a completion of task {id} with epoch {epoch} changed it ({changed}): {before:?}");
        let same = after.iter().find(|seen| seen.id == id) == before;
        holds!(changed || same, "a completion with an old epoch {epoch} changed task {id}: {before:?}");
        Ok(())
    }
}

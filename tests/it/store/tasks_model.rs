//! A store beside the pure machine: whatever is asked of it in whatever order, each task is what `tasks::machine` says, and
//! what must hold whatever crashes holds after each step.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use ostler::store::{Lease, Slot};
use ostler::tasks::machine::{Life, TaskEvent, Transition, step};
use ostler::tasks::{Task, TaskId, TaskState};

/// What a task must be.
#[derive(Clone, Debug)]
pub struct Known {
    pub life: Life,
    pub expert: Option<String>,
    pub key: Option<String>,
    /// The lease that it is claimed under.
    pub lease: Option<i64>,
    /// In this cycle.
    executions: i32,
    ended: i32,
}

/// What a database must hold.
#[derive(Debug, Default)]
pub struct Model {
    pub tasks: BTreeMap<TaskId, Known>,
    pub inserted: usize,
    pub purged: usize,
    /// How many tasks each expert may have in progress; suspended or gone ones are not here.
    pub places: BTreeMap<String, usize>,
    pub queue_is_open: bool,
    /// Leases that were not taken, and whether they lapsed.
    pub leases: BTreeMap<i64, (Lease, bool)>,
    /// Every claim that was ever made.
    pub claims: Vec<(TaskId, i64)>,
    pub slots: Vec<Slot>,
    pub limit: usize,
}

impl Model {
    pub fn insert(&mut self, id: TaskId, life: Life, expert: Option<String>, key: Option<String>) {
        self.inserted += 1;
        let known = Known { life, expert, key, lease: None, executions: 0, ended: 0 };
        assert!(self.tasks.insert(id, known).is_none(), "the id {id} was given twice");
    }

    /// Whether the event is allowed; then it has happened.
    pub fn happens(&mut self, id: TaskId, event: TaskEvent) -> bool {
        let Some(known) = self.tasks.get_mut(&id) else { return false };
        let before = known.life;
        let next = match step(&before, event, Timestamp::now()) {
            Err(_) => return false,
            Ok(Transition::Gone) => {
                self.tasks.remove(&id);
                self.purged += 1;
                return true;
            }
            Ok(Transition::Is(next)) => next,
        };
        known.life = next;
        if next.cycle > before.cycle {
            (known.executions, known.ended) = (0, 0);
        }
        known.executions += i32::from(event == TaskEvent::Claim);
        known.ended += i32::from(next.state.is_terminal() && !before.state.is_terminal());
        if before.state == TaskState::InProgress && next.state != TaskState::InProgress {
            known.lease = None;
            self.leases.retain(|_, (lease, _)| lease.holder != format!("task/{id}"));
        }
        // Nobody waits for an expert who is suspended or gone.
        let waits = next.state == TaskState::Pending && next.assigned;
        if waits && !known.expert.as_ref().is_some_and(|expert| self.places.contains_key(expert)) {
            known.life.assigned = false;
        }
        if next.state == TaskState::Pending && (before.assigned || next.assigned) && !known.life.assigned {
            known.expert = None;
        }
        true
    }

    pub fn with_key(&self, key: &str) -> Option<TaskId> {
        self.tasks.iter().find(|(_, known)| known.key.as_deref() == Some(key)).map(|(id, _)| *id)
    }

    /// An expert who is not there any more, or is suspended.
    pub fn loses(&mut self, expert: &str) {
        self.places.remove(expert);
        let theirs: Vec<_> = self.tasks.iter().filter(|(_, known)| known.expert.as_deref() == Some(expert)).collect();
        let theirs: Vec<_> = theirs.into_iter().map(|(id, _)| *id).collect();
        for id in theirs {
            self.happens(id, TaskEvent::Unassign);
        }
    }

    pub fn running(&self, expert: &str) -> usize {
        let runs =
            |known: &&Known| known.life.state == TaskState::InProgress && known.expert.as_deref() == Some(expert);
        self.tasks.values().filter(runs).count()
    }

    /// Those that `lease` may be given now, by expert.
    pub fn claimable(&self, lease: &Lease, experts: &[&str]) -> BTreeMap<String, BTreeSet<TaskId>> {
        let mut by_expert: BTreeMap<String, BTreeSet<TaskId>> = BTreeMap::new();
        let holds = self.leases.get(&lease.id).is_some_and(|(_, lapsed)| !lapsed);
        if !holds || !self.queue_is_open {
            return by_expert;
        }
        for (id, known) in &self.tasks {
            let Some(expert) = known.expert.as_deref().filter(|expert| experts.contains(expert)) else { continue };
            let allowed = step(&known.life, TaskEvent::Claim, Timestamp::now()).is_ok();
            if allowed && self.places.contains_key(expert) {
                by_expert.entry(expert.to_owned()).or_default().insert(*id);
            }
        }
        by_expert
    }

    /// How many of those have a place with their expert.
    pub fn placed(&self, claimable: &BTreeMap<String, BTreeSet<TaskId>>) -> usize {
        let placed = |(expert, ids): (&String, &BTreeSet<TaskId>)| {
            ids.len().min(self.places[expert].saturating_sub(self.running(expert)))
        };
        claimable.iter().map(placed).sum()
    }

    /// Compares with what the store says, and checks what must hold.
    pub fn is(&self, tasks: &[Task]) {
        let found: BTreeMap<_, _> =
            tasks.iter().map(|task| (task.id, seen(&Life::of(task), task.expert.as_deref()))).collect();
        let wanted: BTreeMap<_, _> =
            self.tasks.iter().map(|(id, known)| (*id, seen(&known.life, known.expert.as_deref()))).collect();
        for (id, wanted) in &wanted {
            assert_eq!(found.get(id), Some(wanted), "task {id}: found, and what the machine says");
        }
        assert_eq!(
            found.len(),
            wanted.len(),
            "{:?}",
            found.keys().filter(|id| !wanted.contains_key(id)).collect::<Vec<_>>()
        );

        let terminal = tasks.iter().filter(|task| task.state.is_terminal()).count();
        let live = tasks.len() - terminal;
        assert_eq!(self.inserted, terminal + live + self.purged, "inserted = terminal + live + purged");
        for (id, known) in &self.tasks {
            let Known { life, executions, ended, .. } = known;
            assert!(*ended <= 1, "task {id} ended {ended} times in one cycle");
            let running = i32::from(life.state == TaskState::InProgress);
            assert_eq!(*executions, life.counted() + running, "executions of task {id} in cycle {}", life.cycle);
            assert_eq!(running == 1, known.lease.is_some(), "task {id}: as many leases as it runs");
        }
        for (expert, places) in &self.places {
            assert!(self.running(expert) <= *places, "{expert} has {places} places");
        }
    }
}

/// Where a task stands, with times as what they mean now.
fn seen(life: &Life, expert: Option<&str>) -> String {
    let now = Timestamp::now();
    let when = |at: Option<Timestamp>| match at {
        None => "-",
        Some(at) if at <= now => "past",
        Some(_) => "to come",
    };
    let Life { state, assigned, run_after, deadline, attempts_used, free_requeues, leases_lost, cycle, epoch } = *life;
    format!(
        "{} {}{}, run after {}, deadline {}, counted {attempts_used}+{free_requeues}+{leases_lost}, cycle {cycle}, epoch {epoch}",
        state.as_str(),
        if assigned { "of " } else { "for " },
        expert.unwrap_or("nobody"),
        when(run_after),
        when(deadline)
    )
}

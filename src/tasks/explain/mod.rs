//! Why a task waits, for what, and since when: the first thing that must change before it can start.

mod group;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::Timestamp;

use crate::api::{ClaimedBy, number_of};

use super::{
    QueueKey, Task, TaskState, Unassigned,
    assign::{AssignableExpert, QueueView, Roster, WhyNobody},
    route::{self, Server},
};

pub use group::{Group, WaitingTasks, group, line};

/// A queue as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    pub view: QueueView,
    pub suspended: bool,
    /// The gate of `requires` that is closed.
    pub held: Option<String>,
}

/// An expert as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldExpert {
    pub view: AssignableExpert,
    /// Its tasks in progress.
    pub running: i64,
    /// `maxConcurrentTasks`.
    pub most: i64,
}

/// A backend as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldBackend {
    pub server: Server,
    /// `status.state`, and the reason of `Ready`.
    pub state: String,
    pub reason: String,
    /// Since when it is ready, or not; unknown for one that was never ready.
    pub since: Option<Timestamp>,
    pub limit: i32,
}

/// A worker process as it last reported itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerState {
    pub namespace: String,
    pub pool: String,
    pub in_flight: i64,
    pub effective: i64,
    /// What keeps it from doing more.
    pub limited_by: String,
    pub draining: bool,
}

/// A pool with the queues that it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolState {
    pub namespace: String,
    pub name: String,
    pub queues: Vec<String>,
    pub suspended: bool,
}

/// Everything that a task may wait for.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub queues: Vec<QueueState>,
    pub experts: Vec<WorldExpert>,
    pub backends: Vec<WorldBackend>,
    pub pools: Vec<PoolState>,
    /// Those that reported lately.
    pub workers: Vec<WorkerState>,
}

/// A pending task, or many that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingTask {
    pub queue: QueueKey,
    pub domain: String,
    pub role: String,
    pub expert: Option<String>,
    /// Somebody said why that expert: else it still waits for assignment.
    pub assigned: bool,
    /// Where calls go.
    pub model: Option<String>,
    /// Not due before that; `Err`: not due yet, and nobody knows here until when.
    pub not_before: Option<Result<Timestamp, ()>>,
}

/// The first thing that must change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    QueueMissing {
        queue: QueueKey,
    },
    QueueSuspended {
        queue: String,
    },
    QueueHeld {
        queue: String,
        gate: String,
    },
    /// It is to run later: as it was given in, or as it was given back.
    NotDue {
        at: Option<Timestamp>,
    },
    Nobody {
        why: WhyNobody,
        domain: String,
        role: String,
        queue: QueueKey,
    },
    /// The next round of assignment will give it to somebody.
    ToBeAssigned,
    ExpertMissing {
        expert: String,
    },
    ExpertSuspended {
        expert: String,
    },
    PlacesTaken {
        expert: String,
        running: i64,
        most: i64,
    },
    NoBackend {
        alias: String,
    },
    /// Every backend that may be asked is down; the first one's words.
    BackendDown {
        backend: String,
        state: String,
        reason: String,
        since: Option<Timestamp>,
        others: usize,
    },
    /// Every slot that it may have is taken; the first server's numbers.
    SlotsFull {
        backend: String,
        limit: i32,
        others: usize,
    },
    /// Every server that it may go to is up, and may not be called again today; the first one's limit.
    CallsSpent {
        backend: String,
        most: i32,
        others: usize,
    },
    NoPool {
        queue: String,
    },
    NoWorker {
        pool: String,
    },
    WorkersBusy {
        limited_by: String,
        in_flight: i64,
    },
    /// Nothing stands in its way but that nobody has claimed it yet.
    Claimable,
    /// Nothing stands in its way: a worker takes it in a moment.
    Soon,
}

/// Why a pending task waits.
pub fn why(item: &WaitingTask, world: &World, now: Timestamp) -> Why {
    queue(item, world)
        .or_else(|| due(item, now))
        .or_else(|| assignment(item, world))
        .or_else(|| expert(item, world))
        .or_else(|| backend(item, world))
        .or_else(|| worker(item, world))
        .unwrap_or(Why::Soon)
}

/// Since when a task waits for that, as far as is known: else since it became pending.
pub fn since(why: &Why, pending_since: Timestamp) -> Timestamp {
    match why {
        Why::BackendDown { since: Some(since), .. } => (*since).max(pending_since),
        _ => pending_since,
    }
}

/// One task, in words for people: why it waits, or how it is if it doesn't.
pub fn explain(task: &Task, world: &World, now: Timestamp) -> String {
    let because = task.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let expert = task.expert.as_deref().unwrap_or("nobody");
    match task.state {
        TaskState::Pending => {
            let why = why(&WaitingTask::of(task), world, now);
            let before = task.reason.as_deref().map(|r| format!("; it was given back: {r}")).unwrap_or_default();
            format!("{}{before}", why.in_words())
        }
        TaskState::InProgress => format!("{expert} works on it (attempt {})", task.attempts_used + 1),
        TaskState::Completed => match &task.expert {
            Some(expert) => format!("it was done by {expert}"),
            None => "it was done".into(),
        },
        TaskState::Failed => format!("it failed{because}. `ostler tasks retry {}` opens it again", task.id),
        TaskState::Cancelled => format!("it was cancelled{because}. `ostler tasks retry {}` opens it again", task.id),
        TaskState::DeferredToHuman => {
            format!("it waits for a human{because}. Then: `ostler tasks resume {0}`, `reassign` or `close`", task.id)
        }
    }
}

impl WaitingTask {
    /// Of a pending task.
    pub fn of(task: &Task) -> Self {
        Self {
            queue: QueueKey { namespace: task.namespace.clone(), name: task.queue.clone() },
            domain: task.domain.clone(),
            role: task.role.clone(),
            expert: task.expert.clone(),
            assigned: task.expert.is_some() && task.assignment_reason.is_some(),
            model: task.assigned_model.clone().or_else(|| task.model.clone()),
            not_before: task.run_after.map(Ok),
        }
    }
}

fn queue(item: &WaitingTask, world: &World) -> Option<Why> {
    let Some(queue) = world.queues.iter().find(|q| q.view.key == item.queue) else {
        return Some(Why::QueueMissing { queue: item.queue.clone() });
    };
    let name = item.queue.name.clone();
    if queue.suspended {
        return Some(Why::QueueSuspended { queue: name });
    }
    queue.held.clone().map(|gate| Why::QueueHeld { queue: name, gate })
}

fn due(item: &WaitingTask, now: Timestamp) -> Option<Why> {
    match item.not_before? {
        Ok(at) if at <= now => None,
        Ok(at) => Some(Why::NotDue { at: Some(at) }),
        Err(()) => Some(Why::NotDue { at: None }),
    }
}

fn assignment(item: &WaitingTask, world: &World) -> Option<Why> {
    if item.assigned {
        return None;
    }
    let experts = world.experts.iter().map(|e| e.view.clone()).collect();
    let queues = world.queues.iter().map(|q| q.view.clone()).collect();
    let task = Unassigned {
        id: 0,
        queue: item.queue.clone(),
        domain: item.domain.clone(),
        role: item.role.clone(),
        model: item.model.clone(),
        expert: item.expert.clone(),
    };
    let nobody = Roster::new(experts, queues).assign(&[task]).nobody.pop();
    Some(match nobody {
        Some((_, why)) => {
            Why::Nobody { why, domain: item.domain.clone(), role: item.role.clone(), queue: item.queue.clone() }
        }
        None => Why::ToBeAssigned,
    })
}

fn expert(item: &WaitingTask, world: &World) -> Option<Why> {
    let name = item.expert.clone()?;
    let in_place = |e: &&WorldExpert| e.view.namespace == item.queue.namespace && e.view.name == name;
    let Some(expert) = world.experts.iter().find(in_place) else { return Some(Why::ExpertMissing { expert: name }) };
    if expert.view.suspended {
        return Some(Why::ExpertSuspended { expert: name });
    }
    let (running, most) = (expert.running, expert.most);
    (running >= most).then_some(Why::PlacesTaken { expert: name, running, most })
}

fn backend(item: &WaitingTask, world: &World) -> Option<Why> {
    let named =
        |e: &&WorldExpert| e.view.namespace == item.queue.namespace && Some(&e.view.name) == item.expert.as_ref();
    let expert = world.experts.iter().find(named);
    let alias = item.model.clone().filter(|_| expert.is_none_or(|e| e.view.handler.calls_model()))?;
    let servers: Vec<Server> = world.backends.iter().map(|b| b.server.clone()).collect();
    let serving = route::serving(&servers, &item.queue.namespace, &alias);
    if serving.is_empty() {
        return Some(Why::NoBackend { alias });
    }
    if !route::open(&serving).is_empty() {
        return None;
    }
    let may = route::allowed(&serving);
    let state = |server: &Server| world.backends.iter().find(|b| b.server == *server);
    let others = may.len() - 1;
    // One that is up has only to end a call: that is what is waited for, rather than one that is down.
    if let Some(full) = may.iter().find(|s| s.ready && !s.is_spent()) {
        let limit = state(full).map_or(0, |b| b.limit);
        return Some(Why::SlotsFull { backend: full.name.clone(), limit, others });
    }
    if let Some((spent, calls)) = may.iter().filter(|s| s.ready).find_map(|s| Some((s, s.calls?))) {
        return Some(Why::CallsSpent { backend: spent.name.clone(), most: calls.most, others });
    }
    let down = state(may[0])?;
    Some(Why::BackendDown {
        backend: down.server.name.clone(),
        state: down.state.clone(),
        reason: down.reason.clone(),
        since: down.since,
        others,
    })
}

fn worker(item: &WaitingTask, world: &World) -> Option<Why> {
    let queue = &item.queue;
    if world.queues.iter().any(|q| q.view.key == *queue && q.view.claimed_by == ClaimedBy::Clients) {
        return Some(Why::Claimable);
    }
    let serves = |p: &&PoolState| p.namespace == queue.namespace && !p.suspended && p.queues.contains(&queue.name);
    let pools: Vec<&PoolState> = world.pools.iter().filter(serves).collect();
    let Some(first) = pools.first() else { return Some(Why::NoPool { queue: queue.name.clone() }) };
    let of = |w: &&WorkerState| !w.draining && pools.iter().any(|p| p.namespace == w.namespace && p.name == w.pool);
    let workers: Vec<&WorkerState> = world.workers.iter().filter(of).collect();
    let Some(busiest) = workers.iter().max_by_key(|w| w.in_flight) else {
        return Some(Why::NoWorker { pool: first.name.clone() });
    };
    let busy = workers.iter().all(|w| w.in_flight >= w.effective);
    let in_flight = workers.iter().map(|w| w.in_flight).sum();
    busy.then(|| Why::WorkersBusy { limited_by: busiest.limited_by.clone(), in_flight })
}

impl Why {
    /// A sentence for one task: what it waits for, and what would mend it where somebody must.
    pub fn in_words(&self) -> String {
        match self {
            Self::QueueMissing { queue } => format!("there is no TaskQueue {queue}: apply it"),
            Self::QueueSuspended { queue } => format!("queue {queue} is suspended: resume it"),
            Self::QueueHeld { queue, gate } => format!("queue {queue} is held: {gate}"),
            Self::NotDue { at: Some(at) } => format!("it is not to run before {at}"),
            Self::NotDue { at: None } => "it is to run later".into(),
            Self::Nobody { why, domain, role, queue } => why.in_words(queue, domain, role),
            Self::ToBeAssigned => "it waits for the next round of assignment".into(),
            Self::ExpertMissing { expert } => {
                format!("expert {expert} is not there: apply it, or `ostler tasks reassign`")
            }
            Self::ExpertSuspended { expert } => {
                format!("expert {expert} is suspended: resume it, or `ostler tasks reassign`")
            }
            Self::PlacesTaken { expert, running, most } => {
                format!("it waits for a place of {expert}: {running} of {most} are taken (maxConcurrentTasks)")
            }
            Self::NoBackend { alias } => {
                format!("no backend serves {alias:?}: add it to the models of an LLMBackend of this namespace")
            }
            Self::BackendDown { backend, state, reason, others, .. } => {
                let word = if state == reason { state.clone() } else { format!("{state}, {reason}") };
                format!("it waits for {backend} to come back ({word}){}", and_others(*others, "also down"))
            }
            Self::SlotsFull { backend, limit, others } => {
                format!("it waits for a slot of {backend} ({limit} at once){}", and_others(*others, "also asked"))
            }
            Self::CallsSpent { backend, most, others } => {
                let also = and_others(*others, "not to be had either");
                format!(
                    "it waits for midnight UTC: {backend} may be called {} a day (maxCallsPerDay){also}",
                    number_of(most, "time")
                )
            }
            Self::NoPool { queue } => {
                format!("no worker pool serves queue {queue}: name it in a WorkerPool's queueRefs")
            }
            Self::NoWorker { pool } => format!(
                "no worker of pool {pool} runs: in a cluster its pods are on their way, or `kubectl describe workerpool {pool}` says why \
                 not; elsewhere start `ostler worker --pool {pool}`"
            ),
            Self::WorkersBusy { limited_by, in_flight } => {
                format!(
                    "it waits for a worker: they have {} in hand, limited by {limited_by}",
                    number_of(in_flight, "task")
                )
            }
            Self::Claimable => "it waits for a client that claims it (POST /api/v1/claims)".into(),
            Self::Soon => "nothing stands in its way: a worker takes it in a moment".into(),
        }
    }
}

fn and_others(others: usize, how: &str) -> String {
    if others == 0 { String::new() } else { format!("; {others} more {how}") }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words())
    }
}

//! What many pending tasks wait for, on one line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{WaitingTask, Why, World, why};
use crate::tasks::assign::{Wanted, WhyNobody};

/// Pending tasks that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingTasks {
    pub item: WaitingTask,
    pub count: i64,
}

/// Pending tasks that wait for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub count: i64,
    /// They wait `for` this: `a slot of mlx`. Else it is a fact that stands in their way: `no expert does "legal"`.
    pub waits: bool,
    pub what: String,
}

/// Groups by what is waited for, the most first.
pub fn group(waiting: &[WaitingTasks], world: &World, now: Timestamp) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for WaitingTasks { item, count } in waiting {
        let (waits, what) = phrase(&why(item, world, now));
        match groups.iter_mut().find(|g| g.what == what && g.waits == waits) {
            Some(known) => known.count += count,
            None => groups.push(Group { count: *count, waits, what }),
        }
    }
    groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.what.cmp(&b.what)));
    groups
}

/// `380 wait for a slot of mlx · 24 for ollama to come back · 1: no expert does "legal"`.
pub fn line(groups: &[Group]) -> String {
    let mut said = false;
    let words = groups.iter().map(|group| match (group.waits, group.count) {
        (false, count) => format!("{count}: {}", group.what),
        (true, count) if said => format!("{count} for {}", group.what),
        (true, count) => {
            said = true;
            format!("{count} {} for {}", if count == 1 { "waits" } else { "wait" }, group.what)
        }
    });
    words.collect::<Vec<_>>().join(" · ")
}

/// What is waited for (true), or what stands in the way.
fn phrase(why: &Why) -> (bool, String) {
    match why {
        Why::QueueMissing { queue } => (false, format!("there is no TaskQueue {queue}")),
        Why::QueueSuspended { queue } => (false, format!("queue {queue} is suspended")),
        Why::QueueHeld { gate, .. } => (false, format!("held: {gate}")),
        Why::NotDue { .. } => (true, "their time to run".into()),
        Why::Nobody { why: WhyNobody::NoExpert { .. }, domain, role, .. } => {
            (false, Wanted { domain, role }.to_string())
        }
        Why::Nobody { why, domain, role, queue } => (false, why.in_words(queue, domain, role)),
        Why::ToBeAssigned => (true, "the next round of assignment".into()),
        Why::ExpertMissing { expert } => (false, format!("expert {expert} is not there")),
        Why::ExpertSuspended { expert } => (false, format!("expert {expert} is suspended")),
        Why::PlacesTaken { expert, .. } => (true, format!("a place of {expert}")),
        Why::NoBackend { alias } => (false, format!("no backend serves {alias:?}")),
        Why::BackendDown { backend, .. } => (true, format!("{backend} to come back")),
        Why::SlotsFull { backend, .. } => (true, format!("a slot of {backend}")),
        Why::CallsSpent { backend, .. } => (true, format!("the next day's calls of {backend}")),
        Why::NoPool { queue } => (false, format!("no worker pool serves queue {queue}")),
        Why::NoWorker { pool } => (false, format!("no worker of pool {pool} runs")),
        // Of these somebody must know: nothing that the tasks do brings them back.
        Why::WorkersBusy { limited_by, .. } if matches!(limited_by.as_str(), "Cpu" | "Memory" | "Disk") => {
            (true, format!("a worker, which {limited_by} limits"))
        }
        Why::Claimable => (true, "a client".into()),
        Why::WorkersBusy { .. } | Why::Soon => (true, "a worker".into()),
    }
}

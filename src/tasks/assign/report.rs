//! What a round of assignment did, for people.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Batch, WhyNobody};
use crate::api::ClaimedBy;
use crate::tasks::{QueueKey, TaskId, Unassigned};

/// Of a round over all pending tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssignReport {
    /// Nothing was written: this is what a round would do.
    pub dry_run: bool,
    /// All pending tasks.
    pub pending: i64,
    /// Of those, how many had nobody when the round began.
    pub unassigned: i64,
    /// How many had somebody already.
    pub already: i64,
    /// Assigned in this round, by expert.
    pub assigned: Vec<AssignedCount>,
    /// What nobody can take, the most frequent first.
    pub nobody: Vec<Nobody>,
}

/// What one expert was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssignedCount {
    pub namespace: String,
    pub expert: String,
    pub count: i64,
}

/// Tasks that nobody can take, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nobody {
    pub namespace: String,
    pub queue: String,
    pub domain: String,
    pub role: String,
    pub count: i64,
    /// For people: why, and what would mend it.
    pub why: String,
}

/// Adds batches up to a report.
#[derive(Debug, Default)]
pub struct Tally {
    assigned: BTreeMap<(String, String), i64>,
    /// By what they are and why.
    nobody: BTreeMap<(QueueKey, String, String, WhyNobody), i64>,
    pub unassigned: i64,
}

impl Tally {
    pub fn add(&mut self, tasks: &[Unassigned], batch: &Batch) {
        let by_id: std::collections::HashMap<TaskId, &Unassigned> = tasks.iter().map(|t| (t.id, t)).collect();
        self.unassigned += i64::try_from(tasks.len()).unwrap_or(i64::MAX);
        for given in &batch.assignments {
            let Some(task) = by_id.get(&given.task) else { continue };
            *self.assigned.entry((task.queue.namespace.clone(), given.expert.clone())).or_default() += 1;
        }
        for (id, why) in &batch.nobody {
            let Some(task) = by_id.get(id) else { continue };
            let what = (task.queue.clone(), task.domain.clone(), task.role.clone(), why.clone());
            *self.nobody.entry(what).or_default() += 1;
        }
    }

    /// How many were given to somebody.
    pub fn given(&self) -> i64 {
        self.assigned.values().sum()
    }

    /// How many nobody can take.
    pub fn nobody(&self) -> i64 {
        self.nobody.values().sum()
    }

    /// `pending` counts all pending tasks at the beginning of the round.
    pub fn report(self, pending: i64, dry_run: bool) -> AssignReport {
        let mut nobody: Vec<Nobody> = self
            .nobody
            .into_iter()
            .map(|((queue, domain, role, why), count)| {
                let why = why.in_words(&queue, &domain, &role);
                Nobody { namespace: queue.namespace, queue: queue.name, domain, role, count, why }
            })
            .collect();
        nobody.sort_by_key(|n| std::cmp::Reverse(n.count));
        let assigned = self
            .assigned
            .into_iter()
            .map(|((namespace, expert), count)| AssignedCount { namespace, expert, count })
            .collect();
        let already = (pending - self.unassigned).max(0);
        AssignReport { dry_run, pending, unassigned: self.unassigned, already, assigned, nobody }
    }
}

impl WhyNobody {
    /// For people: why, and what would mend it.
    pub fn in_words(&self, queue: &QueueKey, domain: &str, role: &str) -> String {
        match self {
            Self::QueueMissing => format!("there is no TaskQueue {queue}: apply it, or add such tasks to another"),
            Self::NamedMissing { expert } => {
                format!("the task names expert {expert:?}, which is not there: apply it, or `ostler tasks reassign`")
            }
            Self::NamedSuspended { expert } => {
                format!("the task names expert {expert}, which is suspended: resume it, or `ostler tasks reassign`")
            }
            Self::NoExpert { default } => {
                let default = match default {
                    None => format!("queue {} has no defaultExpertRef", queue.name),
                    Some(name) => format!("the default of queue {}, {name}, is not there", queue.name),
                };
                format!("{}, and {default}", Wanted { domain, role })
            }
            Self::AllSuspended => "every expert that could do it is suspended: resume one".into(),
            Self::NoModel { expert } => {
                format!("neither the task nor expert {expert} names a model: set spec.model of the Expert")
            }
            Self::OtherClaimer { expert, claimed_by: ClaimedBy::Clients } => format!(
                "expert {expert} is a webhook, and queue {} is claimed by clients: set its handler to External, or claimedBy to Workers",
                queue.name
            ),
            Self::OtherClaimer { expert, claimed_by: ClaimedBy::Workers } => format!(
                "expert {expert} is External, and queue {} is claimed by workers: set claimedBy of the TaskQueue to Clients",
                queue.name
            ),
        }
    }
}

/// `no expert does "legal"`.
pub(in crate::tasks) struct Wanted<'a> {
    pub domain: &'a str,
    pub role: &'a str,
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.domain, self.role) {
            ("", "") => f.write_str("it says neither domain nor role"),
            (domain, "") => write!(f, "no expert does {domain:?}"),
            ("", role) => write!(f, "no expert is {role:?}"),
            (domain, role) => write!(f, "no expert does {domain:?} or is {role:?}"),
        }
    }
}

//! Who does a task: a pure function over a batch.
//!
//! Exact domain and role, then domain, then role, then the queue's default; the least loaded of the best, by name on ties.
//! Load counts what was given before in the same round. Who is suspended, gone or in another namespace is passed over.

mod report;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use crate::api::{ClaimedBy, Handler};

use super::{Assignment, QueueKey, TaskId, Unassigned};

pub(super) use report::Wanted;
pub use report::{AssignReport, AssignedCount, Nobody, Tally};

/// At most so many candidates are kept with an assignment.
const CANDIDATES: usize = 10;

/// An expert as assignment sees one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignableExpert {
    pub namespace: String,
    pub name: String,
    pub domains: Vec<String>,
    pub roles: Vec<String>,
    /// The alias that its calls go to unless the task names one.
    pub model: Option<String>,
    pub handler: Handler,
    pub suspended: bool,
    /// Its live tasks: pending and in progress.
    pub load: i64,
}

/// A queue as assignment sees one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    pub key: QueueKey,
    pub default_expert: Option<String>,
    pub claimed_by: ClaimedBy,
}

/// Why nobody can take a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WhyNobody {
    QueueMissing,
    /// The expert that the task names is not there.
    NamedMissing {
        expert: String,
    },
    NamedSuspended {
        expert: String,
    },
    /// No expert does it, and the queue's default is suspended or missing (or there is none).
    NoExpert {
        default: Option<String>,
    },
    /// Somebody would, but they are all suspended.
    AllSuspended,
    /// Neither the task nor who could do it names a model.
    NoModel {
        expert: String,
    },
    /// Who could do it does not do tasks of a queue that is claimed so.
    OtherClaimer {
        expert: String,
        claimed_by: ClaimedBy,
    },
}

/// What came of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub assignments: Vec<Assignment>,
    pub nobody: Vec<(TaskId, WhyNobody)>,
}

/// The experts with their loads: what a round of batches starts from and goes on with.
#[derive(Debug, Default)]
pub struct Roster {
    /// In the order of their names.
    experts: Vec<AssignableExpert>,
    by_name: HashMap<String, HashMap<String, usize>>,
    by_domain: HashMap<String, HashMap<String, Vec<usize>>>,
    by_role: HashMap<String, HashMap<String, Vec<usize>>>,
    queues: HashMap<QueueKey, (Option<String>, ClaimedBy)>,
    pools: Vec<Pool>,
    /// Pools by their members, so that each set of candidates has one.
    pool_of: HashMap<Vec<usize>, usize>,
}

/// Equally good candidates, least loaded first. An entry whose load is an old one is put right when it comes up: loads only
/// rise, so whatever is on top with its load of now is the least loaded.
#[derive(Debug)]
struct Pool {
    heap: BinaryHeap<Reverse<(i64, usize)>>,
    names: Arc<[String]>,
}

/// What tasks of one kind are answered with: found once for all of them.
#[derive(Clone, Debug)]
enum Answer {
    Pool { pool: usize, reason: &'static str },
    Nobody(WhyNobody),
}

type Kind<'a> = (&'a QueueKey, &'a str, &'a str, Option<&'a str>, bool);

impl Roster {
    pub fn new(mut experts: Vec<AssignableExpert>, queues: Vec<QueueView>) -> Self {
        experts.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut roster = Self {
            queues: queues
                .into_iter()
                .map(|QueueView { key, default_expert, claimed_by }| (key, (default_expert, claimed_by)))
                .collect(),
            ..Self::default()
        };
        for (index, expert) in experts.iter().enumerate() {
            let namespace = || expert.namespace.clone();
            roster.by_name.entry(namespace()).or_default().insert(expert.name.clone(), index);
            put(roster.by_domain.entry(namespace()).or_default(), &expert.domains, index);
            put(roster.by_role.entry(namespace()).or_default(), &expert.roles, index);
        }
        roster.experts = experts;
        roster
    }

    /// Assigns a batch. What is given raises loads for the rest of it, and for batches after it.
    pub fn assign(&mut self, tasks: &[Unassigned]) -> Batch {
        let mut answers: HashMap<Kind<'_>, Answer> = HashMap::new();
        let mut batch = Batch { assignments: Vec::with_capacity(tasks.len()), nobody: Vec::new() };
        for task in tasks {
            let kind: Kind<'_> = (&task.queue, &task.domain, &task.role, task.expert.as_deref(), task.model.is_some());
            let answer = answers.entry(kind).or_insert_with(|| self.answer(task));
            match answer {
                Answer::Nobody(why) => batch.nobody.push((task.id, why.clone())),
                Answer::Pool { pool, reason } => batch.assignments.push(self.give(task, *pool, reason)),
            }
        }
        batch
    }

    fn give(&mut self, task: &Unassigned, pool: usize, reason: &'static str) -> Assignment {
        let Pool { heap, names } = &mut self.pools[pool];
        let index = loop {
            let mut top = heap.peek_mut().expect("a pool has members, and each stays in it");
            let Reverse((load, index)) = *top;
            let is = self.experts[index].load;
            if load < is {
                *top = Reverse((is, index));
                continue;
            }
            *top = Reverse((is + 1, index));
            break index;
        };
        let expert = &mut self.experts[index];
        expert.load += 1;
        let model = task.model.clone().or_else(|| expert.model.clone()).filter(|_| expert.handler.calls_model());
        Assignment { task: task.id, expert: expert.name.clone(), model, reason, candidates: names.clone() }
    }

    fn answer(&mut self, task: &Unassigned) -> Answer {
        let Some((default, claimed_by)) = self.queues.get(&task.queue).cloned() else {
            return Answer::Nobody(WhyNobody::QueueMissing);
        };
        if let Some(name) = &task.expert {
            return self.named(task, name, claimed_by);
        }
        let mut nobody = WhyNobody::NoExpert { default: default.clone() };
        for (members, reason) in self.levels(task, default.as_deref()) {
            let awake: Vec<usize> = members.iter().copied().filter(|i| !self.experts[*i].suspended).collect();
            let able: Vec<usize> =
                awake.iter().copied().filter(|i| self.unable(*i, task, claimed_by).is_none()).collect();
            if !able.is_empty() {
                return Answer::Pool { pool: self.pool(able), reason };
            }
            match (awake.first().and_then(|index| self.unable(*index, task, claimed_by)), &nobody) {
                (Some(why), _) => nobody = why,
                (None, WhyNobody::NoExpert { .. }) if !members.is_empty() => nobody = WhyNobody::AllSuspended,
                _ => {}
            }
        }
        Answer::Nobody(nobody)
    }

    fn named(&mut self, task: &Unassigned, name: &str, claimed_by: ClaimedBy) -> Answer {
        let expert = name.to_owned();
        let found = self.by_name.get(&task.queue.namespace).and_then(|names| names.get(name)).copied();
        match found {
            None => Answer::Nobody(WhyNobody::NamedMissing { expert }),
            Some(index) if self.experts[index].suspended => Answer::Nobody(WhyNobody::NamedSuspended { expert }),
            Some(index) => match self.unable(index, task, claimed_by) {
                Some(why) => Answer::Nobody(why),
                None => Answer::Pool { pool: self.pool(vec![index]), reason: "named by the task" },
            },
        }
    }

    /// Who matches, best level first. A task that leaves out its domain or role matches nobody by it.
    fn levels(&self, task: &Unassigned, default: Option<&str>) -> [(Vec<usize>, &'static str); 4] {
        let namespace = &task.queue.namespace;
        let doing = |index: &HashMap<String, HashMap<String, Vec<usize>>>, word: &str| {
            let found = index.get(namespace).and_then(|words| words.get(word)).filter(|_| !word.is_empty());
            found.cloned().unwrap_or_default()
        };
        let by_domain = doing(&self.by_domain, &task.domain);
        let by_role = doing(&self.by_role, &task.role);
        let both = by_domain.iter().copied().filter(|i| by_role.binary_search(i).is_ok()).collect();
        let default = default.and_then(|name| self.by_name.get(namespace)?.get(name)).copied();
        [
            (both, "domain and role"),
            (by_domain, "domain"),
            (by_role, "role"),
            (default.into_iter().collect(), "default of the queue"),
        ]
    }

    /// Why an expert that is awake can't do it.
    fn unable(&self, index: usize, task: &Unassigned, claimed_by: ClaimedBy) -> Option<WhyNobody> {
        let AssignableExpert { name, handler, model, .. } = &self.experts[index];
        if !handler.fits(claimed_by) {
            return Some(WhyNobody::OtherClaimer { expert: name.clone(), claimed_by });
        }
        let lacks = handler.calls_model() && model.is_none() && task.model.is_none();
        lacks.then(|| WhyNobody::NoModel { expert: name.clone() })
    }

    fn pool(&mut self, members: Vec<usize>) -> usize {
        if let Some(pool) = self.pool_of.get(&members) {
            return *pool;
        }
        let heap = members.iter().map(|i| Reverse((self.experts[*i].load, *i))).collect();
        let names = members.iter().take(CANDIDATES).map(|i| self.experts[*i].name.clone()).collect();
        self.pools.push(Pool { heap, names });
        self.pool_of.insert(members, self.pools.len() - 1);
        self.pools.len() - 1
    }
}

/// Notes who does each of these words; in the order of names, each once.
fn put(index: &mut HashMap<String, Vec<usize>>, words: &[String], expert: usize) {
    for word in words {
        let experts = index.entry(word.clone()).or_default();
        if experts.last() != Some(&expert) {
            experts.push(expert);
        }
    }
}

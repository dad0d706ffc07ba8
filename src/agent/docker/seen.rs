//! What is known of the containers that the agent may see: written by the watch, read by requests.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::{
    allow::Allow,
    facts::ContainerFacts,
    memory::{ComposeProject, ContainerRecords},
    select::{ContainerInventory, ContainerMatch},
};
use crate::{
    agent::{
        gate::Refused,
        keep::{self, StateError},
    },
    host::{
        AgentRefusal, ContainerList, ContainerReport, ContainerRuntime, ContainerSelector, ContainerState,
        ContainerStop, ContainerTarget, DependencyCondition, ServiceDependency, StoppedBy,
    },
};

/// Nothing older than this is told: the engine may hang.
const FRESH: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug)]
pub struct ContainerCache {
    allow: Allow,
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    containers: BTreeMap<String, ContainerFacts>,
    memory: ContainerRecords,
    /// The memory as it is on disk.
    written: ContainerRecords,
    /// The operation that runs or waits, by the container's name.
    operations: HashMap<String, String>,
    revision: u64,
    sight: Sight,
}

/// Whether the engine is there.
#[derive(Clone, Debug, PartialEq)]
enum Sight {
    Away { since: Timestamp, why: String, version: String },
    Here { version: String, confirmed: Timestamp },
}

impl ContainerCache {
    /// Takes up what an earlier agent remembered.
    pub fn open(allow: Allow, path: PathBuf, now: Timestamp) -> Result<Self, StateError> {
        let memory: ContainerRecords = keep::read(&path)?.unwrap_or_default();
        let inner = Inner {
            containers: BTreeMap::new(),
            written: memory.clone(),
            memory,
            operations: HashMap::new(),
            // So that no number of an earlier agent comes again.
            revision: u64::try_from(now.as_millisecond()).unwrap_or(0),
            sight: Sight::Away { since: now, why: "it has not been asked yet".to_owned(), version: String::new() },
        };
        Ok(Self { allow, path, inner: Mutex::new(inner) })
    }

    pub fn allow(&self) -> &Allow {
        &self.allow
    }

    pub fn revision(&self) -> u64 {
        self.inner.lock().revision
    }

    /// What the agent's report says of the engine.
    pub fn runtime(&self) -> ContainerRuntime {
        let name = "docker".to_owned();
        match self.inner.lock().sight.clone() {
            Sight::Here { version, .. } => ContainerRuntime { name, version, error: None },
            Sight::Away { since, why, version } => {
                ContainerRuntime { name, version, error: Some(format!("no answer since {since}: {why}")) }
            }
        }
    }

    pub fn last_event(&self) -> i64 {
        self.inner.lock().memory.last_event
    }

    /// The engine is there, and all that is known was just compared with it.
    pub fn confirm(&self, version: &str, now: Timestamp) {
        let mut inner = self.inner.lock();
        if matches!(inner.sight, Sight::Away { .. }) {
            inner.revision += 1;
        }
        inner.sight = Sight::Here { version: version.to_owned(), confirmed: now };
    }

    pub fn away(&self, why: &str, now: Timestamp) {
        let mut inner = self.inner.lock();
        if let Sight::Here { version, .. } = &inner.sight {
            inner.sight = Sight::Away { since: now, why: why.to_owned(), version: version.clone() };
            inner.revision += 1;
        } else if let Sight::Away { why: old, .. } = &mut inner.sight {
            why.clone_into(old);
        }
    }

    /// Takes in what an inspection said. Those that the file does not permit are forgotten at once.
    pub fn put(&self, facts: ContainerFacts) {
        let mut inner = self.inner.lock();
        let id = facts.report.id.clone();
        if !self.allow.permits(&facts.report.name, &facts.labels) {
            inner.drop_container(&id);
            return;
        }
        let Inner { memory, containers, .. } = &mut *inner;
        memory.learn(&facts, containers);
        inner.memory.had_all_its_memory(&facts.report);
        if inner.containers.get(&id) != Some(&facts) {
            inner.containers.insert(id, facts);
            inner.revision += 1;
        }
    }

    /// The compose service of a container that failed for good, if its file was not asked yet what it says of restarts.
    pub fn unasked(&self, facts: &ContainerFacts) -> Option<(String, String, ComposeProject)> {
        let of = facts.report.compose.as_ref().filter(|_| facts.failed_for_good() && !facts.is_oneoff())?;
        let mut inner = self.inner.lock();
        if !self.allow.permits(&facts.report.name, &facts.labels) {
            return None;
        }
        let Inner { memory, containers, .. } = &mut *inner;
        memory.learn(facts, containers);
        if memory.never_restarts(of).is_some() || memory.contradiction(facts).is_some() {
            return None;
        }
        let project = memory.projects.get(&of.project)?.clone();
        if self.allow.outside(&project.origin()).is_some() {
            return None;
        }
        Some((of.project.clone(), of.service.clone(), project))
    }

    /// Takes in what the compose file says of a service's restarts.
    pub fn learn_restart(&self, project: &str, service: &str, never: bool) {
        let mut inner = self.inner.lock();
        inner.memory.learn_restart(project, service, never);
        inner.revision += 1;
    }

    /// A container is gone.
    pub fn remove(&self, id: &str) {
        self.inner.lock().drop_container(id);
    }

    /// Only these are there; marks of others are forgotten.
    pub fn retain(&self, ids: &std::collections::BTreeSet<String>) {
        let mut inner = self.inner.lock();
        let gone: Vec<_> = inner.containers.keys().filter(|id| !ids.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| inner.drop_container(id));
        inner.memory.forget(|id| ids.contains(id));
    }

    pub fn get(&self, id: &str) -> Option<ContainerFacts> {
        self.inner.lock().containers.get(id).cloned()
    }

    pub fn ids(&self) -> Vec<String> {
        self.inner.lock().containers.keys().cloned().collect()
    }

    /// How many containers a compose service has.
    pub fn count_of(&self, project: &str, service: &str) -> usize {
        let is = |f: &&ContainerFacts| {
            f.report.compose.as_ref().is_some_and(|c| c.project == project && c.service == service)
        };
        self.inner.lock().containers.values().filter(|f| !f.is_oneoff()).filter(is).count()
    }

    /// A container ran out of memory.
    pub fn out_of_memory(&self, id: &str, at: Timestamp) {
        let mut inner = self.inner.lock();
        let marks = inner.memory.marks.entry(id.to_owned()).or_default();
        marks.oom_count += 1;
        marks.last_oom_at = Some(at);
        inner.revision += 1;
    }

    /// Whether a container that was seen to run has ended, and nobody has told yet that it was stopped.
    pub fn ended_unheard(&self, facts: &ContainerFacts) -> bool {
        let inner = self.inner.lock();
        let ran = inner.containers.get(&facts.report.id).is_some_and(ContainerFacts::runs);
        let stop = inner.memory.marks.get(&facts.report.id).and_then(|marks| marks.stop_of(&facts.report));
        ran && facts.report.state == ContainerState::Exited && stop.is_none()
    }

    /// Somebody stopped a container.
    pub fn stopped(&self, id: &str, by: StoppedBy, at: Timestamp) {
        let mut inner = self.inner.lock();
        let started = inner.containers.get(id).and_then(|facts| facts.report.started_at);
        inner.memory.marks.entry(id.to_owned()).or_default().stop(ContainerStop { by, at }, started);
        inner.revision += 1;
    }

    /// An event was taken in: it is not asked for again.
    pub fn event_done(&self, nanos: i64) {
        let mut inner = self.inner.lock();
        inner.memory.last_event = inner.memory.last_event.max(nanos);
    }

    /// The agent is about to stop a container, which has so many seconds to end. On disk when this returns; blocks.
    pub fn begin_stop(&self, id: &str, grace: u64, now: Timestamp) -> Result<(), StateError> {
        self.inner.lock().memory.stop_requests.begin(id, grace, now);
        self.save()
    }

    /// The engine has answered.
    pub fn end_stop(&self, id: &str, was_refused: bool, now: Timestamp) {
        self.inner.lock().memory.stop_requests.end(id, was_refused, now);
    }

    /// Whether the agent asked for the stop of this moment; told once.
    pub fn take_stop(&self, id: &str, at: Timestamp) -> bool {
        self.inner.lock().memory.stop_requests.take(id, at)
    }

    /// Takes in how much memory a container uses, in bytes.
    pub fn used_memory(&self, id: &str, bytes: i64) {
        let mut inner = self.inner.lock();
        if inner.containers.contains_key(id) {
            let marks = inner.memory.marks.entry(id.to_owned()).or_default();
            marks.memory_peak = Some(marks.memory_peak.map_or(bytes, |peak| peak.max(bytes)));
        }
    }

    /// What an Up found of a container's compose file.
    pub fn set_drift(&self, id: &str, drift: Option<String>) {
        let mut inner = self.inner.lock();
        let marks = inner.memory.marks.entry(id.to_owned()).or_default();
        if marks.drift != drift {
            marks.drift = drift;
            inner.revision += 1;
        }
    }

    /// Which operation of a container of this name runs or waits.
    pub fn set_operation(&self, name: &str, operation: Option<&str>) {
        let mut inner = self.inner.lock();
        match operation {
            Some(id) => inner.operations.insert(name.to_owned(), id.to_owned()),
            None => inner.operations.remove(name),
        };
        inner.revision += 1;
    }

    /// Writes down what is remembered, if it has changed. Blocks.
    pub fn save(&self) -> Result<(), StateError> {
        let memory = {
            let inner = self.inner.lock();
            if inner.memory == inner.written {
                return Ok(());
            }
            inner.memory.clone()
        };
        keep::write(&self.path, &memory)?;
        self.inner.lock().written = memory;
        Ok(())
    }

    /// How the labels of a container contradict what is known of its project.
    pub fn contradiction(&self, facts: &ContainerFacts) -> Option<String> {
        self.inner.lock().memory.contradiction(facts)
    }

    /// How compose made a project's containers.
    pub fn project(&self, name: &str) -> Option<ComposeProject> {
        self.inner.lock().memory.projects.get(name).cloned()
    }

    /// Reply to a query. Refused while the engine is away, or has not been heard for a minute.
    pub fn list(&self, selector: &ContainerSelector, now: Timestamp) -> Result<ContainerList, Refused> {
        let inner = self.inner.lock();
        let observed_at = inner.fresh(now)?;
        let selected = inner.world(&self.allow).select(selector)?;
        let mut containers: Vec<_> = selected.here.iter().map(|f| inner.report(f)).collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        containers.dedup_by(|a, b| a.id == b.id);
        Ok(ContainerList { revision: inner.revision, observed_at, containers, missing: selected.missing })
    }

    /// How one container is; `None`: it is missing. Refused while the engine is away.
    pub fn report_of(&self, target: &ContainerTarget, now: Timestamp) -> Result<Option<ContainerReport>, Refused> {
        let inner = self.inner.lock();
        let found = inner.world(&self.allow).find(target);
        // Before the engine has been heard, nobody can say what is permitted by a label.
        inner.fresh(now)?;
        Ok(match found? {
            ContainerMatch::Here(facts) => Some(inner.report(&facts)),
            ContainerMatch::Missing(_) => None,
        })
    }

    /// What a target means now. Refused while the engine is away.
    pub fn find(&self, target: &ContainerTarget, now: Timestamp) -> Result<ContainerMatch, Refused> {
        let inner = self.inner.lock();
        // What is not permitted is refused whether the engine is there or not.
        let found = inner.world(&self.allow).find(target)?;
        inner.fresh(now)?;
        Ok(found)
    }
}

impl Inner {
    fn world<'a>(&'a self, allow: &'a Allow) -> ContainerInventory<'a> {
        ContainerInventory { allow, containers: &self.containers, memory: &self.memory }
    }

    fn fresh(&self, now: Timestamp) -> Result<Timestamp, Refused> {
        let away = |why: String| Refused::new(AgentRefusal::EngineUnavailable, why);
        match &self.sight {
            Sight::Away { since, why, .. } => Err(away(format!("no answer since {since}: {why}"))),
            Sight::Here { confirmed, .. } if now.duration_since(*confirmed) > FRESH => {
                Err(away(format!("last heard at {confirmed}")))
            }
            Sight::Here { confirmed, .. } => Ok(*confirmed),
        }
    }

    fn drop_container(&mut self, id: &str) {
        if self.containers.remove(id).is_some() {
            self.revision += 1;
        }
    }

    fn report(&self, facts: &ContainerFacts) -> ContainerReport {
        let mut report = facts.report.clone();
        if let Some(marks) = self.memory.marks.get(&report.id) {
            report.stopped = marks.stop_of(&report);
            report.oom_count = marks.oom_count;
            report.last_oom_at = marks.last_oom_at;
            report.memory_peak = marks.memory_peak;
            report.drift = marks.drift.clone();
        }
        report.drift = self.memory.contradiction(facts).or(report.drift);
        report.operation = self.operations.get(&report.name).cloned();
        report.one_shot = report.compose.as_ref().is_some_and(|compose| {
            self.memory.never_restarts(compose) == Some(true) || self.is_waited_for(&compose.project, &compose.service)
        });
        report
    }

    /// Whether another service of the project waits for this one's success.
    fn is_waited_for(&self, project: &str, service: &str) -> bool {
        let waits = |dependency: &ServiceDependency| {
            dependency.service == service && dependency.condition == DependencyCondition::Completed
        };
        let in_project =
            |facts: &&ContainerFacts| facts.report.compose.as_ref().is_some_and(|of| of.project == project);
        self.containers.values().filter(in_project).any(|facts| facts.report.depends_on.iter().any(waits))
    }
}

#[cfg(test)]
mod tests;

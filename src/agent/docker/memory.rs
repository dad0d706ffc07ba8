//! What is remembered across restarts of the agent and of the engine: marks on containers, and how compose made them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::facts::{Facts, folder, label};
use crate::host::{ComposeIdentity, ContainerReport, Stopped};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The last event that was taken in, in nanoseconds of the epoch.
    pub last_event: i64,
    /// By the container's id.
    pub marks: BTreeMap<String, Marks>,
    /// By the compose project's name.
    pub projects: BTreeMap<String, Project>,
}

/// What events told of a container, and its peak of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Marks {
    pub stopped: Option<Stopped>,
    pub oom_count: u64,
    pub last_oom_at: Option<Timestamp>,
    /// In bytes.
    pub memory_peak: Option<i64>,
    /// How its compose file differs from what it was made from.
    pub drift: Option<String>,
}

/// How compose was called when it made a project's containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Project {
    pub directory: String,
    pub files: Vec<String>,
    pub env_files: Vec<String>,
    pub services: BTreeMap<String, Service>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Compose's digest of the service's configuration when its container was made.
    pub hash: String,
    pub image: String,
    /// The names of its containers: one of these that is missing is this service's.
    pub names: BTreeSet<String>,
    /// What its compose file says of restarts; absent: it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
}

/// What a compose file says of a service's restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// Of the container's configuration when the file was asked.
    pub hash: String,
    /// `no` in so many words: nothing is to start it again.
    pub never: bool,
}

/// How much later than a run's end its stop may be told.
const LATE: SignedDuration = SignedDuration::from_secs(2);

/// Within what time stops are told of the same end.
const SAME_END: SignedDuration = SignedDuration::from_secs(5);

impl Marks {
    /// Takes in a stop. Where two ask for it at once, such as an agent that died and the next one, the engine tells of two
    /// stops when the run ends: the first one counts. Where nobody knows when it was started, the later one does.
    pub fn stop(&mut self, new: Stopped, started: Option<Timestamp>) {
        let same_end = self.stopped.as_ref().is_some_and(|old| {
            new.at.duration_since(old.at).abs() <= SAME_END && started.is_some_and(|started| started <= old.at)
        });
        if !same_end {
            self.stopped = Some(new);
        }
    }

    /// The stop that ended the last run, if it was one: a mark of an earlier run says nothing of this.
    pub fn stop_of(&self, report: &ContainerReport) -> Option<Stopped> {
        let stopped = self.stopped.as_ref()?;
        let ended = report.finished_at?;
        let of_this_run = report.started_at.is_none_or(|started| started < stopped.at) && ended <= stopped.at + LATE;
        of_this_run.then(|| stopped.clone())
    }
}

impl Memory {
    /// Remembers how a container came to be, so that a missing one can be brought up as it was.
    pub fn learn(&mut self, facts: &Facts) {
        let Some(compose) = facts.report.compose.as_ref().filter(|_| !facts.is_oneoff()) else { return };
        let list = |name: &str| -> Vec<String> {
            facts.label(name).map(|v| v.split(',').map(str::to_owned).collect()).unwrap_or_default()
        };
        let project = self.projects.entry(compose.project.clone()).or_default();
        project.directory = compose.project_directory.clone();
        project.files = list(label::FILES);
        project.env_files = list(label::ENV_FILES);
        let service = project.services.entry(compose.service.clone()).or_default();
        service.hash = facts.label(label::HASH).unwrap_or_default().to_owned();
        service.restart = service.restart.take().filter(|known| known.hash == service.hash);
        service.image = facts.report.image.clone();
        service.names.insert(facts.report.name.clone());
    }

    /// Takes in what a service's compose file says of restarts.
    pub fn learn_restart(&mut self, project: &str, service: &str, never: bool) {
        let known = self.projects.get_mut(project).and_then(|project| project.services.get_mut(service));
        if let Some(known) = known {
            known.restart = Some(Restart { hash: known.hash.clone(), never });
        }
    }

    /// Whether the compose file of a container was asked, and says that nothing is to start it again.
    pub fn never_restarts(&self, compose: &ComposeIdentity) -> Option<bool> {
        let service = self.projects.get(&compose.project)?.services.get(&compose.service)?;
        service.restart.as_ref().map(|restart| restart.never)
    }

    /// What ran out of memory before anybody could look at it had used all that it may.
    pub fn had_all_its_memory(&mut self, report: &ContainerReport) {
        if let Some(marks) = self.marks.get_mut(&report.id)
            && marks.oom_count > 0
            && marks.memory_peak.is_none()
        {
            marks.memory_peak = report.memory_limit;
        }
    }

    /// The project and service that a container of this name belonged to.
    pub fn service_of(&self, name: &str) -> Option<(&str, &str)> {
        self.projects.iter().find_map(|(project, known)| {
            let (service, _) = known.services.iter().find(|(_, s)| s.names.contains(name))?;
            Some((project.as_str(), service.as_str()))
        })
    }

    /// Names that containers of these projects had.
    pub fn names_of(&self, wanted: impl Fn(&str) -> bool) -> HashSet<&str> {
        let projects = self.projects.iter().filter(|(name, _)| wanted(name));
        projects.flat_map(|(_, p)| p.services.values()).flat_map(|s| &s.names).map(String::as_str).collect()
    }

    /// Projects of a folder, which is written as the labels have it.
    pub fn projects_in<'a>(&'a self, directory: &str) -> impl Iterator<Item = (&'a str, &'a Project)> + use<'a> {
        let directory = folder(directory).to_owned();
        self.projects.iter().filter(move |(_, p)| p.directory == directory).map(|(name, p)| (name.as_str(), p))
    }

    /// Forgets marks of containers that are gone.
    pub fn forget(&mut self, is_there: impl Fn(&str) -> bool) {
        self.marks.retain(|id, _| is_there(id));
    }
}

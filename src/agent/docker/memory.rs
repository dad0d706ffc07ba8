//! What is remembered across restarts of the agent and of the engine: marks on containers, and how compose made them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    facts::{ComposeFiles, ContainerFacts, folder, label},
    stops::StopRequests,
};
use crate::host::{ComposeIdentity, ContainerReport, ContainerStop};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerRecords {
    /// The last event that was taken in, in nanoseconds of the epoch.
    pub last_event: i64,
    /// By the container's id.
    pub marks: BTreeMap<String, ContainerMarks>,
    pub stop_requests: StopRequests,
    /// By the compose project's name.
    pub projects: BTreeMap<String, ComposeProject>,
}

/// What events told of a container, and its peak of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerMarks {
    pub stopped: Option<ContainerStop>,
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
pub struct ComposeProject {
    pub directory: String,
    pub files: Vec<String>,
    pub env_files: Vec<String>,
    pub services: BTreeMap<String, ComposeServiceRecord>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComposeServiceRecord {
    /// Compose's digest of the service's configuration when its container was made.
    pub hash: String,
    pub image: String,
    /// The names of its containers: one of these that is missing is this service's.
    pub names: BTreeSet<String>,
    /// What its compose file says of restarts; absent: it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<ComposeRestart>,
}

/// What a compose file says of a service's restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComposeRestart {
    /// Of the container's configuration when the file was asked.
    pub hash: String,
    /// `no` in so many words: nothing is to start it again.
    pub never: bool,
}

impl ComposeProject {
    pub fn origin(&self) -> ComposeFiles {
        ComposeFiles { directory: self.directory.clone(), files: self.files.clone(), env_files: self.env_files.clone() }
    }
}

fn identity(facts: &ContainerFacts) -> Option<(&ComposeIdentity, ComposeFiles)> {
    let compose = facts.report.compose.as_ref().filter(|_| !facts.is_oneoff())?;
    Some((compose, ComposeFiles::of(&facts.labels)?))
}

fn project_of(facts: &ContainerFacts) -> Option<&str> {
    facts.report.compose.as_ref().map(|compose| compose.project.as_str())
}

/// How much later than a run's end its stop may be told.
const LATE: SignedDuration = SignedDuration::from_secs(2);

/// Within what time stops are told of the same end.
const SAME_END: SignedDuration = SignedDuration::from_secs(5);

impl ContainerMarks {
    /// Takes in a stop. Where two ask for it at once, such as an agent that died and the next one, the engine tells of two
    /// stops when the run ends: the first one counts. Where nobody knows when it was started, the later one does.
    pub fn stop(&mut self, new: ContainerStop, started: Option<Timestamp>) {
        let same_end = self.stopped.as_ref().is_some_and(|old| {
            new.at.duration_since(old.at).abs() <= SAME_END && started.is_some_and(|started| started <= old.at)
        });
        if !same_end {
            self.stopped = Some(new);
        }
    }

    /// The stop that ended the last run, if it was one: a mark of an earlier run says nothing of this.
    pub fn stop_of(&self, report: &ContainerReport) -> Option<ContainerStop> {
        let stopped = self.stopped.as_ref()?;
        let ended = report.finished_at?;
        let of_this_run = report.started_at.is_none_or(|started| started < stopped.at) && ended <= stopped.at + LATE;
        of_this_run.then(|| stopped.clone())
    }
}

impl ContainerRecords {
    /// Remembers how a container came to be, so that a missing one can be brought up as it was. What is known of a project is not
    /// changed by a container that says otherwise, as long as one of those is there that it was learned from. `others` are all
    /// that are there now.
    pub fn learn(&mut self, facts: &ContainerFacts, others: &BTreeMap<String, ContainerFacts>) {
        let Some((compose, origin)) = identity(facts) else { return };
        let same_project =
            |other: &&ContainerFacts| other.report.id != facts.report.id && project_of(other) == project_of(facts);
        let known = self.projects.get(&compose.project).map(ComposeProject::origin);
        if known.as_ref().is_some_and(|known| {
            *known != origin
                && others.values().filter(same_project).any(|o| ComposeFiles::of(&o.labels).as_ref() == Some(known))
        }) {
            return;
        }
        let project = self.projects.entry(compose.project.clone()).or_default();
        if known.is_some_and(|known| known != origin) {
            tracing::warn!(
                project = compose.project,
                files = origin.files.join(","),
                "compose project is made from other files by now"
            );
        }
        (project.directory, project.files, project.env_files) = (origin.directory, origin.files, origin.env_files);
        let Some(hash) = facts.label(label::HASH) else { return };
        let service = project.services.entry(compose.service.clone()).or_default();
        let (name, is_other) = (&facts.report.name, !service.hash.is_empty() && service.hash != hash);
        let there = |known: &String| others.values().any(|other| other.report.name == *known);
        if is_other && !service.names.contains(name) && service.names.iter().any(there) {
            return;
        }
        service.hash = hash.to_owned();
        service.restart = service.restart.take().filter(|known| known.hash == service.hash);
        service.image = facts.report.image.clone();
        service.names.insert(name.clone());
    }

    /// How the labels of a container contradict what is known of its project: then it is none of that project's.
    pub fn contradiction(&self, facts: &ContainerFacts) -> Option<String> {
        let (compose, origin) = identity(facts)?;
        let known = self.projects.get(&compose.project)?;
        (known.origin() != origin).then(|| {
            format!(
                "its labels name {} as the files of compose project {}, which was made from {}: it does not count as one of its",
                origin.files.join(", "),
                compose.project,
                known.files.join(", ")
            )
        })
    }

    /// Takes in what a service's compose file says of restarts.
    pub fn learn_restart(&mut self, project: &str, service: &str, never: bool) {
        let known = self.projects.get_mut(project).and_then(|project| project.services.get_mut(service));
        if let Some(known) = known {
            known.restart = Some(ComposeRestart { hash: known.hash.clone(), never });
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
    pub fn projects_in<'a>(&'a self, directory: &str) -> impl Iterator<Item = (&'a str, &'a ComposeProject)> + use<'a> {
        let directory = folder(directory).to_owned();
        self.projects.iter().filter(move |(_, p)| p.directory == directory).map(|(name, p)| (name.as_str(), p))
    }

    /// Forgets marks of containers that are gone.
    pub fn forget(&mut self, is_there: impl Fn(&str) -> bool) {
        self.marks.retain(|id, _| is_there(id));
        self.stop_requests.retain(is_there);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::docker::facts::tests::inspection;

    fn facts(id: &str, service: &str, changes: &[(&str, &str)]) -> ContainerFacts {
        let mut seen = inspection(id, service, json!({"Status": "running"}));
        let labels = seen.config.as_mut().and_then(|config| config.labels.as_mut()).unwrap();
        for (name, value) in changes {
            labels.insert((*name).to_owned(), (*value).to_owned());
        }
        ContainerFacts::read(seen).unwrap()
    }

    fn there(all: &[&ContainerFacts]) -> BTreeMap<String, ContainerFacts> {
        all.iter().map(|facts| (facts.report.id.clone(), (*facts).clone())).collect()
    }

    #[test]
    fn a_container_does_not_change_the_files_of_a_project_that_is_there() {
        let db = facts("a1", "db", &[]);
        let evil = facts("e1", "db", &[(label::FILES, "/tmp/evil.yaml"), (label::DIRECTORY, "/tmp")]);
        let secret = facts("e2", "db", &[(label::ENV_FILES, "/etc/shadow")]);
        let mut memory = ContainerRecords::default();
        memory.learn(&db, &there(&[]));
        let known = memory.projects.clone();
        for other in [&evil, &secret] {
            memory.learn(other, &there(&[&db, other]));
            assert_eq!(memory.projects, known);
            assert!(memory.contradiction(other).is_some_and(|why| why.contains("/srv/knowledge/compose.yaml")));
        }
        assert_eq!(memory.contradiction(&db), None);
        // All of it was made anew from other files.
        memory.learn(&evil, &there(&[&evil]));
        assert_eq!(memory.projects["knowledge"].files, ["/tmp/evil.yaml"]);
        assert!(memory.contradiction(&db).is_some());
    }

    #[test]
    fn a_container_of_another_name_does_not_change_a_service_that_is_there() {
        let db = facts("a1", "db", &[]);
        let mut other = facts("e1", "db", &[(label::HASH, "h2")]);
        other.report.name = "other".into();
        let mut memory = ContainerRecords::default();
        memory.learn(&db, &there(&[]));
        memory.learn(&other, &there(&[&db, &other]));
        let service = |memory: &ContainerRecords| memory.projects["knowledge"].services["db"].clone();
        assert_eq!((service(&memory).hash.as_str(), service(&memory).names.len()), ("h1", 1));
        // Compose makes it anew under its own name, or under a new one once the old one is gone.
        memory.learn(&facts("a2", "db", &[(label::HASH, "h3")]), &there(&[&db]));
        assert_eq!(service(&memory).hash, "h3");
        memory.learn(&other, &there(&[&other]));
        assert_eq!(service(&memory).hash, "h2");
    }
}

//! Which containers the agent's file permits: pure. Everything else does not exist for callers.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::label;
use crate::{agent::gate::Refused, api::AgentDockerAllow, host::Refusal};

/// The longest name that an engine takes.
const LONGEST_NAME: usize = 255;

#[derive(Clone, Debug, Default)]
pub struct Allow {
    projects: BTreeSet<String>,
    names: BTreeSet<String>,
    labels: BTreeMap<String, String>,
    /// Whether commands may be run in them.
    pub exec: bool,
}

impl From<&AgentDockerAllow> for Allow {
    fn from(allow: &AgentDockerAllow) -> Self {
        Self {
            projects: allow.compose_projects.iter().cloned().collect(),
            names: allow.names.iter().cloned().collect(),
            labels: allow.labels.clone(),
            exec: allow.exec,
        }
    }
}

impl Allow {
    pub fn permits(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.permits_name(name)
            || labels.get(label::PROJECT).is_some_and(|project| self.permits_project(project))
            || (!self.labels.is_empty() && self.labels.iter().all(|(k, v)| labels.get(k) == Some(v)))
    }

    pub fn permits_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub fn permits_project(&self, project: &str) -> bool {
        self.projects.contains(project)
    }

    /// What to say to somebody who asks for another one.
    pub fn refuse(&self, what: &str) -> Refused {
        let what: String = what.chars().take(LONGEST_NAME).collect();
        Refused::new(
            Refusal::ContainerNotAllowed,
            format!("the agent's file permits no container {what:?} (spec.docker.allow)"),
        )
    }
}

/// Whether a text can be a container's name, as engines have it: nothing that could be a path, an option or a query.
pub fn is_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=LONGEST_NAME).contains(&text.len()) && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(word)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn permitting(project: &str, name: &str) -> Allow {
        let (projects, names) = (BTreeSet::from([project.to_owned()]), BTreeSet::from([name.to_owned()]));
        Allow { projects, names, ..Allow::default() }
    }

    fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_container_is_permitted_by_project_name_or_all_labels() {
        let allow = Allow { labels: labels(&[("team", "a"), ("tier", "web")]), ..permitting("knowledge", "proxy") };
        for (name, given, permitted) in [
            ("x", labels(&[(label::PROJECT, "knowledge")]), true),
            ("x", labels(&[(label::PROJECT, "knowledge2")]), false),
            ("proxy", labels(&[]), true),
            ("proxy2", labels(&[]), false),
            ("x", labels(&[("team", "a"), ("tier", "web"), ("more", "1")]), true),
            ("x", labels(&[("team", "a")]), false),
        ] {
            assert_eq!(allow.permits(name, &given), permitted, "{name} {given:?}");
        }
        assert!(!Allow::default().permits("x", &labels(&[])), "no labels are no permission");
    }

    #[test]
    fn a_name_is_nothing_but_a_name() {
        for (text, is) in [
            ("knowledge-nightly-1", true),
            ("a.b_c", true),
            ("", false),
            ("/proxy", false),
            ("../images/json", false),
            ("x?force=1", false),
            ("x/../y", false),
            ("-f", false),
            ("a b", false),
            ("proxy\n", false),
            (&"x".repeat(256), false),
        ] {
            assert_eq!(is_name(text), is, "{text:?}");
        }
    }
}

//! Which containers the agent's file permits: pure. Everything else does not exist for callers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::facts::{ComposeFiles, label};
use crate::{agent::gate::Refused, api::AgentDocker, host::AgentRefusal};

/// The longest name that an engine takes.
const LONGEST_NAME: usize = 255;

#[derive(Clone, Debug, Default)]
pub struct Allow {
    projects: BTreeSet<String>,
    names: BTreeSet<String>,
    labels: BTreeMap<String, String>,
    /// Whether commands may be run in them.
    pub exec: bool,
    /// Within which compose's files must lie.
    folders: Vec<PathBuf>,
}

impl Allow {
    /// Relative folders start at `base_dir`.
    pub fn of(spec: &AgentDocker, base_dir: &Path) -> Self {
        let allow = &spec.allow;
        Self {
            folders: spec.compose_folders.iter().map(|folder| base_dir.join(folder)).collect(),
            projects: allow.compose_projects.iter().cloned().collect(),
            names: allow.names.iter().cloned().collect(),
            labels: allow.labels.clone(),
            exec: allow.exec,
        }
    }

    /// Why compose may not be run for a project.
    pub fn outside(&self, origin: &ComposeFiles) -> Option<String> {
        let out = origin.paths().find(|path| !self.folders.iter().any(|folder| Path::new(path).starts_with(folder)))?;
        Some(format!(
            "{out} lies in none of the folders that the agent's file lists: add its folder to spec.docker.composeFolders"
        ))
    }

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
            AgentRefusal::ContainerNotAllowed,
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
    fn compose_is_run_within_the_listed_folders_alone() {
        let origin = |directory: &str, file: &str, env: &[&str]| ComposeFiles {
            directory: directory.into(),
            files: vec![file.into()],
            env_files: env.iter().map(|path| (*path).to_owned()).collect(),
        };
        let spec =
            AgentDocker { compose_folders: vec!["/srv/knowledge".into(), "here".into()], ..AgentDocker::default() };
        let allow = Allow::of(&spec, Path::new("/etc/ostler"));
        let file = "/srv/knowledge/compose.yaml";
        for (origin, inside) in [
            (origin("/srv/knowledge", file, &[]), true),
            (origin("/srv/knowledge/sub", file, &["/srv/knowledge/.env"]), true),
            (origin("/etc/ostler/here", "/etc/ostler/here/c.yaml", &[]), true),
            (origin("/srv/knowledge2", file, &[]), false),
            (origin("/srv/knowledge", "/tmp/c.yaml", &[]), false),
            (origin("/srv/knowledge", file, &["/etc/shadow"]), false),
            (origin("/", file, &[]), false),
        ] {
            assert_eq!(allow.outside(&origin).is_none(), inside, "{origin:?}");
        }
        assert!(Allow::default().outside(&origin("/srv/knowledge", file, &[])).is_some(), "none is listed");
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

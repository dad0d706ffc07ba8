//! What comes before what: services of a compose project, and checks that depend on each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    api::ContainerWord,
    host::{DependencyCondition, ServiceDependency},
};

use super::{
    super::{
        container::{ContainerLife, ProbeHealth},
        judge::Need,
    },
    ContainerAssessment,
};

/// Holds back what would be started before the services of its project that it depends on, as compose itself would.
pub fn order(entries: &mut [ContainerAssessment]) {
    let awaits: Vec<Option<String>> = entries
        .iter()
        .map(|entry| {
            let mut dependencies = entry.container.depends_on.iter().filter(|_| entry.verdict.need == Need::Up);
            let unmet = dependencies.find(|dependency| entries.iter().any(|other| is_unmet(dependency, other)));
            unmet.map(|dependency| dependency.service.clone())
        })
        .collect();
    for (entry, awaits) in entries.iter_mut().zip(awaits) {
        if let Some(service) = &awaits {
            entry.verdict.message = format!("{}; it waits for {service}, which it depends on", entry.verdict.message);
        }
        entry.awaits = awaits;
    }
}

/// Whether this container is the one that is depended on, and is not as it must be.
fn is_unmet(dependency: &ServiceDependency, other: &ContainerAssessment) -> bool {
    let container = &other.container;
    container.name == dependency.service
        && match dependency.condition {
            DependencyCondition::Completed => other.verdict.word != ContainerWord::Completed,
            DependencyCondition::Healthy => {
                container.life != ContainerLife::Running
                    || matches!(container.health, ProbeHealth::Starting | ProbeHealth::Failing(_))
            }
            DependencyCondition::Started => {
                let ran = [ContainerWord::Completed, ContainerWord::Failed].contains(&other.verdict.word);
                container.life != ContainerLife::Running && !ran
            }
        }
}

/// The way from `start` back to it, if there is one: each check with those that it depends on.
pub fn cycle<'a>(start: &'a str, edges: &'a BTreeMap<String, Vec<String>>) -> Option<Vec<&'a str>> {
    let mut way = vec![start];
    let mut known = BTreeSet::new();
    find(start, start, edges, &mut way, &mut known).then_some(way)
}

fn find<'a>(
    start: &str,
    at: &str,
    edges: &'a BTreeMap<String, Vec<String>>,
    way: &mut Vec<&'a str>,
    known: &mut BTreeSet<&'a str>,
) -> bool {
    for next in edges.get(at).into_iter().flatten() {
        if next == start {
            way.push(next);
            return true;
        }
        if known.insert(next) {
            way.push(next);
            if find(start, next, edges, way, known) {
                return true;
            }
            way.pop();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_back_is_found_and_one_that_only_passes_by_is_not() {
        let edges = |all: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
            all.iter().map(|(from, to)| ((*from).to_owned(), to.iter().map(|t| (*t).to_owned()).collect())).collect()
        };
        for (all, expected) in [
            (edges(&[("a", &["a"])]), Some(vec!["a", "a"])),
            (edges(&[("a", &["x", "b"]), ("b", &["c"]), ("c", &["a"])]), Some(vec!["a", "b", "c", "a"])),
            (edges(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]), None),
            (edges(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"])]), None),
            (edges(&[]), None),
        ] {
            assert_eq!(cycle("a", &all), expected, "{all:?}");
        }
    }
}

//! What goes wrong now between the controller and the API server.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    api::Kind,
    platform::{PlatformError, PlatformProblem, Unreadable},
};

/// What goes wrong now.
#[derive(Clone, Default)]
pub struct Failing(Arc<Mutex<Wrong>>);

#[derive(Default)]
struct Wrong {
    /// By what is watched.
    watches: BTreeMap<String, WatchFailure>,
    /// Objects that can't be decoded, by kind.
    undecodable: BTreeMap<Kind, Vec<PlatformProblem>>,
    /// Kinds whose status the API server refuses, and how it says so.
    statuses: BTreeMap<String, String>,
}

/// How a watch fails.
#[derive(Clone, Debug)]
pub struct WatchFailure {
    pub kind: String,
    /// Empty: all.
    pub namespace: String,
    pub why: String,
    /// It was never listed.
    pub unknown: bool,
    /// The namespace does not exist.
    pub gone: bool,
}

impl Failing {
    /// What a person should mend. Of a namespace that fails for one reason in all kinds, one line is enough.
    pub fn problems(&self) -> Vec<PlatformProblem> {
        let wrong = self.0.lock();
        let mut gone: Vec<&str> = Vec::new();
        let mut all = Vec::new();
        for (what, failure) in &wrong.watches {
            if !failure.gone {
                all.push(PlatformProblem::error(format!("can't watch {what}: {}", failure.why)));
            } else if !gone.contains(&failure.namespace.as_str()) {
                gone.push(&failure.namespace);
                all.push(PlatformProblem::error(failure.why.clone()));
            }
        }
        let statuses =
            wrong.statuses.iter().map(|(kind, why)| PlatformProblem::error(format!("status of {kind}: {why}")));
        all.extend(statuses.chain(wrong.undecodable.values().flatten().cloned()));
        all
    }

    /// Namespaces in which objects of a kind can't be read now.
    pub fn unreadable(&self, kind: Kind) -> BTreeMap<String, Unreadable> {
        let wrong = self.0.lock();
        let of_kind = wrong.watches.values().filter(|failure| failure.kind == kind.as_str());
        of_kind
            .map(|failure| {
                let WatchFailure { namespace, why, unknown, .. } = failure.clone();
                (namespace, Unreadable { why, unknown })
            })
            .collect()
    }

    pub fn undecodable(&self, kind: Kind, problems: Vec<PlatformProblem>) {
        self.0.lock().undecodable.insert(kind, problems);
    }

    pub fn failed(&self, what: &str, failure: WatchFailure) {
        self.0.lock().watches.insert(what.to_owned(), failure);
    }

    pub fn mended(&self, what: &str) {
        self.0.lock().watches.remove(what);
    }

    /// How a write of a status ended. One that was overtaken says nothing about the kind.
    pub fn status_written(&self, kind: &str, result: &Result<(), PlatformError>) {
        let mut wrong = self.0.lock();
        match result {
            Ok(()) => drop(wrong.statuses.remove(kind)),
            Err(PlatformError::OlderSchema { .. } | PlatformError::Invalid(_)) => {
                let why = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
                wrong.statuses.insert(kind.to_owned(), why);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: &str, namespace: &str, gone: bool) -> WatchFailure {
        WatchFailure {
            kind: kind.into(),
            namespace: namespace.into(),
            why: format!("no {namespace}"),
            unknown: true,
            gone,
        }
    }

    #[test]
    fn a_namespace_that_is_gone_is_told_once_and_each_that_is_refused_by_kind() {
        let failing = Failing::default();
        for kind in ["Expert", "TaskQueue"] {
            failing.failed(&format!("{kind} in a"), failure(kind, "a", true));
            failing.failed(&format!("{kind} in b"), failure(kind, "b", false));
        }
        let said: Vec<String> = failing.problems().iter().map(ToString::to_string).collect();
        assert_eq!(said, ["no a", "can't watch Expert in b: no b", "can't watch TaskQueue in b: no b"]);
        assert_eq!(failing.unreadable(Kind::Expert).into_keys().collect::<Vec<_>>(), ["a", "b"]);
        failing.mended("Expert in a");
        assert_eq!(failing.unreadable(Kind::Expert).into_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_status_that_is_refused_is_a_problem_until_one_of_its_kind_is_written() {
        let failing = Failing::default();
        let older = PlatformError::OlderSchema { attempt: "Expert a/b".into(), said: ".status.x: no".into() };
        failing.status_written("Expert", &Err(older));
        failing.status_written("Expert", &Err(PlatformError::Conflict("Expert a/b".into())));
        let said = failing.problems()[0].to_string();
        assert!(said.contains("older than this controller") && said.contains(".status.x: no"), "{said}");
        failing.status_written("Expert", &Ok(()));
        assert_eq!(failing.problems(), []);
    }
}

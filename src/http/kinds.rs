//! The kinds that can be asked for, by any of the names that kubectl takes.

use kube::core::Resource;

use crate::api::{HostAgent, LLMBackend, TaskQueue};

/// A kind and its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `LLMBackend`
    pub kind: &'static str,
    /// `llmbackends`
    pub plural: &'static str,
    /// `llm`
    pub short: &'static str,
}

/// Every kind.
pub const KINDS: [Kind; 7] = [
    Kind { kind: "LLMBackend", plural: "llmbackends", short: "llm" },
    Kind { kind: "HostAgent", plural: "hostagents", short: "ha" },
    Kind { kind: "Expert", plural: "experts", short: "exp" },
    Kind { kind: "TaskQueue", plural: "taskqueues", short: "tq" },
    Kind { kind: "WorkerPool", plural: "workerpools", short: "wp" },
    Kind { kind: "TaskSchedule", plural: "taskschedules", short: "ts" },
    Kind { kind: "ContainerHealthCheck", plural: "containerhealthchecks", short: "chc" },
];

impl Kind {
    /// By kind, plural, singular or short name, however capitalized.
    pub fn find(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        KINDS.into_iter().find(|k| name == k.plural || name == k.short || name == k.kind.to_ascii_lowercase())
    }

    /// `llmbackend`, as kubectl prints `KIND/NAME`.
    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }
}

/// Plural of the backends, for access rules.
pub(super) fn backends() -> String {
    LLMBackend::plural(&()).into_owned()
}

/// Plural of the agents, for access rules.
pub(super) fn agents() -> String {
    HostAgent::plural(&()).into_owned()
}

/// Plural of the queues, for access rules.
pub(super) fn queues() -> String {
    TaskQueue::plural(&()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_each_of_its_names() {
        for name in ["LLMBackend", "llmbackend", "llmbackends", "llm", "LLM"] {
            assert_eq!(Kind::find(name).map(|k| k.kind), Some("LLMBackend"), "{name}");
        }
        assert_eq!(Kind::find("ha").map(|k| k.kind), Some("HostAgent"));
        assert_eq!(Kind::find("pods"), None);
    }

    #[test]
    fn the_names_are_those_of_the_definitions() {
        for crd in crate::api::crds() {
            let names = &crd.spec.names;
            let kind = KINDS.iter().find(|k| k.kind == names.kind).expect("every kind can be asked for");
            assert_eq!(kind.plural, names.plural);
            assert_eq!(names.short_names.as_deref(), Some([kind.short.to_owned()].as_slice()));
        }
        assert_eq!((backends().as_str(), agents().as_str()), ("llmbackends", "hostagents"));
    }
}

//! The kinds, and how an object of one is named.

use kube::core::{ApiResource, GroupVersionKind};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::{GROUP, VERSION};

/// A kind of resource. AgentConfig is none: the agent's own file is never in a cluster.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Display, EnumString, IntoStaticStr, VariantArray,
)]
pub enum Kind {
    LLMBackend,
    HostAgent,
    Expert,
    TaskQueue,
    WorkerPool,
    TaskSchedule,
    ContainerHealthCheck,
    Caller,
    Notifier,
}

impl Kind {
    pub const ALL: &[Self] = <Self as VariantArray>::VARIANTS;

    /// `LLMBackend`
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// `llmbackends`
    pub fn plural(self) -> &'static str {
        self.names().0
    }

    /// `llm`
    pub fn short(self) -> &'static str {
        self.names().1
    }

    /// `llmbackend`, as kubectl prints `KIND/NAME`.
    pub fn singular(self) -> String {
        self.as_str().to_ascii_lowercase()
    }

    /// By kind, plural, singular or short name, however capitalized.
    pub fn find(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|k| name == k.plural() || name == k.short() || name == k.singular())
    }

    /// Where the API server serves it.
    pub fn api_resource(self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, self.as_str()), self.plural())
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::LLMBackend => ("llmbackends", "llm"),
            Self::HostAgent => ("hostagents", "ha"),
            Self::Expert => ("experts", "exp"),
            Self::TaskQueue => ("taskqueues", "tq"),
            Self::WorkerPool => ("workerpools", "wp"),
            Self::TaskSchedule => ("taskschedules", "ts"),
            Self::ContainerHealthCheck => ("containerhealthchecks", "chc"),
            Self::Caller => ("callers", "cl"),
            Self::Notifier => ("notifiers", "nt"),
        }
    }

    /// What a person types against a reason that the controllers cannot heal and whose message does not say it.
    pub fn remedy(self, namespace: &str, name: &str, reason: &str) -> Option<String> {
        if self != Self::LLMBackend || !matches!(reason, "DeferredToHuman" | "Storm" | "AgentUnreachable") {
            return None;
        }
        let namespace = if namespace == "default" { String::new() } else { format!(" -n {namespace}") };
        Some(format!("`ostler reconcile llm/{name}{namespace}` tries again at once"))
    }
}

/// A resource by kind, namespace and name. Its kind may be one of a cluster's own, such as Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// `LLMBackend`, `HostAgent`, ...
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(kind: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.as_str().to_owned()
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_each_of_its_names() {
        for name in ["LLMBackend", "llmbackend", "llmbackends", "llm", "LLM"] {
            assert_eq!(Kind::find(name), Some(Kind::LLMBackend), "{name}");
        }
        assert_eq!(Kind::find("ha"), Some(Kind::HostAgent));
        assert_eq!(Kind::find("pods"), None);
    }

    #[test]
    fn the_names_are_those_of_the_definitions() {
        let crds = crate::api::crds();
        assert_eq!(crds.len(), Kind::ALL.len());
        for crd in crds {
            let names = &crd.spec.names;
            let kind: Kind = names.kind.parse().expect("every kind can be asked for");
            assert_eq!(kind.plural(), names.plural);
            assert_eq!(names.short_names.as_deref(), Some([kind.short().to_owned()].as_slice()));
        }
    }

    #[test]
    fn what_was_given_up_is_begun_again_by_a_command() {
        let told = |namespace, reason| Kind::LLMBackend.remedy(namespace, "mlx", reason);
        assert_eq!(
            told("default", "DeferredToHuman").as_deref(),
            Some("`ostler reconcile llm/mlx` tries again at once")
        );
        assert_eq!(told("team", "Storm").as_deref(), Some("`ostler reconcile llm/mlx -n team` tries again at once"));
        assert_eq!(told("team", "ModelsMissing"), None);
    }
}

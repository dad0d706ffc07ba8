//! What controllers share within a term: agents as last heard, slots, people's wishes, Secrets, and whether this machine slept.

mod agents;
mod evidence;
mod memories;
mod slots;
mod wake;
mod wishes;

pub use agents::{AgentHeard, AgentRegistry, AgentSilence, ServiceView};
pub use memories::Memories;
pub use slots::{Occupied, ServerLimit, ServerLimits, SlotWatch};
pub use wake::Wake;
pub use wishes::{Wishes, is_new};

use crate::platform::Secrets;

/// All of it.
#[derive(Clone)]
pub struct Shared {
    pub agents: AgentRegistry,
    pub secrets: Secrets,
    pub slots: SlotWatch,
    pub limits: ServerLimits,
    pub wake: Wake,
    pub wishes: Wishes,
}

/// A resource by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    pub namespace: String,
    pub name: String,
}

impl NamespacedName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of<K: kube::ResourceExt>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

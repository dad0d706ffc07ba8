//! Where resources come from and where status and events go: a cluster ([`kubernetes`]) or a folder ([`local`]).
//!
//! Both homes give the same stream of [`watcher::Event`] of [`DynamicObject`], so the same controllers run on both. No
//! controller asks which home it is in: what differs is a fact that the platform observes.

mod host_agent;
pub mod kubernetes;
pub mod local;
mod problem;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::{ResourceExt, api::DynamicObject, runtime::watcher};

use crate::api::{Kind, ObjectKey};

pub use host_agent::{AgentAccess, HostAgentError, host_agent};
pub use problem::{ManifestPlace, PlatformProblem, Severity};
pub use secrets::{SecretError, Secrets};

/// Label of Secrets whose texts may be system prompts.
pub const PROMPT_LABEL: &str = "ostler.dev/system-prompt";

/// Reference to one version of an object: writes are refused when it is no longer that one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl ObjectId {
    /// The version of an object that a watch or a list gave.
    pub fn of(object: &DynamicObject) -> Self {
        Self {
            kind: object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            resource_version: object.resource_version().unwrap_or_default(),
        }
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// An event about an object, as `events.k8s.io/v1` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    /// CamelCase word.
    pub reason: String,
    /// What was done: a CamelCase word.
    pub action: String,
    /// At most 1 kB.
    pub message: String,
}

/// What can go wrong between us and the home of the resources.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlatformError {
    /// The API server, or locally the store, can't be reached or does not answer: try again later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Somebody else changed or replaced the object: drop the write, reconcile again.
    #[error("{0} changed meanwhile")]
    Conflict(String),
    #[error("{0} is not there")]
    NotFound(String),
    #[error("not allowed: {0}")]
    Forbidden(String),
    #[error("refused: {0}")]
    Invalid(String),
    /// The CRD that is installed lacks what this release writes.
    #[error(
        "{attempt}: the installed CRD is older than this controller: apply the CRDs of this release (`ostler crds | kubectl apply \
         --server-side --force-conflicts -f -`); the API server says: {said}"
    )]
    OlderSchema { attempt: String, said: String },
}

/// Why objects of a kind can't be read in some namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub why: String,
    /// Nothing of it was ever read: what is there is unknown. Else what was known last holds.
    pub unknown: bool,
}

/// The namespaces of a cluster, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// When each was made.
    pub there: BTreeMap<String, Timestamp>,
    /// Those that were asked for and do not exist.
    pub gone: BTreeSet<String>,
    /// Whether `there` names all that exist.
    pub complete: bool,
}

impl Namespaces {
    /// Whether it is known that a namespace does not exist.
    pub fn is_gone(&self, name: &str) -> bool {
        self.gone.contains(name) || (self.complete && !self.there.contains_key(name))
    }
}

impl PlatformError {
    /// Whether the same write would be refused again: somebody has to mend something.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Forbidden(_) | Self::Invalid(_) | Self::OlderSchema { .. } => true,
            Self::Unavailable(_) | Self::Conflict(_) | Self::NotFound(_) => false,
        }
    }
}

/// An error of a watch: it goes on by itself, after a backoff.
#[derive(Clone, Debug, thiserror::Error)]
#[error("watching {kind}: {message}")]
pub struct WatchError {
    pub kind: String,
    pub message: String,
}

/// The home of resources.
#[async_trait]
pub trait Platform: Send + Sync {
    /// All objects of a kind, and their changes. Never ends; an error is followed by more.
    /// What comes between `Init` and `InitDone` is complete, but for the namespaces that [`Platform::unreadable`] names.
    fn watch(&self, kind: Kind) -> BoxStream<'static, Result<watcher::Event<DynamicObject>, WatchError>>;
    /// Replaces the status by server-side apply; refused when the object is no longer of this resourceVersion, which no
    /// object that replaced it shares. `status` is the whole status: what it leaves out is gone.
    async fn apply_status(&self, id: &ObjectId, status: &serde_json::Value) -> Result<(), PlatformError>;
    /// Publishes an event; repeated ones are counted, not repeated.
    async fn publish(&self, about: &ObjectId, note: &Note) -> Result<(), PlatformError>;
    /// The data of a Secret.
    async fn secret(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError>;
    /// The labels of a Secret.
    async fn secret_labels(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, PlatformError>;
    /// The data of a Secret that may be sent to models. Whoever may declare an Expert could read any Secret otherwise, by a backend
    /// of their own.
    async fn prompt_secret(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        let labels = self.secret_labels(namespace, name).await?;
        if labels.get(PROMPT_LABEL).is_none_or(|value| value != "true") {
            return Err(PlatformError::Forbidden(format!(
                "Secret {namespace}/{name} does not say that it may be sent to models: whoever owns it must label it {PROMPT_LABEL}=true"
            )));
        }
        self.secret(namespace, name).await
    }
    /// The data of a ConfigMap.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError>;
    /// All objects of a kind now, as they are known here (for the API).
    async fn list(&self, kind: &str) -> Result<Vec<DynamicObject>, PlatformError>;
    /// Whether a loopback URL in a resource means the machine that the server runs on: true on a laptop, false in a
    /// pod, where it is the pod itself.
    fn loopback_is_self(&self) -> bool;
    /// Whether the processes of a WorkerPool are pods, which somebody must make and scale: true in a cluster. On a laptop
    /// this very process works.
    fn workers_are_pods(&self) -> bool;
    /// What a person should mend before everything declared is in force: broken manifests of a folder, watches that the
    /// API server refuses. Empty when all is well.
    fn problems(&self) -> Vec<PlatformProblem> {
        Vec::new()
    }
    /// Namespaces in which objects of a kind can't be read now; an empty name means all. It changes as a watch yields.
    fn unreadable(&self, _kind: Kind) -> BTreeMap<String, Unreadable> {
        BTreeMap::new()
    }
    /// The namespaces that are served here. A folder's never begin or end.
    async fn namespaces(&self) -> Result<Namespaces, PlatformError> {
        Ok(Namespaces::default())
    }
    /// Takes up what of a kind can't be decoded now, for [`Platform::problems`].
    fn report_undecodable(&self, _kind: Kind, _problems: Vec<PlatformProblem>) {}
}

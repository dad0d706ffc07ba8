//! What experts, queues, pools and schedules have in common: each is judged, projected into the database so that workers need
//! that alone, and its status says what became of it. A kind brings what it looks at and how it judges ([`Declares`]).

mod gates;
mod plane;
mod projections;
mod sealing;
mod status;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::{RECONCILE_REQUESTED_AT, Requirement},
    store::{DeclaredRow, Term},
};

use super::{
    driver::{Controller, Report},
    error::StepError,
    shared::NamespacedName,
};

pub use gates::{Gate, RequirementObserved, evaluate, watch_gates};
pub use plane::{ControlPlane, Feeds, Triggers, heed_touches};
pub use projections::ProjectionCache;
pub use sealing::seal_secrets;
pub use status::{CommonStatus, DeclaredAssessment};

/// A kind that is judged and projected.
#[async_trait]
pub trait Declares: Send + Sync + 'static {
    type Object: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    type Status: CommonStatus;
    /// What is looked at beside the object.
    type Facts: Send + Sync;

    const KIND: &'static str;

    /// Whether the manifest suspends it, what it requires, its status, and its spec.
    fn parts(object: &Self::Object) -> Declaration<'_, Self::Status>;
    async fn facts(&self, object: &Self::Object, key: &NamespacedName) -> Result<Self::Facts, StepError>;
    /// Purely: what to say, and what to project.
    fn judge(
        object: &Self::Object,
        seen: &DeclaredObserved<Self::Facts>,
        now: Timestamp,
    ) -> DeclaredAssessment<Self::Status>;
    /// What it does beside being projected.
    async fn act(
        &self,
        _object: &Self::Object,
        _seen: &DeclaredObserved<Self::Facts>,
        _judged: &mut DeclaredAssessment<Self::Status>,
        _term: &Term,
    ) -> Result<(), StepError> {
        Ok(())
    }
    fn gone(&self, _key: &NamespacedName) {}
}

/// What a manifest says to every kind.
pub struct Declaration<'a, S> {
    pub suspend: bool,
    pub requires: &'a [Requirement],
    pub status: Option<&'a S>,
    /// The whole defaulted spec.
    pub spec: serde_json::Value,
}

/// What a pass starts from.
pub struct DeclaredObserved<F> {
    pub key: NamespacedName,
    pub uid: String,
    /// By its manifest or by a person.
    pub suspended: bool,
    pub gate: Gate,
    pub handled_reconcile: Option<String>,
    pub facts: F,
}

/// Runs a kind as a controller.
pub struct Declared<D> {
    pub kind: D,
    pub world: Arc<ControlPlane>,
}

#[async_trait]
impl<D: Declares> Controller for Declared<D> {
    type Object = D::Object;
    type Observed = DeclaredObserved<D::Facts>;
    type Plan = DeclaredAssessment<D::Status>;
    type Done = DeclaredAssessment<D::Status>;
    type Status = D::Status;

    const KIND: &'static str = D::KIND;

    async fn observe(&self, object: &D::Object) -> Result<DeclaredObserved<D::Facts>, StepError> {
        let key = NamespacedName::of(object);
        let declared = D::parts(object);
        let wishes = &self.world.shared.wishes;
        Ok(DeclaredObserved {
            uid: object.uid().unwrap_or_default(),
            suspended: wishes.suspended(D::KIND, &key).unwrap_or(declared.suspend),
            gate: self.world.gate(&key.namespace, declared.requires, Timestamp::now()),
            handled_reconcile: wishes.requested(object, RECONCILE_REQUESTED_AT, D::KIND, &key),
            facts: self.kind.facts(object, &key).await?,
            key,
        })
    }

    fn plan(
        &self,
        object: &D::Object,
        seen: &DeclaredObserved<D::Facts>,
        now: Timestamp,
    ) -> DeclaredAssessment<D::Status> {
        D::judge(object, seen, now)
    }

    async fn apply(
        &self,
        object: &D::Object,
        seen: &DeclaredObserved<D::Facts>,
        mut judged: DeclaredAssessment<D::Status>,
        term: &Term,
    ) -> Result<DeclaredAssessment<D::Status>, StepError> {
        let row = DeclaredRow {
            uid: seen.uid.clone(),
            kind: D::KIND.to_owned(),
            namespace: seen.key.namespace.clone(),
            name: seen.key.name.clone(),
            generation: object.meta().generation.unwrap_or_default(),
            labels: object.labels().clone(),
            spec: judged.spec.take().unwrap_or_else(|| D::parts(object).spec),
            suspended: seen.suspended,
            held: judged.held.clone().or_else(|| seen.gate.held.clone()),
        };
        self.world.book.project(term.fence(), row).await?;
        self.kind.act(object, seen, &mut judged, term).await?;
        Ok(judged)
    }

    fn status(
        &self,
        object: &D::Object,
        seen: &DeclaredObserved<D::Facts>,
        judged: &DeclaredAssessment<D::Status>,
        now: Timestamp,
    ) -> Report<D::Status> {
        let old = D::parts(object).status;
        let generation = object.meta().generation.unwrap_or_default();
        let new = status::status(old, seen, judged, generation, now);
        let undecided = judged.undecided && status::is_judged(old, generation);
        let written = !undecided && status::differs(old, &new);
        Report {
            notes: judged.notes.clone(),
            changes: if written { status::changes(old, &new) } else { Vec::new() },
            again: judged.again,
            status: written.then_some(new),
        }
    }

    fn gone(&self, namespace: &str, name: &str) {
        self.kind.gone(&NamespacedName::new(namespace, name));
    }
}

/// A spec as it is projected.
pub fn projected<T: Serialize>(spec: &T) -> serde_json::Value {
    serde_json::to_value(spec).unwrap_or_default()
}

//! What experts, queues, pools, schedules and container checks have in common: each is projected into the database, so that
//! workers need that alone, and its status says what became of it. A kind brings the four steps of its own ([`Declares`]).

mod gates;
mod plane;
mod projections;
mod sealing;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    core::object::{HasSpec, HasStatus},
};
use serde::Serialize;

use crate::{
    api::{Kind, RECONCILE_REQUESTED_AT, Requirement, ResourceStatus},
    platform::Note,
    store::{DeclaredRow, Term},
};

use super::{
    driver::{Controller, KindObject, Report},
    error::StepError,
    shared::NamespacedName,
    status::{self, Conditions, Readiness},
};

pub use gates::{Gate, RequirementObserved, evaluate, watch_gates};
pub use plane::{ControlPlane, Feeds, heed_touches};
pub use projections::ProjectionCache;
pub use sealing::seal_secrets;

/// A kind that is projected.
#[async_trait]
pub trait Declares: Send + Sync + 'static {
    type Object: KindObject + HasSpec<Spec: Serialize>;
    /// What is read beside what every kind reads.
    type Observed: Send + Sync;
    /// What is done beside projecting.
    type Action: Send + Sync;

    const KIND: Kind;

    /// Whether the manifest suspends it, and what it requires.
    fn declared(spec: &<Self::Object as HasSpec>::Spec) -> (bool, &[Requirement]);
    async fn observe(&self, object: &Self::Object, base: &DeclaredObserved) -> Result<Self::Observed, StepError>;
    fn plan(
        object: &Self::Object,
        observed: &DeclaredObserved<Self::Observed>,
        gate: &Gate,
        now: Timestamp,
    ) -> PlanOf<Self>;
    /// Does what was planned, and takes what came of it into the plan.
    async fn apply(
        &self,
        _object: &Self::Object,
        _observed: &DeclaredObserved<Self::Observed>,
        _plan: &mut PlanOf<Self>,
    ) -> Result<(), StepError> {
        Ok(())
    }
    fn gone(&self, _key: &NamespacedName) {}
}

/// The plan of a kind.
pub type PlanOf<D> = DeclaredPlan<<<D as Declares>::Object as HasStatus>::Status, <D as Declares>::Action>;

/// What a pass starts from: what every kind reads, and what the kind itself does.
pub struct DeclaredObserved<F = ()> {
    pub key: NamespacedName,
    pub uid: String,
    /// By its manifest or by a person.
    pub suspended: bool,
    pub requirements: Vec<(Requirement, RequirementObserved)>,
    /// The last request for a pass.
    pub handled_reconcile: Option<String>,
    pub facts: F,
}

/// What a pass says of an object, and does about it.
pub struct DeclaredPlan<S: ResourceStatus, A = ()> {
    pub state: S::State,
    pub ready: bool,
    /// Only a person can heal it (kstatus: failed). Neither ready nor stalled nor suspended: it will be by itself.
    pub stalled: bool,
    /// What a person should know; never an age.
    pub message: String,
    /// What is projected instead of the spec as it stands.
    pub spec: Option<serde_json::Value>,
    /// What it waits for, and why it holds what it has.
    pub gate: Gate,
    /// Why it holds what it has, beside its gate.
    pub held: Option<String>,
    /// The kind's own fields; the common ones are filled in.
    pub status: S,
    pub action: A,
    pub notes: Vec<Note>,
    pub again: Option<Duration>,
    /// This term has not seen enough yet: what an earlier one said of the same generation holds.
    pub undecided: bool,
}

impl<S: ResourceStatus> DeclaredPlan<S> {
    pub fn new(state: S::State, ready: bool, stalled: bool, message: impl Into<String>, status: S) -> Self {
        let (message, gate, notes) = (message.into(), Gate::default(), Vec::new());
        let (spec, held, again, undecided) = (None, None, None, false);
        Self { state, ready, stalled, message, spec, gate, held, status, action: (), notes, again, undecided }
    }

    pub fn with_action<A>(self, action: A) -> DeclaredPlan<S, A> {
        let Self { state, ready, stalled, message, spec, gate, held, status, action: (), notes, again, undecided } =
            self;
        DeclaredPlan { state, ready, stalled, message, spec, gate, held, status, action, notes, again, undecided }
    }
}

/// Runs a kind as a controller.
pub struct Declared<D> {
    pub kind: D,
    pub world: Arc<ControlPlane>,
}

#[async_trait]
impl<D: Declares> Controller for Declared<D> {
    type Object = D::Object;
    type Observed = DeclaredObserved<D::Observed>;
    type Plan = PlanOf<D>;
    type Outcome = PlanOf<D>;

    const KIND: Kind = D::KIND;

    async fn observe(&self, object: &D::Object) -> Result<Self::Observed, StepError> {
        let key = NamespacedName::of(object);
        let (suspend, requires) = D::declared(object.spec());
        let wishes = &self.world.shared.wishes;
        let base = DeclaredObserved {
            uid: object.uid().unwrap_or_default(),
            suspended: wishes.suspended(D::KIND, &key).unwrap_or(suspend),
            requirements: self.world.requirements(&key.namespace, requires),
            handled_reconcile: wishes.requested(object, RECONCILE_REQUESTED_AT, D::KIND, &key),
            key,
            facts: (),
        };
        let facts = self.kind.observe(object, &base).await?;
        let DeclaredObserved { key, uid, suspended, requirements, handled_reconcile, facts: () } = base;
        Ok(DeclaredObserved { key, uid, suspended, requirements, handled_reconcile, facts })
    }

    fn plan(&self, object: &D::Object, observed: &Self::Observed, now: Timestamp) -> PlanOf<D> {
        let gate = evaluate(&observed.requirements, now);
        let plan = D::plan(object, observed, &gate, now);
        let opens_in = gate.opens_at.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        DeclaredPlan { again: plan.again.or(opens_in), gate, ..plan }
    }

    async fn apply(
        &self,
        object: &D::Object,
        observed: &Self::Observed,
        mut plan: PlanOf<D>,
        term: &Term,
    ) -> Result<PlanOf<D>, StepError> {
        let row = DeclaredRow {
            uid: observed.uid.clone(),
            kind: D::KIND.into(),
            namespace: observed.key.namespace.clone(),
            name: observed.key.name.clone(),
            generation: object.meta().generation.unwrap_or_default(),
            labels: object.labels().clone(),
            spec: plan.spec.take().unwrap_or_else(|| projected(object.spec())),
            suspended: observed.suspended,
            held: plan.held.clone().or_else(|| plan.gate.held.clone()),
        };
        self.world.book.project(term.fence(), row).await?;
        self.kind.apply(object, observed, &mut plan).await?;
        Ok(plan)
    }

    fn status(
        &self,
        object: &D::Object,
        observed: &Self::Observed,
        plan: &PlanOf<D>,
        now: Timestamp,
    ) -> Report<<D::Object as HasStatus>::Status> {
        let (old, generation) = (object.status(), object.meta().generation.unwrap_or_default());
        let mut conditions = Conditions::new(old, generation, now);
        conditions.set_readiness(Readiness {
            ready: plan.ready,
            stalled: plan.stalled,
            suspended: observed.suspended,
            reason: plan.state.into(),
            message: &plan.message,
        });
        match &plan.gate.held {
            Some(held) => conditions.set("Held", true, "RequirementNotMet", held),
            None => conditions.remove("Held"),
        }
        let mut status = plan.status.clone();
        *status.base_mut() = conditions.base(plan.state, observed.handled_reconcile.clone());
        Report {
            status,
            undecided: plan.undecided && status::is_judged(old, generation),
            notes: plan.notes.clone(),
            again: plan.again,
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

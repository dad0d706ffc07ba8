//! The one loop that drives every controller: observe, plan, apply, status.

use std::{fmt::Debug, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    core::object::HasStatus,
    runtime::{
        applier,
        controller::{Action, Config, Error as applier_error},
        reflector::ObjectRef,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::{
    api::{Kind, ResourceStatus},
    base::Ticker,
    platform::{Note, ObjectId, Platform, PlatformError},
    store::Term,
    telemetry::{Beat, Metrics},
};

use super::{
    backoff::Backoffs,
    error::{Class, StepError, panic_message},
    feed::Feed,
    status,
};

mod queue;
mod readiness;

use queue::{WaitingObjects, queue};

pub use queue::Triggers;

/// Passes at once, so that a thousand objects don't stampede.
const CONCURRENCY: u16 = 32;
/// What looking may take, and what acting may: a server, an agent or a database that hangs must not hold up others.
const OBSERVE: Duration = Duration::from_secs(10);
const APPLY: Duration = Duration::from_secs(60);
/// Without any trigger, an object is looked at again after this.
const PERIOD: Duration = Duration::from_secs(60);

/// An object of one of the kinds.
pub trait KindObject:
    Resource<DynamicType = ()>
    + HasStatus<Status: ResourceStatus>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> KindObject for K where
    K: Resource<DynamicType = ()>
        + HasStatus<Status: ResourceStatus>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// What the last step hands to the loop, which writes the status if it differs from the old one.
pub struct Report<S> {
    pub status: S,
    /// This term has not seen enough yet: what an earlier one wrote about the same generation holds.
    pub undecided: bool,
    pub notes: Vec<Note>,
    /// When to look again, sooner than the period.
    pub again: Option<Duration>,
}

/// A controller in four steps: `observe` reads and decides nothing, `plan` is pure and decides everything, `apply` does what
/// `plan` returned, and `status` is computed from all of it.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    type Object: KindObject;
    type Observed: Send + Sync;
    type Plan: Send;
    /// What came of the plan.
    type Outcome: Send + Sync;

    const KIND: Kind;

    async fn observe(&self, object: &Self::Object) -> Result<Self::Observed, StepError>;
    fn plan(&self, object: &Self::Object, observed: &Self::Observed, now: Timestamp) -> Self::Plan;
    async fn apply(
        &self,
        object: &Self::Object,
        observed: &Self::Observed,
        plan: Self::Plan,
        term: &Term,
    ) -> Result<Self::Outcome, StepError>;
    fn status(
        &self,
        object: &Self::Object,
        observed: &Self::Observed,
        outcome: &Self::Outcome,
        now: Timestamp,
    ) -> Report<<Self::Object as HasStatus>::Status>;
    /// The event of a change of status, published once that is written.
    fn change(
        old: Option<&<Self::Object as HasStatus>::Status>,
        new: &<Self::Object as HasStatus>::Status,
    ) -> Option<Note> {
        status::change(old, new)
    }
    /// The object is not there any more.
    fn gone(&self, namespace: &str, name: &str);
}

/// What every pass needs beside its controller.
pub struct Drive {
    pub platform: Arc<dyn Platform>,
    pub metrics: Metrics,
    pub term: Term,
    pub beat: Beat,
    pub triggers: Triggers,
}

/// What passes of one kind share.
struct Passes<C: Controller> {
    controller: Arc<C>,
    drive: Drive,
    waiting: WaitingObjects<C::Object>,
    backoffs: Backoffs<ObjectRef<C::Object>>,
    said: readiness::ReadinessLog,
    /// Objects whose status is refused: they are healed all the same.
    unwritten: Backoffs<ObjectRef<C::Object>>,
}

/// Runs a controller for one term of leadership.
pub async fn drive<C: Controller>(controller: Arc<C>, feed: Feed<C::Object>, drive: Drive)
where
    ObjectRef<C::Object>: Eq + Hash,
{
    let cancelled = drive.term.ended().clone();
    let waiting = WaitingObjects::new(C::KIND.as_str(), &drive.metrics);
    let queue = queue(&feed, (C::KIND, drive.triggers.clone()), waiting.clone())
        .take_until(cancelled.clone().cancelled_owned());
    let context = Arc::new(Passes {
        controller,
        drive,
        waiting,
        backoffs: Backoffs::default(),
        said: readiness::ReadinessLog::default(),
        unwritten: Backoffs::default(),
    });
    let config = Config::default().concurrency(CONCURRENCY);
    let passes = applier(
        |object: Arc<C::Object>, passes: Arc<Passes<C>>| {
            passes.waiting.begun(&ObjectRef::from_obj(&*object));
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            let span = tracing::info_span!("pass", kind = C::KIND.as_str(), namespace, name);
            // A task of its own: a pass that computes for long does not hold up the others.
            let pass = tokio::spawn(async move { passes.pass(&object).await }.instrument(span));
            AbortOnDropHandle::new(pass).map(|ended| {
                ended.unwrap_or_else(|error| {
                    tracing::error!(kind = C::KIND.as_str(), %error, "pass was aborted");
                    Ok(Action::requeue(PERIOD))
                })
            })
        },
        |_, error: &Failed, _| Action::requeue(error.wait),
        Arc::clone(&context),
        feed.objects.clone(),
        queue,
        config,
    );
    tokio::pin!(passes);
    let mut alive = Ticker::new(Duration::from_secs(2));
    loop {
        tokio::select! {
            // Losing the lead stops everything at once: what was not begun is left to the successor.
            () = cancelled.cancelled() => return,
            () = alive.tick() => context.drive.beat.beat(),
            done = passes.next() => match done {
                Some(Err(applier_error::ObjectNotFound(object))) => {
                    let (namespace, name) = (object.namespace.as_deref().unwrap_or_default(), &object.name);
                    // It may be there in a form that this release can't decode.
                    if !feed.holds(namespace, name) {
                        context.said.forget(namespace, name);
                        context.controller.gone(namespace, name);
                    }
                }
                Some(_) => {}
                None => return,
            },
        }
    }
}

/// A pass failed: it is told already.
#[derive(Debug, thiserror::Error)]
#[error("pass failed; next one in {} s", wait.as_secs())]
struct Failed {
    wait: Duration,
}

impl<C: Controller> Passes<C>
where
    ObjectRef<C::Object>: Eq + Hash,
{
    /// One pass over one object.
    async fn pass(&self, object: &C::Object) -> Result<Action, Failed> {
        let (of, generation) = (ObjectRef::from_obj(object), object.meta().generation);
        if let Some(wait) = self.backoffs.wait(&of, generation, Instant::now()) {
            return Ok(Action::requeue(wait));
        }
        let (began, reconciles) = (Instant::now(), &self.drive.metrics.reconciles);
        match self.steps(object).await {
            Ok((again, Some(error))) => {
                reconciles.failed(C::KIND.as_str(), error.reason(), began.elapsed());
                self.backoffs.forget(&of);
                let (wait, is_new) = self.unwritten.failed(of, generation, &error, Instant::now());
                tell(C::KIND, object, &error, wait, is_new);
                if let StepError::Status(why) = &error
                    && why.is_refusal()
                    && is_new
                {
                    self.tell_refused(&object_id(C::KIND, object), why).await;
                }
                Ok(Action::requeue(again.min(wait)))
            }
            Ok((again, None)) => {
                reconciles.finished(C::KIND.as_str(), began.elapsed());
                self.backoffs.forget(&of);
                Ok(Action::requeue(again))
            }
            Err(error) => {
                reconciles.failed(C::KIND.as_str(), error.reason(), began.elapsed());
                let (wait, is_new) = self.backoffs.failed(of, generation, &error, Instant::now());
                tell(C::KIND, object, &error, wait, is_new);
                Err(Failed { wait })
            }
        }
    }

    /// What is shown of the object is old from now on: a person must know.
    async fn tell_refused(&self, id: &ObjectId, error: &PlatformError) {
        let message = format!("the status can't be written, so what is shown is old: {error}");
        let note = Note {
            warning: true,
            reason: "StatusRefused".to_owned(),
            action: "WriteStatus".to_owned(),
            message: message.chars().take(1000).collect(),
        };
        publish(&self.drive, id, &[note]).await;
    }

    /// The wait before the next pass, and why the status could not be written, if so.
    async fn steps(&self, object: &C::Object) -> Result<(Duration, Option<StepError>), StepError> {
        let (controller, drive) = (&*self.controller, &self.drive);
        let observed = bounded("observe", OBSERVE, controller.observe(object)).await?;
        let plan = guarded("plan", || controller.plan(object, &observed, Timestamp::now()))?;
        let outcome = bounded("apply", APPLY, controller.apply(object, &observed, plan, &drive.term)).await?;
        let report = guarded("status", || controller.status(object, &observed, &outcome, Timestamp::now()))?;
        let again = report.again.unwrap_or(PERIOD);
        if !drive.term.still_leads() {
            return Ok((again, None));
        }
        let id = object_id(C::KIND, object);
        publish(drive, &id, &report.notes).await;
        let old = object.status();
        if report.undecided || !status::differs(old, &report.status) {
            if !self.said.knows(&id.namespace, &id.name) {
                let as_json = serde_json::to_value(object).unwrap_or_default();
                self.said.tell(C::KIND, &id, &as_json["status"]);
            }
            return Ok((again, None));
        }
        let status = serde_json::to_value(&report.status)
            .map_err(|e| PlatformError::Invalid(format!("status of {}/{}: {e}", id.namespace, id.name)))?;
        self.said.tell(C::KIND, &id, &status);
        let of = ObjectRef::from_obj(object);
        if let Some(wait) = self.unwritten.wait(&of, object.meta().generation, Instant::now()) {
            return Ok((again.min(wait), None));
        }
        drive.metrics.process.platform_write(C::KIND.as_str(), "status");
        match drive.platform.apply_status(&id, &status).await {
            Ok(()) => {
                self.unwritten.forget(&of);
                publish(drive, &id, C::change(old, &report.status).as_slice()).await;
                Ok((again, None))
            }
            // The watch brings the newer object, or its deletion.
            Err(error @ (PlatformError::Conflict(_) | PlatformError::NotFound(_))) => {
                tracing::debug!(kind = id.kind, namespace = id.namespace, name = id.name, %error, "status not written");
                Ok((again.min(Duration::from_secs(3)), None))
            }
            // Status is a copy: while it can't be written, healing goes on.
            Err(error) => Ok((again, Some(StepError::Status(error)))),
        }
    }
}

/// Runs a step within its time. A panic in it is an error of this pass alone.
async fn bounded<T>(
    step: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(StepError::Panic { step, message: panic_message(&*panic) }),
        Err(_) => Err(StepError::Timeout { step, seconds: limit.as_secs() }),
    }
}

/// The same for a step that only computes.
fn guarded<T>(step: &'static str, work: impl FnOnce() -> T) -> Result<T, StepError> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| StepError::Panic { step, message: panic_message(&*panic) })
}

fn tell<K: Resource<DynamicType = ()>>(kind: Kind, object: &K, error: &StepError, wait: Duration, is_new: bool) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let (kind, reason, wait) = (kind.as_str(), error.reason(), wait.as_secs_f32());
    if matches!(error, StepError::Panic { .. }) && is_new {
        tracing::error!(kind, namespace, name, reason, wait, %error, "pass failed");
    } else if error.class() == Class::Wait || !is_new {
        tracing::debug!(kind, namespace, name, reason, wait, %error, "pass failed");
    } else {
        tracing::warn!(kind, namespace, name, reason, wait, %error, "pass failed");
    }
}

async fn publish(drive: &Drive, about: &ObjectId, notes: &[Note]) {
    for note in notes {
        drive.metrics.process.platform_write(&about.kind, "event");
        if let Err(error) = drive.platform.publish(about, note).await {
            tracing::warn!(kind = about.kind, namespace = about.namespace, name = about.name, %error, "could not publish an event");
        }
    }
}

/// The version of the object that a pass looked at.
fn object_id<K: Resource<DynamicType = ()>>(kind: Kind, object: &K) -> ObjectId {
    ObjectId {
        kind: kind.into(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;

//! The one loop that drives every controller: observe, plan, apply, status.

use std::{
    collections::HashSet,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    runtime::{
        applier,
        controller::{Action, Config, Error as applier_error, ReconcileRequest},
        reflector::ObjectRef,
    },
};
use rand::Rng;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tracing::Instrument;

use crate::{
    platform::{Note, ObjectId, Platform, PlatformError},
    store::Term,
    telemetry::{Beat, Metrics, ReconcileResult},
};

use super::{
    error::{Class, StepError},
    feed::Feed,
};

/// Passes at once, so that a thousand objects don't stampede.
const CONCURRENCY: u16 = 32;
/// Without any trigger, an object is looked at again after this.
const PERIOD: Duration = Duration::from_secs(60);

/// What the last step hands to the loop.
pub struct Report<S> {
    /// The whole status, when it differs from what the object has.
    pub status: Option<S>,
    pub notes: Vec<Note>,
    /// Events about the change of status: published once it is written.
    pub changes: Vec<Note>,
    /// When to look again, sooner than the period.
    pub again: Option<Duration>,
}

/// A controller in four steps. `apply` takes only what `plan` returned.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static;
    type Observed: Send + Sync;
    type Plan: Send;
    type Done: Send + Sync;
    type Status: Serialize + Send + Sync;

    /// The kind, as in manifests.
    const KIND: &'static str;

    async fn observe(&self, object: &Self::Object) -> Result<Self::Observed, StepError>;
    fn plan(&self, object: &Self::Object, observed: &Self::Observed, now: Timestamp) -> Self::Plan;
    async fn apply(
        &self,
        object: &Self::Object,
        observed: &Self::Observed,
        plan: Self::Plan,
        term: &Term,
    ) -> Result<Self::Done, StepError>;
    fn status(
        &self,
        object: &Self::Object,
        observed: &Self::Observed,
        done: &Self::Done,
        now: Timestamp,
    ) -> Report<Self::Status>;
    /// The object is not there any more.
    fn gone(&self, namespace: &str, name: &str);
}

/// What every pass needs beside its controller.
pub struct Drive {
    pub platform: Arc<dyn Platform>,
    pub metrics: Metrics,
    pub term: Term,
    pub beat: Beat,
}

/// Runs a controller for one term of leadership.
pub async fn drive<C: Controller>(
    controller: Arc<C>,
    feed: Feed<C::Object>,
    triggers: mpsc::UnboundedReceiver<ObjectRef<C::Object>>,
    drive: Drive,
) where
    ObjectRef<C::Object>: Eq + Hash,
{
    let drive = Arc::new(drive);
    let cancelled = drive.term.ended().clone();
    let waiting = Waiting::new(C::KIND, &drive.metrics);
    let queue = queue(&feed, triggers, waiting.clone()).take_until(cancelled.clone().cancelled_owned());
    let context = Arc::new((Arc::clone(&controller), Arc::clone(&drive)));
    let config = Config::default().concurrency(CONCURRENCY);
    let passes = applier(
        |object, context: Arc<(Arc<C>, Arc<Drive>)>| {
            let (controller, drive) = (Arc::clone(&context.0), Arc::clone(&context.1));
            waiting.begun(&ObjectRef::from_obj(&*object));
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            let span = tracing::info_span!("pass", kind = C::KIND, namespace, name);
            Box::pin(async move { pass(&*controller, &object, &drive).await }.instrument(span))
        },
        |_, error, _| Action::requeue(after_error(error)),
        context,
        feed.objects.clone(),
        queue,
        config,
    );
    tokio::pin!(passes);
    let mut alive = tokio::time::interval(Duration::from_secs(2));
    loop {
        tokio::select! {
            // Losing the lead stops everything at once: what was not begun is left to the successor.
            () = cancelled.cancelled() => return,
            _ = alive.tick() => drive.beat.beat(),
            done = passes.next() => match done {
                Some(Err(applier_error::ObjectNotFound(object))) => {
                    controller.gone(object.namespace.as_deref().unwrap_or_default(), &object.name);
                }
                Some(_) => {}
                None => return,
            },
        }
    }
}

/// Everything there is, everything that is touched, and what others ask to be looked at.
fn queue<K>(
    feed: &Feed<K>,
    triggers: mpsc::UnboundedReceiver<ObjectRef<K>>,
    waiting: Waiting<K>,
) -> impl Stream<Item = Result<ReconcileRequest<K>, std::convert::Infallible>> + Send + 'static + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
    ObjectRef<K>: Eq + Hash,
{
    let feed = feed.clone();
    let touched = stream::unfold(feed.touches(), |mut touches| async move {
        match touches.recv().await {
            Ok(object) => Some((Some(object), touches)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((None, touches)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    });
    let all = {
        let objects = feed.objects.clone();
        move || objects.state().iter().map(|o| ObjectRef::from_obj(&**o)).collect::<Vec<_>>()
    };
    let initial = stream::iter(all());
    let touched = touched.flat_map(move |one| stream::iter(one.map_or_else(&all, |object| vec![object])));
    let triggers = UnboundedReceiverStream::new(triggers);
    stream::select(initial.chain(touched), triggers).map(move |object| {
        waiting.joined(&object);
        Ok(ReconcileRequest::from(object))
    })
}

/// Who was asked to be looked at and was not yet: the depth of the queue, for metrics. Passes that are due later don't count.
struct Waiting<K: Resource<DynamicType = ()>> {
    kind: &'static str,
    metrics: Metrics,
    objects: Arc<Mutex<HashSet<ObjectRef<K>>>>,
}

impl<K: Resource<DynamicType = ()>> Clone for Waiting<K> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, metrics: self.metrics.clone(), objects: Arc::clone(&self.objects) }
    }
}

impl<K: Resource<DynamicType = ()>> Waiting<K>
where
    ObjectRef<K>: Eq + Hash + Clone,
{
    fn new(kind: &'static str, metrics: &Metrics) -> Self {
        metrics.reconciles.queue_depth(kind, 0);
        Self { kind, metrics: metrics.clone(), objects: Arc::default() }
    }

    fn joined(&self, object: &ObjectRef<K>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.insert(object.clone());
        self.metrics.reconciles.queue_depth(self.kind, objects.len());
    }

    fn begun(&self, object: &ObjectRef<K>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.remove(object);
        self.metrics.reconciles.queue_depth(self.kind, objects.len());
    }
}

fn after_error(error: &StepError) -> Duration {
    let most = match error.class() {
        Class::Retry => 2_000,
        Class::Wait => 5_000,
        Class::Tell => 30_000,
    };
    Duration::from_millis(rand::rng().random_range(most / 2..=most))
}

/// One pass over one object.
async fn pass<C: Controller>(controller: &C, object: &C::Object, drive: &Drive) -> Result<Action, StepError> {
    let began = std::time::Instant::now();
    let result = steps(controller, object, drive).await;
    match &result {
        Ok(_) => drive.metrics.reconciles.finished(C::KIND, ReconcileResult::Success, began.elapsed()),
        Err(error) => {
            drive.metrics.reconciles.failed(C::KIND, error.reason(), began.elapsed());
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            if error.class() == Class::Wait {
                tracing::debug!(kind = C::KIND, namespace, name, reason = error.reason(), %error, "pass dropped");
            } else {
                tracing::warn!(kind = C::KIND, namespace, name, reason = error.reason(), %error, "pass failed");
            }
        }
    }
    result
}

async fn steps<C: Controller>(controller: &C, object: &C::Object, drive: &Drive) -> Result<Action, StepError> {
    let observed = controller.observe(object).await?;
    let plan = controller.plan(object, &observed, Timestamp::now());
    let done = controller.apply(object, &observed, plan, &drive.term).await?;
    let report = controller.status(object, &observed, &done, Timestamp::now());
    if !drive.term.still_leads() {
        return Ok(Action::await_change());
    }
    let id = object_id(C::KIND, object);
    let mut again = report.again.unwrap_or(PERIOD);
    publish(drive, &id, &report.notes).await;
    if let Some(status) = &report.status {
        let status = serde_json::to_value(status)
            .map_err(|e| PlatformError::Invalid(format!("status of {}/{}: {e}", id.namespace, id.name)))?;
        drive.metrics.process.platform_write(C::KIND, "status");
        match drive.platform.apply_status(&id, &status).await {
            Ok(()) => publish(drive, &id, &report.changes).await,
            // Status is a copy: while it can't be written, healing goes on.
            Err(error) => {
                tracing::debug!(kind = C::KIND, namespace = id.namespace, name = id.name, %error, "status not written");
                again = again.min(Duration::from_secs(3));
            }
        }
    }
    Ok(Action::requeue(again))
}

async fn publish(drive: &Drive, about: &ObjectId, notes: &[Note]) {
    for note in notes {
        drive.metrics.process.platform_write(&about.kind, "event");
        if let Err(error) = drive.platform.publish(about, note).await {
            tracing::warn!(kind = about.kind, namespace = about.namespace, name = about.name, %error, "event not published");
        }
    }
}

/// The version of the object that a pass looked at.
pub fn object_id<K: Resource<DynamicType = ()>>(kind: &str, object: &K) -> ObjectId {
    ObjectId {
        kind: kind.to_owned(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}

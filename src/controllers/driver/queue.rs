//! Which objects are looked at, and in what order they were asked for.

use std::{
    collections::HashSet,
    convert::Infallible,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Resource,
    runtime::{controller::ReconcileRequest, reflector::ObjectRef},
};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast::error::RecvError, mpsc};

use crate::telemetry::Metrics;

use super::Feed;

/// Objects that others ask to be looked at. A loop that is started again goes on with what is left.
pub struct Triggered<K: Resource<DynamicType = ()>>(Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<ObjectRef<K>>>>);

impl<K: Resource<DynamicType = ()>> Clone for Triggered<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Where to ask for passes, and what takes them up.
pub fn triggers<K: Resource<DynamicType = ()>>() -> (mpsc::UnboundedSender<ObjectRef<K>>, Triggered<K>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Triggered(Arc::new(tokio::sync::Mutex::new(receiver))))
}

/// Everything there is, everything that is touched, and what others ask to be looked at.
pub fn queue<K>(
    feed: &Feed<K>,
    triggered: Triggered<K>,
    waiting: Waiting<K>,
) -> impl Stream<Item = Result<ReconcileRequest<K>, Infallible>> + Send + 'static + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
    ObjectRef<K>: Eq + Hash,
{
    let touched = stream::unfold(feed.touches(), |mut touches| async move {
        match touches.recv().await {
            Ok(object) => Some((Some(object), touches)),
            Err(RecvError::Lagged(_)) => Some((None, touches)),
            Err(RecvError::Closed) => None,
        }
    });
    let all = {
        let objects = feed.objects.clone();
        move || objects.state().iter().map(|o| ObjectRef::from_obj(&**o)).collect::<Vec<_>>()
    };
    let initial = stream::iter(all());
    let touched = touched.flat_map(move |one| stream::iter(one.map_or_else(&all, |object| vec![object])));
    let triggers = stream::unfold(triggered, |triggered| async move {
        let object = triggered.0.lock().await.recv().await;
        object.map(|object| (object, triggered))
    });
    stream::select(initial.chain(touched), Box::pin(triggers)).map(move |object| {
        waiting.joined(&object);
        Ok(ReconcileRequest::from(object))
    })
}

/// Who was asked to be looked at and was not yet: the depth of the queue, for metrics. Passes that are due later don't count.
pub struct Waiting<K: Resource<DynamicType = ()>> {
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
    pub fn new(kind: &'static str, metrics: &Metrics) -> Self {
        metrics.reconciles.queue_depth(kind, 0);
        Self { kind, metrics: metrics.clone(), objects: Arc::default() }
    }

    fn joined(&self, object: &ObjectRef<K>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.insert(object.clone());
        self.metrics.reconciles.queue_depth(self.kind, objects.len());
    }

    pub fn begun(&self, object: &ObjectRef<K>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.remove(object);
        self.metrics.reconciles.queue_depth(self.kind, objects.len());
    }
}

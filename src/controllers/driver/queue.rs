//! Which objects are looked at, and in what order they were asked for.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    hash::Hash,
    sync::Arc,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Resource,
    runtime::{controller::ReconcileRequest, reflector::ObjectRef},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast::error::RecvError, mpsc};

use crate::{api::Kind, telemetry::Metrics};

use super::{super::shared::NamespacedName, Feed};

/// Asks for passes over objects of any kind, for one term.
#[derive(Clone)]
pub struct Triggers(Arc<BTreeMap<Kind, Trigger>>);

struct Trigger {
    sender: mpsc::UnboundedSender<NamespacedName>,
    /// A loop that is started again goes on with what is left.
    receiver: tokio::sync::Mutex<mpsc::UnboundedReceiver<NamespacedName>>,
}

impl Default for Triggers {
    fn default() -> Self {
        let trigger = || {
            let (sender, receiver) = mpsc::unbounded_channel();
            Trigger { sender, receiver: receiver.into() }
        };
        Self(Arc::new(Kind::ALL.iter().map(|kind| (*kind, trigger())).collect()))
    }
}

impl Triggers {
    pub fn one(&self, kind: Kind, object: &NamespacedName) {
        // The receiver lives as long as the sender.
        drop(self.0[&kind].sender.send(object.clone()));
    }

    async fn next(&self, kind: Kind) -> Option<NamespacedName> {
        self.0[&kind].receiver.lock().await.recv().await
    }
}

/// Everything there is, everything that is touched, and what others ask to be looked at.
pub fn queue<K>(
    feed: &Feed<K>,
    (kind, triggers): (Kind, Triggers),
    waiting: WaitingObjects<K>,
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
    let triggered = stream::unfold(triggers, move |triggers| async move {
        let object = triggers.next(kind).await?;
        Some((ObjectRef::new(&object.name).within(&object.namespace), triggers))
    });
    stream::select(initial.chain(touched), Box::pin(triggered)).map(move |object| {
        waiting.joined(&object);
        Ok(ReconcileRequest::from(object))
    })
}

/// Who was asked to be looked at and was not yet: the depth of the queue, for metrics. Passes that are due later don't count.
pub struct WaitingObjects<K: Resource<DynamicType = ()>> {
    kind: &'static str,
    metrics: Metrics,
    objects: Arc<Mutex<HashSet<ObjectRef<K>>>>,
}

impl<K: Resource<DynamicType = ()>> Clone for WaitingObjects<K> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, metrics: self.metrics.clone(), objects: Arc::clone(&self.objects) }
    }
}

impl<K: Resource<DynamicType = ()>> WaitingObjects<K>
where
    ObjectRef<K>: Eq + Hash + Clone,
{
    pub fn new(kind: &'static str, metrics: &Metrics) -> Self {
        metrics.reconciles.queue_depth(kind, 0);
        Self { kind, metrics: metrics.clone(), objects: Arc::default() }
    }

    fn joined(&self, object: &ObjectRef<K>) {
        let mut objects = self.objects.lock();
        objects.insert(object.clone());
        self.metrics.reconciles.queue_depth(self.kind, objects.len());
    }

    pub fn begun(&self, object: &ObjectRef<K>) {
        let mut objects = self.objects.lock();
        objects.remove(object);
        self.metrics.reconciles.queue_depth(self.kind, objects.len());
    }
}

//! The objects of one kind, kept warm in a reflector by leader and followers alike.

use std::sync::Arc;

use futures::StreamExt;
use kube::{
    Resource, ResourceExt,
    api::DynamicObject,
    runtime::{
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::{platform::Platform, telemetry::Beat};

/// How many touches a slow reader may be behind; past that it takes up everything again.
const BEHIND: usize = 4096;

/// The store of a kind, and what was touched in it.
pub struct Feed<K: Resource<DynamicType = ()> + Clone + 'static> {
    pub objects: Store<K>,
    touched: broadcast::Sender<ObjectRef<K>>,
    /// Counts complete listings; 0 before the first.
    pub listings: watch::Receiver<u64>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Feed<K> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), touched: self.touched.clone(), listings: self.listings.clone() }
    }
}

impl<K> Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    /// Starts watching. The watch goes on until `shutdown`, through every error.
    pub fn start(platform: Arc<dyn Platform>, kind: &'static str, beat: Beat, shutdown: CancellationToken) -> Self {
        let writer = Writer::<K>::new(());
        let objects = writer.as_reader();
        let (touched, _) = broadcast::channel(BEHIND);
        let (listed, listings) = watch::channel(0);
        let pump = Pump { kind, writer, touched: touched.clone(), listed };
        tokio::spawn(pump.run(platform, beat, shutdown));
        Self { objects, touched, listings }
    }

    /// Everything that is touched from now on. A reader that fell behind gets `None`: it looks at everything again.
    pub fn touches(&self) -> broadcast::Receiver<ObjectRef<K>> {
        self.touched.subscribe()
    }

    /// Whether a complete listing was seen.
    pub fn is_complete(&self) -> bool {
        *self.listings.borrow() > 0
    }
}

struct Pump<K: Resource<DynamicType = ()> + Clone + 'static> {
    kind: &'static str,
    writer: Writer<K>,
    touched: broadcast::Sender<ObjectRef<K>>,
    listed: watch::Sender<u64>,
}

impl<K> Pump<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    async fn run(mut self, platform: Arc<dyn Platform>, beat: Beat, shutdown: CancellationToken) {
        let mut events = platform.watch(self.kind);
        let mut alive = tokio::time::interval(std::time::Duration::from_secs(5));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = alive.tick() => beat.beat(),
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => tracing::warn!(kind = self.kind, %error, "the watch was interrupted, and goes on"),
                    None => {
                        tracing::error!(kind = self.kind, "the watch ended, and is started again");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        events = platform.watch(self.kind);
                    }
                },
            }
        }
    }

    fn take(&mut self, event: watcher::Event<DynamicObject>) {
        let event = match event {
            watcher::Event::Apply(object) => self.decode(object).map(watcher::Event::Apply),
            watcher::Event::Delete(object) => self.decode(object).map(watcher::Event::Delete),
            watcher::Event::InitApply(object) => self.decode(object).map(watcher::Event::InitApply),
            watcher::Event::Init => Some(watcher::Event::Init),
            watcher::Event::InitDone => Some(watcher::Event::InitDone),
        };
        let Some(event) = event else { return };
        self.writer.apply_watcher_event(&event);
        match event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => self.touch(ObjectRef::from_obj(&object)),
            watcher::Event::InitDone => {
                self.listed.send_modify(|n| *n += 1);
                for object in self.writer.as_reader().state() {
                    self.touch(ObjectRef::from_obj(&*object));
                }
            }
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        }
    }

    fn touch(&self, object: ObjectRef<K>) {
        // No receiver: nobody leads here.
        let _ = self.touched.send(object);
    }

    /// An object that can't be read must not stop the watch of all others.
    fn decode(&self, object: DynamicObject) -> Option<K> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match object.try_parse() {
            Ok(typed) => Some(typed),
            Err(error) => {
                tracing::error!(
                    kind = self.kind, namespace, name, %error,
                    "this object can't be read and is left alone: apply the CRDs of this release, or correct the object"
                );
                None
            }
        }
    }
}

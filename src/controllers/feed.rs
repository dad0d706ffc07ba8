//! The objects of one kind, kept warm in a reflector by leader and followers alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Resource, ResourceExt,
    api::DynamicObject,
    runtime::{
        reflector::{ObjectRef, Store, store::Writer},
        watcher::Event,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Condition, ConditionStatus, Kind},
    base::Ticker,
    platform::{Note, ObjectId, Platform, PlatformProblem, WatchError},
    telemetry::{Beat, Metrics},
};

/// How many touches a slow reader may be behind; past that it takes up everything again.
const BEHIND: usize = 4096;

/// The word for it, in conditions and events.
const UNDECODABLE: &str = "Undecodable";

/// What is known of an object that can't be decoded: an older or newer release wrote it, or it holds a value that is unknown here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    pub id: ObjectId,
    pub why: String,
    generation: i64,
    /// Its controller has a version to go by, and writes its status.
    has_last_good: bool,
    /// Its status says so already.
    is_told: bool,
}

/// By namespace and name.
type Undecoded = BTreeMap<(String, String), Undecodable>;

/// The store of a kind, and what was touched in it.
pub struct Feed<K: Resource<DynamicType = ()> + Clone + 'static> {
    /// Of an object that can't be decoded any more, the last version that could.
    pub objects: Store<K>,
    touched: broadcast::Sender<ObjectRef<K>>,
    /// Counts complete listings; 0 before the first.
    pub listings: watch::Receiver<u64>,
    undecodable: watch::Receiver<Undecoded>,
    /// Namespaces of which nothing was ever read, because that is refused.
    unread: watch::Receiver<BTreeSet<String>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Feed<K> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            touched: self.touched.clone(),
            listings: self.listings.clone(),
            undecodable: self.undecodable.clone(),
            unread: self.unread.clone(),
        }
    }
}

impl<K> Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    /// Starts watching. The watch goes on until `shutdown`, through every error.
    pub fn start(
        platform: Arc<dyn Platform>,
        kind: Kind,
        metrics: &Metrics,
        beat: Beat,
        shutdown: CancellationToken,
    ) -> Self {
        let (feed, pump) = Self::new(platform, kind, metrics.clone());
        tokio::spawn(pump.run(beat, shutdown));
        feed
    }

    fn new(platform: Arc<dyn Platform>, kind: Kind, metrics: Metrics) -> (Self, Pump<K>) {
        let writer = Writer::<K>::new(());
        let objects = writer.as_reader();
        let (touched, _) = broadcast::channel(BEHIND);
        let (listed, listings) = watch::channel(0);
        let (bad, undecodable) = watch::channel(Undecoded::new());
        let (lacking, unread) = watch::channel(BTreeSet::new());
        let touching = touched.clone();
        let (listing, failing) = (None, BTreeMap::new());
        let pump = Pump { kind, platform, metrics, writer, touched: touching, listed, bad, listing, lacking, failing };
        (Self { objects, touched, listings, undecodable, unread }, pump)
    }

    /// Everything that is touched from now on. A reader that fell behind gets `None`: it looks at everything again.
    pub fn touches(&self) -> broadcast::Receiver<ObjectRef<K>> {
        self.touched.subscribe()
    }

    /// Whether a complete listing was seen, of the namespaces that can be read.
    pub fn is_complete(&self) -> bool {
        *self.listings.borrow() > 0
    }

    /// Whether all that there is in a namespace is known: what is not there does not exist.
    pub fn knows(&self, namespace: &str) -> bool {
        self.is_complete() && !self.unread.borrow().contains(namespace)
    }

    /// Whether all that there is is known, too: nothing is left out because it can't be decoded.
    pub fn is_whole(&self) -> bool {
        let lacking = |one: &Undecodable| self.decoded(&one.id.namespace, &one.id.name).is_none();
        self.is_complete() && !self.undecodable.borrow().values().any(lacking)
    }

    /// Whether an object of this name is there, decodable or not.
    pub fn holds(&self, namespace: &str, name: &str) -> bool {
        self.undecodable.borrow().contains_key(&(namespace.to_owned(), name.to_owned()))
            || self.decoded(namespace, name).is_some()
    }

    /// The uids of all that is there, decodable or not, and of what is recorded in namespaces that can't be read: what is swept
    /// as deleted is what this lacks. `recorded`: uids with their namespaces.
    pub fn uids<'a>(&self, recorded: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
        let unread = self.unread.borrow().clone();
        let kept = recorded.into_iter().filter(|(_, namespace)| unread.contains(*namespace));
        let kept: Vec<String> = kept.map(|(uid, _)| uid.to_owned()).collect();
        let undecodable = self.undecodable.borrow().values().map(|one| one.id.uid.clone()).collect::<Vec<_>>();
        self.objects.state().iter().filter_map(|object| object.uid()).chain(undecodable).chain(kept).collect()
    }

    /// Tells of each object that can't be decoded by an event about it and in its status, for as long as this process leads.
    pub async fn tell_undecodable(mut self, platform: Arc<dyn Platform>) {
        let mut told: Vec<Undecodable> = Vec::new();
        loop {
            let now: Vec<Undecodable> = self.undecodable.borrow_and_update().values().cloned().collect();
            for one in now.iter().filter(|one| !one.is_told && !one.has_last_good) {
                let status = undecodable_status(one, jiff::Timestamp::now());
                if let Err(error) = platform.apply_status(&one.id, &status).await {
                    tracing::debug!(%error, "status not written");
                }
            }
            let is_told = |one: &Undecodable| told.iter().any(|t| t.id.uid == one.id.uid && t.why == one.why);
            for one in now.iter().filter(|one| !is_told(one)) {
                let note = Note {
                    warning: true,
                    reason: UNDECODABLE.to_owned(),
                    action: "Decode".to_owned(),
                    message: cut(&undecodable(&one.why), 1_000),
                };
                if let Err(error) = platform.publish(&one.id, &note).await {
                    tracing::debug!(%error, "could not publish an event");
                }
            }
            told = now;
            if self.undecodable.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn decoded(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.get(&ObjectRef::new(name).within(namespace))
    }
}

fn undecodable(why: &str) -> String {
    format!(
        "this object can't be decoded ({why}): it is left alone, and its last good version stays in force; apply the CRDs of \
         this release, or correct the object"
    )
}

/// `Ready` and `Stalled`, as kstatus reads them.
fn undecodable_status(one: &Undecodable, now: jiff::Timestamp) -> serde_json::Value {
    let condition = |type_: &str, status: ConditionStatus| Condition {
        type_: type_.to_owned(),
        status,
        reason: UNDECODABLE.to_owned(),
        message: undecodable(&one.why),
        last_transition_time: Time(now),
        observed_generation: one.generation,
    };
    let conditions = [condition("Ready", ConditionStatus::False), condition("Stalled", ConditionStatus::True)];
    serde_json::json!({"observedGeneration": one.generation, "conditions": conditions})
}

/// Whether the status of an object says of this generation that it can't be decoded.
fn says_undecodable(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions").and_then(serde_json::Value::as_array);
    conditions.into_iter().flatten().any(|one| {
        one["type"] == "Ready"
            && one["reason"] == UNDECODABLE
            && one["observedGeneration"].as_i64() == object.metadata.generation
    })
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

struct Pump<K: Resource<DynamicType = ()> + Clone + 'static> {
    kind: Kind,
    platform: Arc<dyn Platform>,
    metrics: Metrics,
    writer: Writer<K>,
    touched: broadcast::Sender<ObjectRef<K>>,
    listed: watch::Sender<u64>,
    bad: watch::Sender<Undecoded>,
    /// What could not be decoded of a listing that has not ended.
    listing: Option<Undecoded>,
    lacking: watch::Sender<BTreeSet<String>>,
    /// Why a namespace can't be read now.
    failing: BTreeMap<String, String>,
}

impl<K> Pump<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    async fn run(mut self, beat: Beat, shutdown: CancellationToken) {
        let mut events = self.platform.watch(self.kind);
        let mut alive = Ticker::new(std::time::Duration::from_secs(4));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = alive.tick() => beat.beat(),
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => self.interrupted(&error),
                    None => {
                        tracing::error!(kind = self.kind.as_str(), "watch ended; starting it again");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        events = self.platform.watch(self.kind);
                    }
                },
            }
        }
    }

    fn interrupted(&mut self, error: &WatchError) {
        let before = self.failing.clone();
        self.heed_failing();
        if self.failing.is_empty() {
            tracing::warn!(kind = self.kind.as_str(), %error, "watch interrupted; will retry");
        } else if before == self.failing {
            tracing::debug!(kind = self.kind.as_str(), %error, "watch interrupted; will retry");
        }
    }

    /// Each failure is logged once, and its end as well.
    fn heed_failing(&mut self) {
        let unreadable = self.platform.unreadable(self.kind);
        let unknown = unreadable.iter().filter(|(_, one)| one.unknown).map(|(namespace, _)| namespace.clone());
        let unknown: BTreeSet<String> = unknown.collect();
        self.lacking.send_if_modified(|lacking| std::mem::replace(lacking, unknown.clone()) != unknown);
        let now: BTreeMap<String, String> =
            unreadable.into_iter().map(|(namespace, one)| (namespace, one.why)).collect();
        for (namespace, why) in now.iter().filter(|(namespace, why)| self.failing.get(*namespace) != Some(why)) {
            tracing::warn!(
                kind = self.kind.as_str(),
                namespace,
                error = why,
                "could not watch a namespace; will retry"
            );
            self.metrics.reconciles.watch_failing(self.kind.as_str(), namespace, true);
        }
        for namespace in self.failing.keys().filter(|namespace| !now.contains_key(*namespace)) {
            tracing::info!(kind = self.kind.as_str(), namespace, "watching the namespace again");
            self.metrics.reconciles.watch_failing(self.kind.as_str(), namespace, false);
        }
        self.failing = now;
    }

    fn take(&mut self, event: Event<DynamicObject>) {
        if !self.failing.is_empty() {
            self.heed_failing();
        }
        match event {
            Event::Init => {
                self.listing = Some(Undecoded::new());
                self.writer.apply_watcher_event(&Event::Init);
            }
            Event::InitApply(object) => {
                if let Some(object) = self.decode(object) {
                    self.writer.apply_watcher_event(&Event::InitApply(object));
                }
            }
            Event::InitDone => {
                self.writer.apply_watcher_event(&Event::InitDone);
                let listing = self.listing.take().unwrap_or_default();
                self.bad.send_if_modified(|bad| std::mem::replace(bad, listing.clone()) != listing);
                self.report();
                self.listed.send_modify(|n| *n += 1);
                for object in self.writer.as_reader().state() {
                    self.touch(ObjectRef::from_obj(&*object));
                }
            }
            Event::Apply(object) => {
                if let Some(object) = self.decode(object) {
                    let touched = ObjectRef::from_obj(&object);
                    self.writer.apply_watcher_event(&Event::Apply(object));
                    self.touch(touched);
                }
                self.report();
            }
            Event::Delete(object) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                let known = self.writer.as_reader().get(&ObjectRef::new(&name).within(&namespace));
                self.bad.send_if_modified(|bad| bad.remove(&(namespace.clone(), name.clone())).is_some());
                self.report();
                // Whether its last version can be decoded does not matter: it is gone.
                if let Some(object) = known {
                    self.writer.apply_watcher_event(&Event::Delete((*object).clone()));
                }
                self.touch(ObjectRef::new(&name).within(&namespace));
            }
        }
    }

    fn touch(&self, object: ObjectRef<K>) {
        // No receiver: nobody leads here.
        let _ = self.touched.send(object);
    }

    /// The object; of one that can't be decoded the last good version, under the resourceVersion of now so that its status can be
    /// written.
    fn decode(&mut self, object: DynamicObject) -> Option<K> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let at = (namespace.clone(), name.clone());
        let id = ObjectId { kind: self.kind.into(), ..ObjectId::of(&object) };
        let (generation, is_told) = (object.metadata.generation.unwrap_or_default(), says_undecodable(&object));
        let why = match parsed(object) {
            Ok(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.remove(&at);
                } else {
                    self.bad.send_if_modified(|bad| bad.remove(&at).is_some());
                }
                return Some(object);
            }
            Err(why) => why,
        };
        let known = self.writer.as_reader().get(&ObjectRef::new(&name).within(&namespace));
        let last = known.filter(|known| known.uid().as_deref() == Some(id.uid.as_str()));
        // Each version is told once, through all listings.
        let is_new = self.bad.borrow().get(&at).is_none_or(|known| known.why != why || known.id.uid != id.uid);
        if is_new {
            let why = undecodable(&why);
            tracing::warn!(kind = self.kind.as_str(), namespace, name, has_last_good = last.is_some(), "{why}");
        }
        let version = id.resource_version.clone();
        let one = Undecodable { id, why, generation, has_last_good: last.is_some(), is_told };
        if let Some(listing) = &mut self.listing {
            listing.insert(at, one);
        } else {
            self.bad.send_if_modified(|bad| bad.insert(at, one.clone()).as_ref() != Some(&one));
        }
        last.map(|last| {
            let mut object = (*last).clone();
            object.meta_mut().resource_version = Some(version);
            object
        })
    }

    fn report(&self) {
        let bad = self.bad.borrow();
        self.metrics.reconciles.undecodable(self.kind.as_str(), bad.len());
        let problem = |one: &Undecodable| PlatformProblem::error(undecodable(&one.why)).about(&one.id.key());
        self.platform.report_undecodable(self.kind, bad.values().map(problem).collect());
    }
}

/// Another release may have written a status that this one does not know: it is computed anew.
fn parsed<K: Resource<DynamicType = ()> + DeserializeOwned>(mut object: DynamicObject) -> Result<K, String> {
    let whole = object.clone().try_parse::<K>();
    let Err(error) = whole.as_ref() else { return whole.map_err(|error| error.to_string()) };
    let why = error.to_string();
    let without = object.data.as_object_mut().and_then(|data| data.remove("status"));
    without.and_then(|_| object.try_parse().ok()).ok_or(why)
}

#[cfg(test)]
mod tests;

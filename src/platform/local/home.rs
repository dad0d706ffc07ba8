//! The folder as a [`Platform`].

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use kube::{api::DynamicObject, runtime::watcher::Event};
use serde_json::Value;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::{
    kinds::{Kinds, LocalKind},
    object::{Subscribers, faults_of_status, object, objects},
    records::{LocalEvent, LocalJournal, LocalRecord, LocalRecords, RecordsError},
    scan,
    schema::SchemaError,
    snapshot::{self, Derive, FolderPlan, FolderSnapshot, FolderState},
    watch::FolderWatch,
};
use crate::{
    api::{Kind, ObjectKey},
    platform::{Note, ObjectId, Platform, PlatformError, PlatformProblem, WatchError},
    telemetry::Loops,
};

/// A folder on a network's disk may take its time.
const LONGEST_SCAN: Duration = Duration::from_secs(60);

/// How a folder is watched.
#[derive(Clone)]
pub struct LocalConfig {
    /// The folder of manifests, or one file.
    pub folder: PathBuf,
    /// Kinds beside the custom resources and Secret.
    pub kinds: Vec<LocalKind>,
    /// After what time something that is no longer declared is deleted.
    pub deletion_grace: SignedDuration,
    /// How often the folder is looked at although nothing was told.
    pub rescan: Duration,
    pub clock: fn() -> Timestamp,
    /// What is declared without a file.
    pub derive: Derive,
    /// What is known is of another folder: whatever this one does not declare goes at once.
    pub of_another: bool,
}

impl LocalConfig {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            kinds: Vec::new(),
            deletion_grace: SignedDuration::from_secs(30),
            rescan: Duration::from_secs(10),
            clock: Timestamp::now,
            derive: Arc::new(|_| Vec::new()),
            of_another: false,
        }
    }
}

/// Why a folder can't be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("what is known of the folder's resources can't be read: {0}")]
    Records(#[from] RecordsError),
}

/// Resources in a folder of manifests.
pub struct LocalPlatform {
    config: LocalConfig,
    kinds: Arc<Kinds>,
    records: Arc<dyn LocalRecords>,
    journal: Arc<dyn LocalJournal>,
    inner: Arc<Mutex<Inner>>,
    problems: watch::Sender<Vec<PlatformProblem>>,
    published: parking_lot::Mutex<Published>,
}

/// When an event was last published, by object, reason and message.
type Published = HashMap<(ObjectKey, String, String), Timestamp>;

#[derive(Default)]
struct Inner {
    state: FolderState,
    /// The last snapshot that was taken in whole.
    taken: Option<FolderSnapshot>,
    subscribers: Subscribers,
}

impl LocalPlatform {
    /// Loads what is known and takes the first snapshot. [`LocalPlatform::run`] follows changes.
    pub async fn open(
        config: LocalConfig,
        records: Arc<dyn LocalRecords>,
        journal: Arc<dyn LocalJournal>,
    ) -> Result<Self, LocalError> {
        let kinds = Arc::new(Kinds::new(&config.kinds)?);
        let known = records.load().await?;
        let state = FolderState {
            resource_version: known.iter().map(|r| r.resource_version).max().unwrap_or(0),
            records: known.into_iter().map(|r| (r.key.clone(), r)).collect(),
            of_another: config.of_another,
            ..FolderState::default()
        };
        let platform = Self {
            config,
            kinds,
            records,
            journal,
            inner: Arc::new(Mutex::new(Inner { state, ..Inner::default() })),
            problems: watch::channel(Vec::new()).0,
            published: parking_lot::Mutex::default(),
        };
        platform.rescan().await?;
        Ok(platform)
    }

    /// Follows changes of the folder until cancelled.
    pub async fn run(&self, loops: &Loops, stop: CancellationToken) {
        let beat = loops.register("watch folder", self.config.rescan + LONGEST_SCAN);
        let mut watch = FolderWatch::new(&self.config.folder);
        let mut refused = None;
        loop {
            beat.beat();
            let refusal = self.rescan().await.err();
            if let Some(error) = refusal.as_ref().filter(|_| refused != refusal) {
                tracing::warn!(%error, "cannot record manifests; will retry");
            }
            refused = refusal;
            // The end of a grace period and a refused write are met by looking again soon.
            let soon = if self.unsettled().await { Duration::from_secs(1) } else { self.config.rescan };
            tokio::select! {
                () = stop.cancelled() => return,
                () = watch.changed(soon.min(self.config.rescan)) => {}
            }
        }
    }

    /// Takes a snapshot of the folder now.
    pub async fn rescan(&self) -> Result<(), RecordsError> {
        let path = self.config.folder.clone();
        let folder = tokio::task::spawn_blocking(move || scan::read(&path))
            .await
            .map_err(|error| RecordsError(error.to_string()))?;
        let mut inner = self.inner.lock().await;
        let settled = inner.state.missing.is_empty();
        if settled && inner.taken.as_ref() == Some(&folder) {
            return Ok(());
        }
        let plan = snapshot::plan(
            &folder,
            &self.kinds,
            &self.config.derive,
            &inner.state,
            self.config.deletion_grace,
            (self.config.clock)(),
            || uuid::Uuid::new_v4().to_string(),
        );
        self.say(&plan.problems);
        inner.taken = None;
        self.commit(&mut inner, plan).await?;
        inner.taken = Some(folder);
        inner.state.of_another = false;
        Ok(())
    }

    /// The current problems, and each change of them.
    pub fn watch_problems(&self) -> watch::Receiver<Vec<PlatformProblem>> {
        self.problems.subscribe()
    }

    async fn unsettled(&self) -> bool {
        let inner = self.inner.lock().await;
        inner.taken.is_none() || !inner.state.missing.is_empty()
    }

    fn say(&self, problems: &[PlatformProblem]) {
        self.problems.send_if_modified(|known| {
            let differs = known.as_slice() != problems;
            if differs {
                *known = problems.to_vec();
            }
            differs
        });
    }

    /// Each change is recorded before it is told: what can't be recorded did not happen.
    async fn commit(&self, inner: &mut Inner, plan: FolderPlan) -> Result<(), RecordsError> {
        inner.state.secrets = plan.secrets;
        inner.state.missing = plan.missing;
        inner.state.files = plan.files;
        for record in plan.puts {
            self.records.put(&record).await?;
            self.take(inner, record);
        }
        for key in plan.deletes {
            self.records.delete(&key).await?;
            if let Some(record) = inner.state.records.remove(&key) {
                let event = Event::Delete(object(&self.kinds, &record));
                inner.subscribers.tell(&key.kind, &event);
            }
        }
        Ok(())
    }

    fn take(&self, inner: &mut Inner, record: LocalRecord) {
        inner.state.resource_version = inner.state.resource_version.max(record.resource_version);
        let event = Event::Apply(object(&self.kinds, &record));
        inner.subscribers.tell(&record.key.kind, &event);
        inner.state.records.insert(record.key.clone(), record);
    }

    async fn texts(&self, kind: &str, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        let key = ObjectKey { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
        let inner = self.inner.lock().await;
        match inner.state.secrets.get(&key) {
            Some(found) => Ok(found.data.clone()),
            None => Err(PlatformError::NotFound(key.to_string())),
        }
    }

    /// Whether the same was said just before: what happens again later is told again.
    fn is_repeated(&self, about: &ObjectKey, note: &Note, now: Timestamp) -> bool {
        const JUST_BEFORE: SignedDuration = SignedDuration::from_secs(20);
        let mut published = self.published.lock();
        published.retain(|_, at| now.duration_since(*at) < JUST_BEFORE);
        let key = (about.clone(), note.reason.clone(), note.message.clone());
        let known = published.contains_key(&key);
        published.entry(key).or_insert(now);
        known
    }
}

#[async_trait]
impl Platform for LocalPlatform {
    fn watch(&self, kind: Kind) -> BoxStream<'static, Result<Event<DynamicObject>, WatchError>> {
        let (inner, kinds) = (self.inner.clone(), self.kinds.clone());
        async move {
            let mut inner = inner.lock().await;
            let present = objects(&kinds, &inner.state, kind.as_str());
            inner.subscribers.add(kind.as_str(), present)
        }
        .flatten_stream()
        .map(Ok)
        .boxed()
    }

    async fn apply_status(&self, id: &ObjectId, status: &Value) -> Result<(), PlatformError> {
        let key = id.key();
        let mut inner = self.inner.lock().await;
        let Some(record) = inner.state.records.get(&key) else {
            return Err(PlatformError::NotFound(key.to_string()));
        };
        if record.uid != id.uid || record.resource_version.to_string() != id.resource_version {
            return Err(PlatformError::Conflict(key.to_string()));
        }
        if record.status.as_ref() == Some(status) {
            return Ok(());
        }
        let faults = faults_of_status(&self.kinds, record, status);
        if !faults.is_empty() {
            let faults = faults.join("; ");
            return Err(PlatformError::Invalid(format!("status of {key}: {faults}")));
        }
        let record = LocalRecord {
            status: Some(status.clone()),
            resource_version: inner.state.resource_version + 1,
            ..record.clone()
        };
        self.records.put(&record).await.map_err(unavailable)?;
        self.take(&mut inner, record);
        Ok(())
    }

    async fn publish(&self, about: &ObjectId, note: &Note) -> Result<(), PlatformError> {
        let (about, at) = (about.key(), (self.config.clock)());
        if self.is_repeated(&about, note, at) {
            return Ok(());
        }
        let event =
            LocalEvent { at, about, warning: note.warning, reason: note.reason.clone(), message: note.message.clone() };
        self.journal.append(&event).await.map_err(unavailable)
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        self.texts("Secret", namespace, name).await
    }

    async fn secret_labels(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, PlatformError> {
        let key = ObjectKey { kind: "Secret".to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
        let inner = self.inner.lock().await;
        let found = inner.state.secrets.get(&key).map(|found| found.labels.clone());
        found.ok_or_else(|| PlatformError::NotFound(key.to_string()))
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        self.texts("ConfigMap", namespace, name).await
    }

    async fn list(&self, kind: &str) -> Result<Vec<DynamicObject>, PlatformError> {
        let inner = self.inner.lock().await;
        Ok(objects(&self.kinds, &inner.state, kind))
    }

    fn loopback_is_self(&self) -> bool {
        true
    }

    fn workers_are_pods(&self) -> bool {
        false
    }

    fn problems(&self) -> Vec<PlatformProblem> {
        self.problems.borrow().clone()
    }
}

fn unavailable(error: RecordsError) -> PlatformError {
    PlatformError::Unavailable(error.to_string())
}

//! A cluster's platform whose events are kept in the store too: the API reads them there, for 30 days, while the cluster
//! forgets its own after an hour.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use kube::{api::DynamicObject, runtime::watcher};
use parking_lot::Mutex;

use crate::{
    api::{Kind, ObjectKey},
    platform::{Namespaces, Note, ObjectId, Platform, PlatformError, PlatformProblem, Unreadable, WatchError},
    store::{JournalEntry, Store},
};

/// The time in which Kubernetes counts an event instead of repeating it.
const SERIES: SignedDuration = SignedDuration::from_mins(6);

/// Object, reason and message.
type Said = (ObjectKey, String, String);

pub struct Journaled {
    inner: Arc<dyn Platform>,
    store: Arc<dyn Store>,
    said: Mutex<HashMap<Said, Timestamp>>,
}

impl Journaled {
    pub fn new(inner: Arc<dyn Platform>, store: Arc<dyn Store>) -> Self {
        Self { inner, store, said: Mutex::default() }
    }

    fn is_repeated(&self, said: Said, now: Timestamp) -> bool {
        let mut known = self.said.lock();
        known.retain(|_, at| now.duration_since(*at) < SERIES);
        known.insert(said, now).is_some()
    }

    async fn keep(&self, about: &ObjectId, note: &Note) {
        let at = Timestamp::now();
        let ObjectId { kind, namespace, name, .. } = about.clone();
        let about = ObjectKey { kind, namespace, name };
        if self.is_repeated((about.clone(), note.reason.clone(), note.message.clone()), at) {
            return;
        }
        let Note { warning, reason, message, .. } = note.clone();
        let entry = JournalEntry { at, about, warning, reason, message };
        if let Err(error) = self.store.append(&entry).await {
            tracing::warn!(kind = entry.about.kind, name = entry.about.name, %error, "event not kept");
        }
    }
}

#[async_trait]
impl Platform for Journaled {
    fn watch(&self, kind: Kind) -> BoxStream<'static, Result<watcher::Event<DynamicObject>, WatchError>> {
        self.inner.watch(kind)
    }

    async fn apply_status(&self, id: &ObjectId, status: &serde_json::Value) -> Result<(), PlatformError> {
        self.inner.apply_status(id, status).await
    }

    /// Kept also while the API server is away: healing goes on then, and somebody will ask what it did.
    async fn publish(&self, about: &ObjectId, note: &Note) -> Result<(), PlatformError> {
        self.keep(about, note).await;
        self.inner.publish(about, note).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        self.inner.secret(namespace, name).await
    }

    async fn secret_labels(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, PlatformError> {
        self.inner.secret_labels(namespace, name).await
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        self.inner.config_map(namespace, name).await
    }

    async fn list(&self, kind: &str) -> Result<Vec<DynamicObject>, PlatformError> {
        self.inner.list(kind).await
    }

    fn loopback_is_self(&self) -> bool {
        self.inner.loopback_is_self()
    }

    fn workers_are_pods(&self) -> bool {
        self.inner.workers_are_pods()
    }

    fn problems(&self) -> Vec<PlatformProblem> {
        self.inner.problems()
    }

    async fn namespaces(&self) -> Result<Namespaces, PlatformError> {
        self.inner.namespaces().await
    }

    fn unreadable(&self, kind: Kind) -> BTreeMap<String, Unreadable> {
        self.inner.unreadable(kind)
    }

    fn report_undecodable(&self, kind: Kind, problems: Vec<PlatformProblem>) {
        self.inner.report_undecodable(kind, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Home, JournalFilter, open, sqlite::FolderAccess};

    /// An API server that is away.
    struct Away;

    #[async_trait]
    impl Platform for Away {
        fn watch(&self, _: Kind) -> BoxStream<'static, Result<watcher::Event<DynamicObject>, WatchError>> {
            Box::pin(futures::stream::pending())
        }
        async fn apply_status(&self, _: &ObjectId, _: &serde_json::Value) -> Result<(), PlatformError> {
            Err(PlatformError::Unavailable("away".into()))
        }
        async fn publish(&self, _: &ObjectId, _: &Note) -> Result<(), PlatformError> {
            Err(PlatformError::Unavailable("away".into()))
        }
        async fn secret(&self, _: &str, _: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
            Err(PlatformError::Unavailable("away".into()))
        }
        async fn secret_labels(&self, _: &str, _: &str) -> Result<BTreeMap<String, String>, PlatformError> {
            Err(PlatformError::Unavailable("away".into()))
        }
        async fn config_map(&self, _: &str, _: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
            Err(PlatformError::Unavailable("away".into()))
        }
        async fn list(&self, _: &str) -> Result<Vec<DynamicObject>, PlatformError> {
            Err(PlatformError::Unavailable("away".into()))
        }
        fn loopback_is_self(&self) -> bool {
            false
        }
        fn workers_are_pods(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn an_event_is_kept_once_also_while_the_api_server_is_away() {
        let folder = std::env::temp_dir().join(format!("ostler-journaled-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let store = open(&Home::Folder { path: folder.clone(), hold: FolderAccess::Lock }, None).await.unwrap();
        let platform = Journaled::new(Arc::new(Away), Arc::clone(&store));
        let about = ObjectId {
            kind: "LLMBackend".into(),
            namespace: "team".into(),
            name: "mlx".into(),
            uid: "u".into(),
            resource_version: "1".into(),
        };
        let note = |reason: &str| Note {
            warning: true,
            reason: reason.into(),
            action: "Restart".into(),
            message: "why".into(),
        };
        for reason in ["Down", "Down", "RecoveryStarted"] {
            assert!(platform.publish(&about, &note(reason)).await.is_err(), "the caller is told");
        }
        let kept = store.journal(&JournalFilter::default()).await.unwrap();
        let reasons: Vec<&str> = kept.iter().rev().map(|e| e.reason.as_str()).collect();
        assert_eq!(reasons, ["Down", "RecoveryStarted"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

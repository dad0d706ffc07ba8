//! Where a worker finds secrets: with the platform in the same process, or sealed in the database.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    platform::Platform,
    store::{Store, seal},
};

/// How long a value is used before it is read again.
const FRESH: Duration = Duration::from_secs(30);

type Data = BTreeMap<String, Vec<u8>>;
/// By namespace and name: when it was read, and what it was.
type Known = HashMap<(String, String), (Instant, Arc<Data>)>;

/// The data of Secrets. The error says what is missing and what to do, never a value.
#[async_trait]
pub trait CallSecrets: Send + Sync {
    async fn data(&self, namespace: &str, name: &str) -> Result<Data, String>;
}

/// Under `ostler up`: from the folder.
pub struct PlatformSecrets(pub Arc<dyn Platform>);

#[async_trait]
impl CallSecrets for PlatformSecrets {
    async fn data(&self, namespace: &str, name: &str) -> Result<Data, String> {
        self.0.secret(namespace, name).await.map_err(|error| format!("Secret {namespace}/{name}: {error}"))
    }
}

/// Elsewhere: from the database, where the leader puts those that workers need, sealed.
pub struct SealedSecrets {
    pub store: Arc<dyn Store>,
    /// `None`: OSTLER_KEY is not set.
    pub key: Option<seal::Key>,
}

#[async_trait]
impl CallSecrets for SealedSecrets {
    async fn data(&self, namespace: &str, name: &str) -> Result<Data, String> {
        let rows = self.store.declared(seal::KIND).await.map_err(|error| error.to_string())?;
        let row = rows.iter().find(|row| row.namespace == namespace && row.name == name).ok_or_else(|| {
            format!("Secret {namespace}/{name} is not in the database: give OSTLER_KEY to the controller as well, and see whether the Secret is there")
        })?;
        let key = self.key.as_ref().ok_or_else(|| {
            format!("Secret {namespace}/{name} is sealed: set OSTLER_KEY to the key that the controller has")
        })?;
        seal::open(key, row).map_err(|error| format!("Secret {namespace}/{name}: {error}"))
    }
}

/// A small cache in front of either. While the source is away the last good value serves.
#[derive(Clone)]
pub struct CachedSecrets {
    source: Arc<dyn CallSecrets>,
    known: Arc<Mutex<Known>>,
}

impl CachedSecrets {
    pub fn new(source: Arc<dyn CallSecrets>) -> Self {
        Self { source, known: Arc::default() }
    }

    /// One key of a Secret as text.
    pub async fn text(&self, namespace: &str, name: &str, field: &str) -> Result<String, String> {
        let data = self.data(namespace, name).await?;
        let bytes = data.get(field).ok_or_else(|| format!("Secret {namespace}/{name} has no key {field}"))?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| format!("key {field} of Secret {namespace}/{name} is not text"))?;
        Ok(text.trim().to_owned())
    }

    async fn data(&self, namespace: &str, name: &str) -> Result<Arc<Data>, String> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = self.known.lock().get(&key).cloned();
        if let Some((_, data)) = known.as_ref().filter(|(read, _)| read.elapsed() < FRESH) {
            return Ok(Arc::clone(data));
        }
        match self.source.data(namespace, name).await {
            Ok(data) => {
                let data = Arc::new(data);
                self.known.lock().insert(key, (Instant::now(), Arc::clone(&data)));
                Ok(data)
            }
            Err(error) => known.map(|(_, data)| data).ok_or(error),
        }
    }
}

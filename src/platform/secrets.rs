//! Secrets, read through a platform. While the API server is away the last good value serves.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Platform, PlatformError};

/// How long a value is waited for: less than a pass may take, so that the last good one serves in time.
const WAIT: Duration = Duration::from_secs(4);
/// How long a value is used before it is read again.
const FRESH: Duration = Duration::from_secs(30);

type Data = Arc<BTreeMap<String, Vec<u8>>>;
/// Namespace and name.
type Key = (String, String);

/// A small cache.
#[derive(Clone)]
pub struct Secrets {
    platform: Arc<dyn Platform>,
    known: Arc<Mutex<HashMap<Key, (Instant, Data)>>>,
}

impl Secrets {
    pub fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform, known: Arc::default() }
    }

    /// One key of a Secret as text. The error says what is missing, in words for a condition.
    pub async fn text(&self, namespace: &str, name: &str, field: &str) -> Result<String, SecretError> {
        let none = || SecretError::Missing(format!("Secret {namespace}/{name} has no key {field}: add it"));
        self.optional(namespace, name, field).await?.ok_or_else(none)
    }

    /// The same, where the key may be left out.
    pub async fn optional(&self, namespace: &str, name: &str, field: &str) -> Result<Option<String>, SecretError> {
        let data = self.data(namespace, name).await?;
        let Some(bytes) = data.get(field) else { return Ok(None) };
        let no_text = |_| SecretError::Missing(format!("key {field} of Secret {namespace}/{name} is not text"));
        let text = std::str::from_utf8(bytes).map_err(no_text)?;
        Ok(Some(text.trim().to_owned()))
    }

    async fn data(&self, namespace: &str, name: &str) -> Result<Data, SecretError> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = self.known.lock().get(&key).cloned();
        if let Some((_, data)) = known.as_ref().filter(|(read, _)| read.elapsed() < FRESH) {
            return Ok(Arc::clone(data));
        }
        let late =
            || PlatformError::Unavailable(format!("Secret {namespace}/{name}: no answer within {} s", WAIT.as_secs()));
        let read = tokio::time::timeout(WAIT, self.platform.secret(namespace, name)).await;
        match read.unwrap_or_else(|_| Err(late())) {
            Ok(data) => {
                let data = Arc::new(data);
                self.known.lock().insert(key, (Instant::now(), Arc::clone(&data)));
                Ok(data)
            }
            Err(PlatformError::NotFound(_)) => {
                self.known.lock().remove(&key);
                Err(SecretError::Missing(format!("Secret {namespace}/{name} is not there: create it")))
            }
            Err(PlatformError::Forbidden(why)) => {
                Err(SecretError::Missing(format!("Secret {namespace}/{name} may not be read: {why}")))
            }
            Err(error) => known.map(|(_, data)| data).ok_or(SecretError::Unavailable(error)),
        }
    }
}

/// Why a Secret gives no value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SecretError {
    /// A person must mend it.
    #[error("{0}")]
    Missing(String),
    /// It may pass.
    #[error("{0}")]
    Unavailable(PlatformError),
}

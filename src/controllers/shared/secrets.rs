//! Secrets, read through the platform. While the API server is away the last good value serves.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::platform::{Platform, PlatformError};

use super::Key;

/// How long a value is used before it is read again.
const FRESH: Duration = Duration::from_secs(30);

type Data = Arc<BTreeMap<String, Vec<u8>>>;

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
    pub async fn text(&self, secret: &Key, field: &str) -> Result<String, SecretError> {
        let data = self.data(secret).await?;
        let bytes =
            data.get(field).ok_or_else(|| SecretError::Missing(format!("Secret {secret} has no key {field}")))?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_| SecretError::Missing(format!("key {field} of Secret {secret} is not text")))?;
        Ok(text.trim().to_owned())
    }

    /// The same, where the key may be left out.
    pub async fn optional(&self, secret: &Key, field: &str) -> Result<Option<String>, SecretError> {
        let there = self.data(secret).await?.contains_key(field);
        if there { self.text(secret, field).await.map(Some) } else { Ok(None) }
    }

    async fn data(&self, secret: &Key) -> Result<Data, SecretError> {
        let known = self.lock().get(secret).cloned();
        if let Some((_, data)) = known.as_ref().filter(|(read, _)| read.elapsed() < FRESH) {
            return Ok(Arc::clone(data));
        }
        match self.platform.secret(&secret.namespace, &secret.name).await {
            Ok(data) => {
                let data = Arc::new(data);
                self.lock().insert(secret.clone(), (Instant::now(), Arc::clone(&data)));
                Ok(data)
            }
            Err(PlatformError::NotFound(_)) => {
                self.lock().remove(secret);
                Err(SecretError::Missing(format!("Secret {secret} is not there: create it")))
            }
            Err(PlatformError::Forbidden(why)) => {
                Err(SecretError::Missing(format!("Secret {secret} may not be read: {why}")))
            }
            Err(error) => known.map(|(_, data)| data).ok_or(SecretError::Unavailable(error)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, (Instant, Data)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

//! Names of hosts, turned into addresses. The system's resolver can take half a minute and can't be stopped: a name is looked up once
//! at a time, and whoever gave up on it can tell that it was the name that they waited for.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::timeout;

/// A resolver of this machine answers within milliseconds; one that asks far away within a second.
const PATIENCE: Duration = Duration::from_secs(5);

type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;
type Pending = Shared<BoxFuture<'static, Result<Vec<SocketAddr>, Unresolved>>>;

/// A name without an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unresolved(String);

/// What is being looked up now.
#[derive(Clone)]
pub(super) struct Names {
    lookup: Lookup,
    patience: Duration,
    pending: Arc<Mutex<HashMap<String, Pending>>>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Default for Names {
    fn default() -> Self {
        // Port 0 is replaced by the URL's.
        let lookup = |name| async move { tokio::net::lookup_host((name, 0)).await.map(Iterator::collect) }.boxed();
        Self::new(Arc::new(lookup), PATIENCE)
    }
}

impl Names {
    pub(super) fn new(lookup: Lookup, patience: Duration) -> Self {
        Self { lookup, patience, pending: Arc::default() }
    }

    /// Why a call to this host got nowhere, if its name is still being looked up.
    pub(super) fn unresolved(&self, host: &str) -> Option<String> {
        self.pending.lock().contains_key(&host.to_ascii_lowercase()).then(|| slow(host))
    }

    async fn addresses(&self, name: String) -> Result<Vec<SocketAddr>, Unresolved> {
        let pending = self.begin(name.to_ascii_lowercase());
        timeout(self.patience, pending).await.unwrap_or_else(|_| Err(Unresolved(slow(&name))))
    }

    /// Joins the lookup that is under way, or begins one. It goes on in a task of its own, whoever waits for it.
    fn begin(&self, name: String) -> Pending {
        let mut pending = self.pending.lock();
        if let Some(known) = pending.get(&name) {
            return known.clone();
        }
        let (this, key, found) = (self.clone(), name.clone(), (self.lookup)(name.clone()));
        let task = tokio::spawn(async move {
            let found = found.await.map_err(|error| Unresolved(format!("the name {key} can't be resolved: {error}")));
            this.pending.lock().remove(&key);
            found
        });
        let cut = |_| Err(Unresolved("the lookup broke off".to_owned()));
        let begun = task.map(move |ended| ended.unwrap_or_else(cut)).boxed().shared();
        pending.insert(name, begun.clone());
        begun
    }
}

fn slow(host: &str) -> String {
    format!("the name {host} is not resolved: the name server does not answer")
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.addresses(name.as_str().to_owned()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A resolver that never answers, and how often it was asked.
    pub fn silent() -> (Names, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookup = move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::pending().boxed()
        };
        (Names::new(Arc::new(lookup), Duration::from_millis(100)), asked)
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_at_a_time_and_given_up_on() {
        let (names, asked) = silent();
        let (a, b) = tokio::join!(names.addresses("h.example".into()), names.addresses("H.example".into()));
        assert!(a.unwrap_err().0.contains("h.example") && b.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(names.unresolved("h.example").is_some() && names.unresolved("other.example").is_none());
    }

    #[tokio::test]
    async fn what_is_found_is_no_longer_pending() {
        let names = Names::default();
        let found = names.addresses("localhost".into()).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
        assert!(names.unresolved("localhost").is_none());
        assert!(names.addresses("no such name.invalid".into()).await.is_err());
    }
}

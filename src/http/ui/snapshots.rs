//! The overview as it was read last: however many pages are open, it is read once a second.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::http::{ApiError, Overview};

const LASTS: Duration = Duration::from_secs(1);
/// Namespaces are words of a query: anybody's.
const MOST_NAMESPACES: usize = 64;

type Snapshot = (Instant, Arc<Overview>);

#[derive(Clone, Default)]
pub struct UiSnapshots(Arc<Mutex<HashMap<Option<String>, Snapshot>>>);

impl UiSnapshots {
    /// The overview of a namespace, or of all: at most a second old. Whoever comes while it is read waits for the same.
    pub async fn get(
        &self,
        namespace: Option<&str>,
        read: impl Future<Output = Result<Overview, ApiError>>,
    ) -> Result<Arc<Overview>, ApiError> {
        let mut known = self.0.lock().await;
        let namespace = namespace.map(str::to_owned);
        known.retain(|_, (at, _)| at.elapsed() < LASTS);
        if let Some((_, overview)) = known.get(&namespace) {
            return Ok(Arc::clone(overview));
        }
        let overview = Arc::new(read.await?);
        if known.len() < MOST_NAMESPACES {
            known.insert(namespace, (Instant::now(), Arc::clone(&overview)));
        }
        Ok(overview)
    }

    /// Somebody changed something: that shows at once.
    pub async fn forget(&self) {
        self.0.lock().await.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview() -> Overview {
        serde_json::from_value(
            serde_json::json!({"now": "2026-03-01T12:00:00Z", "healthy": true, "leader": null, "pause": null,
            "backends": [], "agents": [], "problems": []}),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn many_pages_read_once_and_what_failed_is_read_again() {
        let (snapshots, mut reads) = (UiSnapshots::default(), 0);
        let lost: Result<Overview, ApiError> = Err(ApiError::NoLeader);
        assert!(snapshots.get(None, async { lost }).await.is_err());
        for (namespace, expected) in [(None, 1), (None, 1), (Some("team"), 2), (None, 2)] {
            let read = async {
                reads += 1;
                Ok(overview())
            };
            snapshots.get(namespace, read).await.unwrap();
            assert_eq!(reads, expected, "{namespace:?}");
        }
        snapshots.forget().await;
        let read = async {
            reads += 1;
            Ok(overview())
        };
        snapshots.get(None, read).await.unwrap();
        assert_eq!(reads, 3, "after a change");
    }
}

//! What people asked for outside of manifests: pause, and locally suspend, resume and reconcile.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{ControlSet, ResourceKey, Store},
    telemetry::Beat,
};

use super::Key;

const PERIOD: Duration = Duration::from_secs(1);

/// The controls as they were last read.
#[derive(Clone)]
pub struct Wishes {
    controls: watch::Receiver<Arc<ControlSet>>,
}

impl Wishes {
    /// Reads the controls now, and again each second. While the database is away the last ones hold.
    pub async fn start(store: Arc<dyn Store>, beat: Beat, shutdown: CancellationToken) -> Self {
        let first = store.controls().await.unwrap_or_default();
        let (sender, controls) = watch::channel(Arc::new(first));
        tokio::spawn(async move {
            while shutdown.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
                beat.beat();
                match store.controls().await {
                    Ok(read) => {
                        sender.send_if_modified(|known| {
                            let changed = **known != read;
                            if changed {
                                *known = Arc::new(read);
                            }
                            changed
                        });
                    }
                    Err(error) => tracing::debug!(%error, "people's wishes not read"),
                }
            }
        });
        Self { controls }
    }

    /// Waits until something changed.
    pub async fn changed(&mut self) -> bool {
        self.controls.changed().await.is_ok()
    }

    pub fn is_paused(&self, now: Timestamp) -> bool {
        self.controls.borrow().pause.as_ref().is_some_and(|p| p.until.is_none_or(|until| now < until))
    }

    /// A person's word on suspension, over the manifest's.
    pub fn suspended(&self, kind: &str, key: &Key) -> Option<bool> {
        let controls = self.controls.borrow();
        controls.suspended.iter().find(|(k, _)| is(k, kind, key)).map(|(_, s)| s.suspended)
    }

    /// The newest request for something about an object, by its annotation or through the API: both are timestamps.
    pub fn requested(&self, object: &impl ResourceExt, annotation: &str, kind: &str, key: &Key) -> Option<String> {
        object.annotations().get(annotation).cloned().max(self.reconcile_token(kind, key))
    }

    /// The last `reconcile` of a resource that was asked through the API.
    pub fn reconcile_token(&self, kind: &str, key: &Key) -> Option<String> {
        let controls = self.controls.borrow();
        controls.reconcile_requested.iter().find(|(k, _)| is(k, kind, key)).map(|(_, token)| token.clone())
    }
}

fn is(resource: &ResourceKey, kind: &str, key: &Key) -> bool {
    resource.kind == kind && resource.namespace == key.namespace && resource.name == key.name
}

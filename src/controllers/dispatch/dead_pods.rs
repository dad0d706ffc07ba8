//! Frees what processes hold whose pods are gone.

use std::{sync::Arc, time::Duration};

use crate::{
    base::tick,
    runtimes::{WorkerPods, WorkloadError},
    store::{BootInstant, DeathWatch, HolderRow, ProcessIdentity, StoreError, Topics},
};

use super::LoopContext;

const PERIOD: Duration = Duration::from_secs(2);
/// The same while no process of a pod holds anything.
const SELDOM: Duration = Duration::from_secs(30);
/// Workers report every three seconds. The API server is asked about those that are silent for longer than this.
const SILENT: Duration = Duration::from_secs(7);

pub async fn run(context: LoopContext, pods: Arc<WorkerPods>) {
    let mut deaths = DeathWatch::default();
    let mut claims = context.store.follow(Topics::STARTED);
    loop {
        context.beat.beat();
        let passed = context.note("free what dead pods hold", pass(&context, &pods, &mut deaths).await);
        tick(PERIOD).await;
        if passed == Some(false) {
            claims.changed(SELDOM).await;
        }
    }
}

/// Returns whether processes of pods hold anything.
async fn pass(context: &LoopContext, pods: &WorkerPods, deaths: &mut DeathWatch) -> Result<bool, StoreError> {
    let mut rows = context.store.busy_holders().await?;
    rows.retain(|row| row.process.pod.is_some());
    deaths.keep(&rows);
    for row in rows.iter().filter(|row| is_silent(row, ProcessIdentity::own())) {
        let Some(pod) = &row.process.pod else { continue };
        match pods.has_ended(&pod.namespace, &pod.name, &pod.uid, row.process.known_since).await {
            Ok(true) => deaths.free(&*context.store, row, "its pod is gone", BootInstant::now()).await?,
            Ok(false) | Err(WorkloadError::NoCluster) => {}
            Err(error) => {
                tracing::debug!(holder = row.holder, %error, "could not ask for a holder's pod; will retry");
                break;
            }
        }
    }
    Ok(!rows.is_empty())
}

fn is_silent(row: &HolderRow, own: &ProcessIdentity) -> bool {
    row.process.pod != own.pod && row.reported_ago.is_none_or(|ago| ago >= SILENT)
}

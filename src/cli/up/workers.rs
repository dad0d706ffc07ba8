//! The workers of this process: one for each WorkerPool of the folder.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::process::{holder, host};
use crate::{
    api::Kind,
    base::tick,
    calls::PlatformSecrets,
    net::HttpClient,
    platform::Platform,
    store::Store,
    telemetry::{Loops, WorkerMetrics},
    worker::{Timings, Worker, WorkerParts},
};

/// How often the folder's pools are compared with the workers that run.
const PERIOD: Duration = Duration::from_secs(2);

/// Namespace and name.
type Key = (String, String);

/// What all workers of this process have in common.
pub struct PoolWorkers {
    pub store: Arc<dyn Store>,
    pub platform: Arc<dyn Platform>,
    pub http: HttpClient,
    pub metrics: WorkerMetrics,
    pub loops: Loops,
    /// Where results wait while the database is away.
    pub spool: PathBuf,
}

/// Follows the folder until `shutdown`, then drains all.
pub async fn follow(common: PoolWorkers, shutdown: CancellationToken) {
    let beat = common.loops.register("workers", Duration::from_secs(120));
    let mut running: BTreeMap<Key, (CancellationToken, JoinHandle<()>)> = BTreeMap::new();
    loop {
        beat.beat();
        converge(&common, &mut running).await;
        if shutdown.run_until_cancelled(tick(PERIOD)).await.is_none() {
            break;
        }
    }
    // While they drain, nobody waits for a beat.
    drop(beat);
    for (stop, _) in running.values() {
        stop.cancel();
    }
    for (key, (_, worker)) in running {
        if let Err(error) = worker.await {
            tracing::error!(pool = key.1, %error, "a worker failed");
        }
    }
}

async fn converge(common: &PoolWorkers, running: &mut BTreeMap<Key, (CancellationToken, JoinHandle<()>)>) {
    let Ok(pools) = common.platform.list(Kind::WorkerPool.as_str()).await else { return };
    let declared: Vec<Key> = pools.iter().map(|p| (p.namespace().unwrap_or_default(), p.name_any())).collect();
    running.retain(|key, (stop, worker)| {
        if !declared.contains(key) {
            // It drains beside whatever comes next.
            stop.cancel();
        }
        !worker.is_finished()
    });
    for key in declared {
        if running.contains_key(&key) {
            continue;
        }
        match worker(common, &key) {
            Ok(worker) => {
                let stop = CancellationToken::new();
                let works = tokio::spawn(worker.run(stop.clone()));
                running.insert(key, (stop, works));
            }
            Err(error) => tracing::error!(pool = key.1, %error, "a worker can't begin"),
        }
    }
}

fn worker(common: &PoolWorkers, (namespace, pool): &Key) -> Result<Worker, crate::worker::SpoolError> {
    let PoolWorkers { store, platform, http, metrics, loops, spool } = common;
    Worker::new(WorkerParts {
        store: Arc::clone(store),
        secrets: Arc::new(PlatformSecrets(Arc::clone(platform))),
        http: http.clone(),
        metrics: metrics.clone(),
        loops: loops.clone(),
        holder: holder(),
        host: host(),
        namespace: namespace.clone(),
        pool: pool.clone(),
        spool: spool.clone(),
        timings: Timings::default(),
    })
}

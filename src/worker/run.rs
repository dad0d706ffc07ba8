//! The loops of a worker, and how it ends.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    claiming::{self, BatchWait},
    core::{Core, DatabaseClock, Places, Timings},
    finish::Finisher,
    job::Jobs,
    leases::Leases,
    load::{Governor, Sensor},
    report::{State, report},
    spool::Spool,
    stats::Stats,
    world::PoolView,
};
use crate::{
    api::{LimitedBy, PoolConcurrency},
    base::{Burst, tick},
    calls::{CachedSecrets, CallSecrets, CallStopped, EvidenceLog, HeldSlots, Targets, seconds},
    net::HttpClient,
    store::{BootInstant, ProcessIdentity, Store, Topics},
    telemetry::{Beat, Loops, WorkerMetrics},
};

/// A loop that is silent for longer is stuck: longer than any statement's timeout.
const MAY_BE_SILENT: Duration = Duration::from_secs(120);
/// CPU and memory are read so often.
const SENSE: Duration = Duration::from_secs(1);
/// The same while nothing runs.
const SENSE_IDLE: Duration = Duration::from_secs(5);
/// Where no pool says how long draining may take.
const USUAL_DRAIN: Duration = Duration::from_secs(300);
/// For aborted calls to end.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Longer than any statement's timeout: what can't be recorded must be on disk.
const RECORD: Duration = Duration::from_secs(60);

/// What a worker is made of.
pub struct WorkerParts {
    pub store: Arc<dyn Store>,
    pub secrets: Arc<dyn CallSecrets>,
    pub http: HttpClient,
    pub metrics: WorkerMetrics,
    pub loops: Loops,
    /// Unique for this process and pool.
    pub holder: String,
    /// The pod, or the machine.
    pub host: String,
    pub namespace: String,
    pub pool: String,
    /// Where results wait while the database is away.
    pub spool: PathBuf,
    pub timings: Timings,
}

/// Why a worker can't begin.
#[derive(Debug, thiserror::Error)]
#[error("can't keep results in {}: {error}; choose another folder with --spool DIR", folder.display())]
pub struct SpoolError {
    pub folder: PathBuf,
    pub error: std::io::Error,
}

/// A worker at work.
pub struct Worker {
    core: Arc<Core>,
    host: String,
    loops: Loops,
    finisher: tokio::task::JoinHandle<()>,
    recorded: CancellationToken,
    sensor: Sensor,
}

impl Worker {
    pub fn new(parts: WorkerParts) -> Result<Self, SpoolError> {
        let WorkerParts { store, secrets, http, metrics, loops, holder, host, namespace, pool, spool, timings } = parts;
        let folder = spool;
        let spool = Spool::open(&folder).map_err(|error| SpoolError { folder: folder.clone(), error })?;
        let recorded = CancellationToken::new();
        let name = format!("{namespace}/{pool}");
        let (finisher, recording) =
            Finisher::start(Arc::clone(&store), spool, metrics.clone(), &name, recorded.clone());
        let secrets = CachedSecrets::new(secrets);
        let core = Core {
            leases: Leases::new(Arc::clone(&store), holder.clone()),
            slots: HeldSlots::new(Arc::clone(&store), timings.slot_lease),
            targets: Targets::new(http.clone(), secrets.clone()),
            jobs: Jobs::default(),
            stats: Stats::default(),
            evidence: EvidenceLog::default(),
            draining: CancellationToken::new(),
            wake: Notify::new(),
            places: Places::default(),
            world: RwLock::default(),
            clock: DatabaseClock::default(),
            store,
            namespace,
            pool,
            holder,
            http,
            secrets,
            timings,
            metrics,
            finisher,
        };
        Ok(Self { core: Arc::new(core), host, loops, finisher: recording, recorded, sensor: Sensor::new(folder) })
    }

    /// Works until `shutdown`, then drains: no new claims, what runs is finished within `drainSeconds`, what does not end by then is
    /// given back.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { core, host, loops, finisher, recorded, sensor } = self;
        tracing::info!(pool = core.pool, namespace = core.namespace, holder = core.holder, "worker begins");
        let ended = CancellationToken::new();
        let state = Arc::new(State::default());
        let beat =
            |name: &str| loops.register(format!("worker {}/{}: {name}", core.namespace, core.pool), MAY_BE_SILENT);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(keep(Arc::clone(&core), beat("leases"), ended.clone()));
        tasks.spawn(govern(Arc::clone(&core), Arc::clone(&state), sensor, beat("load"), ended.clone()));
        tasks.spawn(report(Arc::clone(&core), Arc::clone(&state), host, beat("reports"), ended.clone()));
        claim(&core, &state, &beat("claims"), &shutdown).await;
        drain(&core, &state).await;
        recorded.cancel();
        if tokio::time::timeout(RECORD, finisher).await.is_err() {
            tracing::warn!("the last results are not recorded: those on disk are replayed by the next worker");
        }
        ended.cancel();
        while tasks.join_next().await.is_some() {}
        // What is still claimed goes back at once.
        core.leases.close(|_| true).await;
        core.slots.doubt();
        if let Err(error) = claiming::give_back_unknown_slots(&core).await {
            tracing::debug!(%error, "slots lapse by themselves");
        }
        if let Err(error) = core.store.worker_left(&core.holder).await {
            tracing::debug!(%error, "the last report stays until it is old");
        }
        tracing::info!(pool = core.pool, "worker ended");
    }
}

/// Reads what is declared, and claims as long as there is room. While nothing changes it sleeps.
async fn claim(core: &Arc<Core>, state: &State, beat: &Beat, shutdown: &CancellationToken) {
    let mut world = core.store.follow(Topics::WORLD);
    let mut read_at: Option<tokio::time::Instant> = None;
    let mut is_registered = false;
    let (mut failing, mut busy) = (false, false);
    let mut burst = Burst::new(core.timings.between);
    let mut wait = BatchWait::default();
    // What changes from here on is a reason for another round.
    let mut changes = core.store.follow(Topics::READY | Topics::ENDED | Topics::WORLD | Topics::SLOTS);
    while !shutdown.is_cancelled() {
        beat.beat();
        let began = tokio::time::Instant::now();
        let looked = async {
            if !is_registered {
                core.store.register_holder(&core.holder, ProcessIdentity::own()).await?;
                is_registered = true;
            }
            if world.take() || read_at.is_none_or(|at| at.elapsed() >= core.timings.world) {
                read_at = None;
                let asked = BootInstant::now();
                core.clock.read(core.store.now().await?, asked);
                core.set_world(PoolView::read(&*core.store, &core.namespace, &core.pool).await?);
                read_at = Some(began);
            }
            core.metrics.in_flight(&core.namespace, &core.pool, core.places.taken());
            claiming::round(core, busy).await
        };
        let found = match looked.await {
            Ok(found) => {
                failing = false;
                found
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "nothing is claimed while the database is away");
                }
                failing = true;
                claiming::ClaimRound::default()
            }
        };
        state.servers_short.store(found.round.servers_short, Ordering::Relaxed);
        wait.tell(core, found.waits && found.round.servers_short && found.claimed == 0).await;
        busy = found.claimed > 0;
        if busy {
            continue;
        }
        let most = match found.next_due {
            _ if failing => core.timings.poll,
            _ if found.waits && found.round.servers_short => core.timings.poll,
            _ if found.waits => core.timings.waiting,
            Some(due) => due.min(core.timings.idle),
            None => core.timings.idle,
        };
        if !failing {
            core.leases.rest(core.timings.rest).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = core.wake.notified() => {}
            _ = changes.changed(most.min(core.timings.world)) => {}
        }
        // Changes come in swarms: a round for each would be a burden on the database.
        let gap_ends = began + burst.begin(began);
        let _ = shutdown.run_until_cancelled(tokio::time::sleep_until(gap_ends)).await;
    }
}

/// Renews leases and slots, and asks which claims are lost.
async fn keep(core: Arc<Core>, beat: Beat, ended: CancellationToken) {
    let every = core.timings.heartbeat.min(Duration::from_secs(1));
    let mut slots_at = tokio::time::Instant::now();
    let mut asked_at = slots_at;
    while ended.run_until_cancelled(tick(every)).await.is_some() {
        beat.beat();
        if let Err(error) = core.leases.renew().await {
            tracing::debug!(%error, "leases are not renewed");
        }
        if slots_at.elapsed() >= core.timings.slot_lease / 3 {
            slots_at = tokio::time::Instant::now();
            core.slots.renew().await;
        } else {
            core.slots.record_calls().await;
        }
        if asked_at.elapsed() >= core.timings.heartbeat {
            asked_at = tokio::time::Instant::now();
            abort_lost(&core).await;
        }
        let world = core.world();
        let busy: Vec<_> = core.jobs.all().iter().map(|job| job.lease.queue.clone()).collect();
        core.leases.close(|held| !world.queues.contains_key(&held.queue) && !busy.contains(&held.queue)).await;
    }
}

async fn abort_lost(core: &Core) {
    let jobs = core.jobs.all();
    let claims: Vec<_> = jobs.iter().map(|job| (job.task.id, job.task.epoch)).collect();
    if claims.is_empty() {
        return;
    }
    match core.store.lost_claims(&claims).await {
        Ok(lost) => {
            for job in jobs.iter().filter(|job| lost.contains(&job.task.id)) {
                tracing::info!(
                    task = job.task.id,
                    epoch = job.task.epoch,
                    "a task is not ours any more: its call is aborted"
                );
                job.stop(CallStopped::NotOurs);
            }
        }
        Err(error) => tracing::debug!(%error, "nobody knows which claims are lost"),
    }
}

/// Moves what may be done at once.
async fn govern(core: Arc<Core>, state: Arc<State>, mut sensor: Sensor, beat: Beat, ended: CancellationToken) {
    let mut governor = Governor::default();
    let claiming = format!("claim tasks of {}/{}", core.namespace, core.pool);
    loop {
        beat.beat();
        let declared = core.world().pool.as_ref().map_or_else(PoolConcurrency::default, |p| p.spec.concurrency.clone());
        let allowance = governor.step(&declared, &sensor.read());
        let more = allowance.most > core.places.allowed();
        core.places.allow(allowance.most);
        core.metrics.allowed(&core.namespace, &core.pool, allowance.most);
        // What claims nothing writes nothing: no statement would fail and tell.
        match allowance.limited_by {
            LimitedBy::Disk => core.metrics.troubles.failed(&claiming, sensor.full_disk(), true),
            _ => core.metrics.troubles.over(&claiming),
        }
        state.set(allowance);
        if more {
            core.wake.notify_one();
        }
        let wait = if core.places.taken() > 0 { SENSE } else { SENSE_IDLE };
        if ended.run_until_cancelled(tick(wait)).await.is_none() {
            return;
        }
    }
}

/// Waits for what runs, at most as long as the pool says; then aborts it.
async fn drain(core: &Core, state: &State) {
    core.draining.cancel();
    state.servers_short.store(false, Ordering::Relaxed);
    let most = core.world().pool.as_ref().map_or(USUAL_DRAIN, |pool| seconds(pool.spec.drain_seconds));
    // Pods are killed when that is over: what is given back must be recorded by then.
    let most = most - (most / 10).min(Duration::from_secs(5));
    let running = core.places.taken();
    if running > 0 {
        tracing::info!(running, seconds = most.as_secs(), "draining: what runs is finished, nothing is begun");
    }
    if tokio::time::timeout(most, idle(core)).await.is_ok() {
        return;
    }
    tracing::warn!(running = core.places.taken(), "what still runs is given back");
    for job in core.jobs.all() {
        job.stop(CallStopped::Draining);
    }
    let _ = tokio::time::timeout(LAST_WORDS, idle(core)).await;
}

async fn idle(core: &Core) {
    while core.places.taken() > 0 {
        let woken = tokio::time::timeout(Duration::from_millis(200), core.wake.notified());
        // Whether it was woken or not, the places tell.
        let _ = woken.await;
    }
}

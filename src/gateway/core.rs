//! What everything in a gateway shares.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::RwLock;
use tokio::{
    sync::{Notify, RwLock as AsyncRwLock, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Origins,
    open::{OpenCalls, Uses},
    queues::WaitQueues,
    sessions::Sessions,
    view::GatewayView,
};
use crate::{
    calls::{CachedSecrets, CallSecrets, EvidenceLog, HeldSlots, Targets},
    net::HttpClient,
    store::{Store, Topics},
    telemetry::{GatewayMetrics, Loops},
};

/// For so long a gateway waits for the first thing that is declared.
const FIRST_SECONDS: Duration = Duration::from_secs(5);
/// All bodies that are held, in KiB.
const BODIES_KIB: usize = 256 * 1024;

/// What a gateway is made of.
pub struct GatewayParts {
    pub store: Arc<dyn Store>,
    pub secrets: Arc<dyn CallSecrets>,
    pub http: HttpClient,
    pub loops: Loops,
    pub metrics: GatewayMetrics,
    /// Unique for this process and gateway.
    pub holder: String,
    /// The pod, or the machine.
    pub host: String,
    /// Of the calls that need no key.
    pub namespace: String,
    /// Which web pages and apps may ask.
    pub origins: Origins,
    pub timings: GatewayTimings,
}

/// How long and how often; the defaults are what runs.
#[derive(Clone, Debug)]
pub struct GatewayTimings {
    pub slot_lease: Duration,
    /// A call may go on for so long after each renewal of its slot.
    pub call_within: Duration,
    /// The slot of an aborted call counts on for so long at least.
    pub linger: Duration,
    /// How long a call waits for a slot, where its answer is streamed and where it is not.
    pub wait_streamed: Duration,
    pub wait_whole: Duration,
    /// The turn of a client that left while it waited is kept for so long.
    pub turn_kept: Duration,
    /// How long a conversation waits for the server that has it in its prompt cache, before it goes to another.
    pub session_wait: Duration,
    /// A streamed answer begins after so long, though the engine has not.
    pub commit: Duration,
    /// Without a byte for so long, the client is sent a sign of life.
    pub beat: Duration,
    /// Between two looks for a slot while nobody tells of one.
    pub look: Duration,
    /// What is declared is read again after so long, though nobody told of a change.
    pub world: Duration,
    pub report: Duration,
    /// A client that reads nothing for so long has left.
    pub unread: Duration,
    /// How long open calls may take when the gateway ends.
    pub drain: Duration,
}

impl Default for GatewayTimings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            slot_lease: seconds(30),
            call_within: seconds(600),
            linger: seconds(1),
            wait_streamed: seconds(600),
            wait_whole: seconds(240),
            turn_kept: seconds(60),
            session_wait: seconds(10),
            commit: seconds(20),
            beat: seconds(10),
            look: Duration::from_millis(200),
            world: seconds(60),
            report: seconds(3),
            unread: seconds(60),
            drain: seconds(300),
        }
    }
}

/// Shared by all calls.
pub(super) struct GatewayCore {
    pub store: Arc<dyn Store>,
    pub namespace: String,
    pub holder: String,
    pub host: String,
    pub origins: Origins,
    pub timings: GatewayTimings,
    pub loops: Loops,
    pub metrics: GatewayMetrics,
    pub slots: Arc<HeldSlots>,
    pub targets: Targets,
    pub evidence: EvidenceLog,
    pub view: RwLock<Arc<GatewayView>>,
    /// The view was read for the first time, or again.
    pub known: Notify,
    begun: Instant,
    /// Read while a slot is asked for: what the database has and we don't know is not given back then.
    pub asking: AsyncRwLock<()>,
    pub queues: WaitQueues,
    pub sessions: Sessions,
    pub open: OpenCalls,
    pub uses: Uses,
    /// A slot was given back by this process.
    pub freed: Notify,
    pub bodies: Arc<Semaphore>,
    /// No more calls.
    pub closing: CancellationToken,
    /// What still runs is ended.
    pub ending: CancellationToken,
    pub calls: TaskTracker,
    pub in_flight: AtomicUsize,
}

impl GatewayCore {
    pub fn new(parts: GatewayParts) -> Self {
        let GatewayParts { store, secrets, http, loops, metrics, holder, host, namespace, origins, timings } = parts;
        Self {
            slots: Arc::new(HeldSlots::new(Arc::clone(&store), timings.slot_lease)),
            targets: Targets::new(http, CachedSecrets::new(secrets)),
            evidence: EvidenceLog::default(),
            view: RwLock::default(),
            known: Notify::new(),
            begun: Instant::now(),
            asking: AsyncRwLock::default(),
            queues: WaitQueues::default(),
            sessions: Sessions::default(),
            open: OpenCalls::default(),
            uses: Uses::default(),
            freed: Notify::new(),
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
            closing: CancellationToken::new(),
            ending: CancellationToken::new(),
            calls: TaskTracker::new(),
            in_flight: AtomicUsize::new(0),
            store,
            namespace,
            holder,
            host,
            origins,
            timings,
            loops,
            metrics,
        }
    }

    pub fn view(&self) -> Arc<GatewayView> {
        Arc::clone(&self.view.read())
    }

    /// Waits, in the first seconds, until anything is declared in a namespace: an `up` that has just started serves before its manifests
    /// are in force.
    pub async fn until_declared(&self, namespace: &str) {
        let mut changes = self.store.follow(Topics::WORLD);
        while self.view().of(namespace).next().is_none() && self.begun.elapsed() < FIRST_SECONDS {
            changes.changed(Duration::from_millis(100)).await;
        }
    }

    /// Ends the calls that still run, and waits until their slots are given back.
    pub async fn end_calls(&self) {
        const LAST_WORDS: Duration = Duration::from_secs(10);
        self.ending.cancel();
        self.calls.close();
        if tokio::time::timeout(LAST_WORDS, self.calls.wait()).await.is_err() {
            tracing::warn!("some calls did not end: their slots lapse by themselves");
        }
    }

    /// Nothing of this gateway stays in the database.
    pub async fn leave(&self) {
        self.slots.doubt();
        if let Err(error) = self.give_back_unknown().await {
            tracing::debug!(%error, "slots lapse by themselves");
        }
        if let Err(error) = self.count_uses().await {
            tracing::warn!(%error, "what the last calls used is not counted");
        }
        if let Err(error) = self.store.worker_left(&self.holder).await {
            tracing::debug!(%error, "the last report stays until it is old");
        }
    }

    pub async fn give_back_unknown(&self) -> Result<(), crate::store::StoreError> {
        let _nobody_asks = self.asking.write().await;
        let servers = self.view().server_urls();
        self.slots.give_back_unknown(&self.holder, &servers, self.timings.linger).await
    }
}

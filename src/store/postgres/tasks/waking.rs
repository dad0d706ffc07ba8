//! Tells waiters that tasks changed, in whichever process: by NOTIFY on a channel with the schema's name.
//!
//! Notifications are sent after the commit, apart from it, and at most one in 20 ms: PostgreSQL takes one lock for all that notify. They
//! get lost with a connection, so nobody relies on them alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// What changes in a row is told once.
const COALESCED: Duration = Duration::from_millis(20);
/// Whoever asks so soon after a change may not have seen it: it was busy with what it did before.
const RECENT: Duration = Duration::from_millis(100);
/// How long one waits at most while nobody listens.
const POLL: Duration = Duration::from_secs(2);
/// Between two attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

/// What changed: some tasks may be claimed now, or some only ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Pending,
    Ended,
}

impl Change {
    const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ended => "ended",
        }
    }
}

/// One for each store.
pub(super) struct Waker {
    shared: Arc<Shared>,
    listener: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Shared {
    pool: PgPool,
    channel: String,
    changed: Notify,
    changed_at: Mutex<Option<Instant>>,
    listening: AtomicBool,
    /// To be told by the task that is under way, for each kind of change.
    pending: AtomicBool,
    ended: AtomicBool,
    telling: AtomicBool,
    on_pending: Box<dyn Fn() + Send + Sync>,
}

impl Waker {
    /// `on_pending` is called when tasks became pending, here or elsewhere as far as one hears of it.
    pub fn new(pool: PgPool, channel: String, on_pending: impl Fn() + Send + Sync + 'static) -> Self {
        let shared = Shared {
            pool,
            channel,
            changed: Notify::new(),
            changed_at: Mutex::default(),
            listening: AtomicBool::new(false),
            pending: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            telling: AtomicBool::new(false),
            on_pending: Box::new(on_pending),
        };
        Self { shared: Arc::new(shared), listener: Mutex::default() }
    }

    /// Something was committed through this store.
    pub fn changed(&self, change: Change) {
        self.shared.note(change);
        match change {
            Change::Pending => self.shared.pending.store(true, Ordering::Release),
            Change::Ended => self.shared.ended.store(true, Ordering::Release),
        }
        if !self.shared.telling.swap(true, Ordering::AcqRel) {
            tokio::spawn(tell(self.shared.clone()));
        }
    }

    /// Until tasks changed, or `most` has passed.
    pub async fn wait(&self, most: Duration) {
        let began = Instant::now();
        self.listen();
        let told = self.shared.changed.notified();
        let recent = |at: Instant| at >= began || began.duration_since(at) < RECENT;
        if self.shared.last().is_some_and(recent) {
            return tokio::time::sleep(COALESCED.min(most)).await;
        }
        let most = if self.shared.listening.load(Ordering::Acquire) { most } else { most.min(POLL) };
        let _ = tokio::time::timeout(most, told).await;
    }

    fn listen(&self) {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if listener.is_none() {
            *listener = Some(AbortOnDropHandle::new(tokio::spawn(listen(self.shared.clone()))));
        }
    }
}

impl Shared {
    fn note(&self, change: Change) {
        if change == Change::Pending {
            (self.on_pending)();
        }
        *self.changed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.changed.notify_waiters();
    }

    fn last(&self) -> Option<Instant> {
        *self.changed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells others, again and again while there is something to tell.
async fn tell(shared: Arc<Shared>) {
    loop {
        for (flag, change) in [(&shared.pending, Change::Pending), (&shared.ended, Change::Ended)] {
            if flag.swap(false, Ordering::AcqRel) {
                let notice = sqlx::query("SELECT pg_notify($1, $2)").bind(&shared.channel).bind(change.word());
                if let Err(error) = notice.execute(&shared.pool).await {
                    tracing::debug!(%error, "can't tell others that tasks changed: they look by themselves");
                }
            }
        }
        tokio::time::sleep(COALESCED).await;
        shared.telling.store(false, Ordering::Release);
        let more = shared.pending.load(Ordering::Acquire) || shared.ended.load(Ordering::Acquire);
        if !more || shared.telling.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}

async fn listen(shared: Arc<Shared>) {
    loop {
        if let Err(error) = hear(&shared).await {
            tracing::debug!(%error, "can't listen for changes of tasks; trying again");
        }
        shared.listening.store(false, Ordering::Release);
        // What was missed meanwhile is unknown.
        shared.note(Change::Pending);
        tokio::time::sleep(RETRY).await;
    }
}

/// Until the connection is lost.
async fn hear(shared: &Shared) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&shared.pool).await?;
    listener.listen(&shared.channel).await?;
    shared.listening.store(true, Ordering::Release);
    shared.note(Change::Pending);
    while let Some(notice) = listener.try_recv().await? {
        shared.note(if notice.payload() == Change::Ended.word() { Change::Ended } else { Change::Pending });
    }
    Ok(())
}

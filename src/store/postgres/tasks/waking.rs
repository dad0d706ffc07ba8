//! Tells other processes what changed: by NOTIFY on a channel with the schema's name.
//!
//! Notifications are sent after the commit, apart from it, and for each kind at most one in 20 ms: PostgreSQL takes one lock for all that
//! notify. They get lost with a connection, so nobody relies on them alone.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::store::changes::{ChangeHub, Follower, Topics};

/// What changes in a row is told once.
const COALESCED: Duration = Duration::from_millis(20);
/// Between two attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

/// One for each store.
pub(super) struct Waker {
    shared: Arc<Shared>,
    listener: Lasting,
    teller: Lasting,
}

struct Shared {
    pool: PgPool,
    channel: String,
    /// Says whose notifications are our own, which need no telling.
    origin: String,
    hub: ChangeHub,
    /// Topics, as bits, that others are yet to be told.
    untold: AtomicU8,
    more: Notify,
    on_ready: Box<dyn Fn() + Send + Sync>,
}

impl Waker {
    /// `on_ready` is called when tasks became claimable, here or elsewhere as far as one hears of it.
    pub fn new(pool: PgPool, channel: String, on_ready: impl Fn() + Send + Sync + 'static) -> Self {
        let shared = Shared {
            pool,
            channel,
            origin: Uuid::new_v4().simple().to_string(),
            hub: ChangeHub::new(),
            untold: AtomicU8::new(0),
            more: Notify::new(),
            on_ready: Box::new(on_ready),
        };
        Self { shared: Arc::new(shared), listener: Mutex::default(), teller: Mutex::default() }
    }

    /// Something was committed through this store.
    pub fn changed(&self, topics: Topics) {
        if topics.is_empty() {
            return;
        }
        self.shared.note(topics);
        self.shared.untold.fetch_or(topics.bits(), Ordering::AcqRel);
        self.shared.more.notify_one();
        start(&self.teller, || tell(self.shared.clone()));
    }

    pub fn follow(&self, topics: Topics) -> Follower {
        start(&self.listener, || listen(self.shared.clone()));
        self.shared.hub.follow(topics)
    }
}

/// A task that runs as long as the store is there, from its first use on.
type Lasting = Mutex<Option<AbortOnDropHandle<()>>>;

fn start<F>(task: &Lasting, run: impl FnOnce() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    task.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(run())));
}

impl Shared {
    fn note(&self, topics: Topics) {
        if !(topics & Topics::READY).is_empty() {
            (self.on_ready)();
        }
        self.hub.note(topics);
    }

    async fn notify(&self, topics: Topics) {
        let payload = format!("{} {}", topics.bits(), self.origin);
        let notice = sqlx::query("SELECT pg_notify($1, $2)").bind(&self.channel).bind(payload);
        if let Err(error) = notice.execute(&self.pool).await {
            tracing::debug!(%error, "can't tell others what changed: they look by themselves");
        }
    }

    /// What a notification of somebody else says; `None`: it is our own.
    fn told(&self, payload: &str) -> Option<Topics> {
        let (bits, origin) = payload.split_once(' ').unwrap_or((payload, ""));
        (origin != self.origin).then(|| bits.parse().map_or(Topics::ALL, Topics::from_bits))
    }
}

/// Tells others while the store is there. A kind that was not told just now is told at once: whoever waits for it must not wait
/// because of another kind.
async fn tell(shared: Arc<Shared>) {
    let mut recent: Vec<(Instant, Topics)> = Vec::new();
    loop {
        recent.retain(|(at, _)| at.elapsed() < COALESCED);
        let just_told = recent.iter().fold(Topics::NONE, |all, (_, topics)| all | *topics);
        let untold = Topics::from_bits(shared.untold.swap(0, Ordering::AcqRel));
        let (now, later) = (untold.without(just_told), untold & just_told);
        shared.untold.fetch_or(later.bits(), Ordering::AcqRel);
        if !now.is_empty() {
            recent.push((Instant::now(), now));
            shared.notify(now).await;
        } else if let Some((at, _)) = recent.first().filter(|_| !later.is_empty()) {
            tokio::select! {
                () = tokio::time::sleep_until(*at + COALESCED) => {}
                () = shared.more.notified() => {}
            }
        } else {
            shared.more.notified().await;
        }
    }
}

async fn listen(shared: Arc<Shared>) {
    loop {
        if let Err(error) = hear(&shared).await {
            tracing::debug!(%error, "can't listen for changes; trying again");
        }
        shared.hub.set_hears(false);
        // What was missed meanwhile is unknown.
        shared.note(Topics::ALL);
        tokio::time::sleep(RETRY).await;
    }
}

/// Until the connection is lost.
async fn hear(shared: &Shared) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&shared.pool).await?;
    listener.listen(&shared.channel).await?;
    shared.hub.set_hears(true);
    shared.note(Topics::ALL);
    while let Some(notice) = listener.try_recv().await? {
        if let Some(topics) = shared.told(notice.payload()) {
            shared.note(topics);
        }
    }
    Ok(())
}

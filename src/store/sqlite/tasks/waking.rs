//! Tells waiters what changed, in whichever process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqlitePool};
use tokio::net::UnixDatagram;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::store::changes::{ChangeHub, Follower, Topics};
use crate::store::sqlite::peers::Peers;

/// Whether others wrote is looked for so often, in case that they could not tell: a pragma that reads no page.
const LOOK: Duration = Duration::from_secs(10);
/// The same where this process can't be told.
const LOOK_OFTEN: Duration = Duration::from_millis(250);

/// One for each store.
pub(in crate::store::sqlite) struct Waker {
    peers: Peers,
    hub: ChangeHub,
    listener: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Waker {
    pub fn new(peers: Peers) -> Self {
        let hub = ChangeHub::new();
        // It looks by itself at least.
        hub.set_hears(true);
        Self { peers, hub, listener: Mutex::default() }
    }

    /// Something was committed through this store.
    pub fn changed(&self, topics: Topics) {
        if topics.is_empty() {
            return;
        }
        self.hub.note(topics);
        self.peers.tell(topics);
    }

    pub fn follow(&self, pool: &SqlitePool, topics: Topics) -> Follower {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        listener.get_or_insert_with(|| {
            let socket = self.peers.listen();
            let socket = socket.inspect_err(|error| {
                tracing::warn!(%error, "other processes can't tell this one what changed: it looks four times a second");
            });
            AbortOnDropHandle::new(tokio::spawn(listen(socket.ok(), pool.clone(), self.hub.clone())))
        });
        self.hub.follow(topics)
    }
}

async fn listen(socket: Option<UnixDatagram>, pool: SqlitePool, hub: ChangeHub) {
    let every = if socket.is_some() { LOOK } else { LOOK_OFTEN };
    let mut seen = Seen::default();
    let mut look_at = Instant::now();
    loop {
        tokio::select! {
            topics = heard(socket.as_ref()) => hub.note(topics),
            () = tokio::time::sleep_until(look_at) => {
                look_at = Instant::now() + every;
                // With the database away, whoever waits finds out by itself.
                if seen.look(&pool).await.unwrap_or_default() {
                    hub.note(Topics::ALL);
                }
            }
        }
    }
}

/// What others tell: everything that has arrived is one change.
async fn heard(socket: Option<&UnixDatagram>) -> Topics {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut byte = [0];
    if let Err(error) = socket.recv(&mut byte).await {
        tracing::debug!(%error, "can't hear what other processes changed; trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
        return Topics::ALL;
    }
    let mut topics = Topics::from_bits(byte[0]);
    while socket.try_recv(&mut byte).is_ok() {
        topics |= Topics::from_bits(byte[0]);
    }
    topics
}

/// What was last seen of the database, through one connection: `data_version` counts what others write.
#[derive(Default)]
struct Seen {
    connection: Option<PoolConnection<Sqlite>>,
    data_version: i64,
}

impl Seen {
    /// Whether anybody wrote since the last look. The first one can't know what was missed.
    async fn look(&mut self, pool: &SqlitePool) -> Result<bool, sqlx::Error> {
        let known = self.connection.is_some();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(pool.acquire().await?),
        };
        match sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut **connection).await {
            Ok(version) => Ok(std::mem::replace(&mut self.data_version, version) != version || !known),
            Err(error) => {
                self.connection = None;
                Err(error)
            }
        }
    }
}

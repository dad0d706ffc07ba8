//! Tells waiters that tasks changed, in whichever process.

use std::time::{Duration, Instant};

use sqlx::Sqlite;
use sqlx::SqlitePool;
use sqlx::pool::PoolConnection;
use tokio::sync::{Mutex, Notify};

use crate::store::StoreError;

/// How often other processes' writes are looked for: a pragma that reads no page.
const POLL: Duration = Duration::from_millis(50);
/// Whoever asks so soon after a change may not have seen it: it was busy with what it did before.
const RECENT: Duration = Duration::from_millis(100);
/// What changes in a row is told once.
const COALESCED: Duration = Duration::from_millis(20);

/// One for each store.
#[derive(Default)]
pub(in crate::store::sqlite) struct Waker {
    here: Notify,
    seen: Mutex<Seen>,
}

/// What was last seen of the database, through one connection: `data_version` counts what others write.
#[derive(Default)]
struct Seen {
    connection: Option<PoolConnection<Sqlite>>,
    data_version: i64,
    changes: i64,
    changed_at: Option<Instant>,
}

impl Waker {
    /// Something was committed through this store.
    pub fn changed(&self) {
        self.here.notify_waiters();
    }

    /// Until tasks changed, or `most` has passed. With the database away it waits for `most`.
    pub async fn wait(&self, pool: &SqlitePool, most: Duration) {
        let began = Instant::now();
        let deadline = tokio::time::Instant::now() + most;
        loop {
            let told = self.here.notified();
            let looked = self.seen.lock().await.look(pool).await;
            let Ok(changed) = looked else { return tokio::time::sleep_until(deadline).await };
            if changed.is_some_and(|at| at >= began || began - at < RECENT) {
                return tokio::time::sleep_until(deadline.min(tokio::time::Instant::now() + COALESCED)).await;
            }
            tokio::select! {
                () = told => {}
                () = tokio::time::sleep(POLL) => {}
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }
}

impl Seen {
    /// When tasks last changed, as far as this process knows.
    async fn look(&mut self, pool: &SqlitePool) -> Result<Option<Instant>, StoreError> {
        let known = self.connection.is_some();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(pool.acquire().await?),
        };
        let result = read(connection, self.data_version, known).await;
        match result {
            Ok(Some((data_version, changes))) => {
                // The first look can't know what was missed.
                if !known || changes != self.changes {
                    self.changed_at = Some(Instant::now());
                }
                (self.data_version, self.changes) = (data_version, changes);
            }
            Ok(None) => {}
            Err(error) => {
                self.connection = None;
                return Err(error);
            }
        }
        Ok(self.changed_at)
    }
}

/// `None`: nobody wrote anything.
async fn read(
    connection: &mut PoolConnection<Sqlite>,
    before: i64,
    known: bool,
) -> Result<Option<(i64, i64)>, StoreError> {
    let data_version = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut **connection).await?;
    if known && data_version == before {
        return Ok(None);
    }
    let changes = sqlx::query_scalar("SELECT count FROM task_changes").fetch_one(&mut **connection).await?;
    Ok(Some((data_version, changes)))
}

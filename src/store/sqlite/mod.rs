//! The store in a data folder: `ostler.db` (SQLite, WAL) and `lock`, which names the one process that leads.
//!
//! Writes go one after the other through one connection, each in a `BEGIN IMMEDIATE`; other processes that share the
//! folder wait for a busy timeout. Leases use the wall clock, which all processes of a machine share.

mod inspect;
mod leadership;
mod lock;
mod memory;
mod migrate;
mod peers;
mod slots;
#[cfg(test)]
mod slots_model;
mod tasks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection, FromRow, Sqlite, SqliteConnection, SqlitePool, Transaction};
use uuid::Uuid;

use super::changes::{Reported, Topics};
use super::rows::LeadershipRecord;
use super::stamp::Stamp;
use super::{Fence, StoreError, check_folder, schema};
pub(super) use inspect::{back_up, inspect};
use lock::FolderLock;
use memory::Memory;
use peers::Peers;

/// How long a statement waits for another process' transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// One of them watches for what other processes write.
const READERS: u32 = 5;

/// What a process is to the data folder that it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderAccess {
    /// The one `up` (or `migrate`) of the folder: migrates it, and leads at once.
    Lock,
    /// A worker or a command beside it: works with a schema that is there, never leads.
    Share,
}

/// The store of one data folder.
pub struct SqliteStore {
    writer: SqlitePool,
    reader: SqlitePool,
    hold: FolderAccess,
    installation: Uuid,
    clock: Clock,
    waker: tasks::Waker,
    memory: Memory,
    reported: Reported,
    folder: PathBuf,
    /// Kept until the store is dropped.
    _lock: Option<FolderLock>,
}

type Clock = Box<dyn Fn() -> Stamp + Send + Sync>;

impl SqliteStore {
    /// Opens the folder's database. With [`FolderAccess::Lock`] the folder is made when it is not there (0700), and its schema is
    /// brought up to date.
    ///
    /// # Errors
    /// [`StoreError::Locked`], naming the holder's pid; [`StoreError::OlderSchema`] for [`FolderAccess::Share`] on a folder that
    /// nobody migrated; [`StoreError::NewerSchema`]; [`StoreError::Unavailable`] when the files can't be opened.
    pub async fn open(folder: &Path, hold: FolderAccess) -> Result<Self, StoreError> {
        let (store, _) = Self::open_and_migrate(folder, hold, None, false).await?;
        Ok(store)
    }

    /// Like [`SqliteStore::open`], and tells what the migration did.
    pub(super) async fn open_and_migrate(
        folder: &Path,
        hold: FolderAccess,
        expected: Option<Uuid>,
        adopt: bool,
    ) -> Result<(Self, i64), StoreError> {
        let lock = match hold {
            FolderAccess::Lock => Some(FolderLock::take(folder)?),
            FolderAccess::Share => None,
        };
        let file = database_file(folder);
        if hold == FolderAccess::Share {
            if !file.exists() {
                return Err(StoreError::OlderSchema { found: 0, known: schema::newest(&schema::SQLITE) });
            }
            check_folder(folder).map_err(|error| lock::unfit(folder, &error))?;
        }
        let writer = pool(&file, 1, "off");
        let applied = match hold {
            FolderAccess::Lock => migrate::bring_up_to_date(&writer, &file, &schema::SQLITE).await?,
            FolderAccess::Share => {
                schema::usable(migrate::found(&writer).await?, schema::newest(&schema::SQLITE))?;
                0
            }
        };
        let installation = migrate::installation(&writer, expected, adopt && hold == FolderAccess::Lock).await?;
        let reader = pool(&file, READERS, "on");
        Ok((
            Self {
                writer,
                reader,
                hold,
                installation,
                clock: Box::new(Stamp::now),
                waker: tasks::Waker::new(Peers::of(folder)),
                memory: Memory::default(),
                reported: Reported::default(),
                folder: folder.to_owned(),
                _lock: lock,
            },
            applied,
        ))
    }

    /// The installation's id.
    pub(super) const fn id(&self) -> Uuid {
        self.installation
    }

    /// Under a simulation's clock.
    #[cfg(test)]
    pub(super) fn use_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    fn now(&self) -> Stamp {
        (self.clock)()
    }

    /// A transaction that has the database's write lock. Dropped without a commit, it is rolled back.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Such changes were committed.
    pub(super) fn changed(&self, topics: Topics) {
        self.waker.changed(topics);
    }

    /// One statement that writes; returns how many rows it touched.
    pub(super) async fn execute(&self, statement: Query<'_, Sqlite, SqliteArguments>) -> Result<u64, StoreError> {
        Ok(statement.execute(&self.writer).await?.rows_affected())
    }

    /// Several statements that write, in one transaction.
    pub(super) async fn execute_all(
        &self,
        statements: Vec<Query<'_, Sqlite, SqliteArguments>>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        for statement in statements {
            statement.execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// One statement of the leader's that writes.
    pub(super) async fn execute_fenced(
        &self,
        fence: &Fence,
        statement: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write_fenced(fence).await?;
        statement.execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Several statements of the leader's that write, in one transaction.
    pub(super) async fn execute_all_fenced(
        &self,
        fence: &Fence,
        statements: Vec<Query<'_, Sqlite, SqliteArguments>>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write_fenced(fence).await?;
        for statement in statements {
            statement.execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// One statement that gives rows.
    pub(super) async fn fetch<T>(
        &self,
        statement: QueryAs<'_, Sqlite, T, SqliteArguments>,
    ) -> Result<Vec<T>, StoreError>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        Ok(statement.fetch_all(&self.reader).await?)
    }

    /// A write transaction of the leader: refused when the lead is somebody else's, or lapsed.
    async fn write_fenced(&self, fence: &Fence) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let mut tx = self.write().await?;
        let now = self.now();
        sqlx::query_as::<_, LeadershipRecord>(leadership::READ)
            .bind(self.lead_until(now))
            .bind(now)
            .fetch_one(&mut *tx)
            .await?
            .admits(fence)?;
        Ok(tx)
    }
}

/// The database's file in a data folder.
fn database_file(folder: &Path) -> PathBuf {
    folder.join("ostler.db")
}

/// The writing pool makes the file and sets WAL, which the file remembers; readers can only read.
fn pool(file: &Path, connections: u32, query_only: &'static str) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        // What was committed before acting must survive a power cut, too.
        .synchronous(SqliteSynchronous::Full)
        .pragma("query_only", query_only);
    let options = if query_only == "off" { options.journal_mode(SqliteJournalMode::Wal) } else { options };
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(|connection, _| Box::pin(is_at_rest(connection)))
        .connect_lazy_with(options)
}

/// After a full disk, an I/O error or a lack of memory SQLite has rolled back by itself. The driver's own rollback then fails,
/// and it takes the transaction for open ever after: such a connection is closed, and the next one is a new one.
async fn is_at_rest(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if !connection.is_in_transaction() {
        return Ok(true);
    }
    // What was dropped without a commit is rolled back before this is answered.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Journal, Tasks};
    use crate::tasks::{NewTask, Payload};

    fn task(bytes: usize) -> NewTask {
        let payload = Payload { prompt: Some("x".repeat(bytes)), ..Payload::default() };
        NewTask { namespace: "default".into(), queue: "default".into(), payload, ..NewTask::default() }
    }

    #[tokio::test]
    async fn a_full_database_takes_writes_again_once_there_is_room() {
        let folder = std::env::temp_dir().join(format!("ostler-full-{}", Uuid::new_v4()));
        let store = SqliteStore::open(&folder, FolderAccess::Lock).await.expect("open");
        let pages: i64 =
            sqlx::query_scalar("PRAGMA page_count").fetch_one(&store.writer).await.expect("the number of pages");
        for _ in 0..3 {
            // In force for this one connection.
            let limit = format!("PRAGMA max_page_count = {}", pages + 2);
            sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&store.writer).await.expect("limit");
            let full = store.insert_tasks(&[task(1), task(100_000)]).await;
            assert!(matches!(&full, Err(StoreError::Unavailable(why)) if why.contains("full")), "{full:?}");
            let unlimited = sqlx::raw_sql("PRAGMA max_page_count = 1000000").execute(&store.writer).await;
            unlimited.expect("there is room again");
            assert_eq!(store.queue_counts().await.expect("read").len(), 0, "all or nothing");
            let pruned = store.prune_journal(jiff::Timestamp::UNIX_EPOCH).await;
            assert_eq!(pruned, Ok(0), "a transaction of its own");
        }
        store.insert_tasks(&[task(1), task(100_000)]).await.expect("there is room");
        assert_eq!(store.queue_counts().await.expect("read")[0].pending, 2);
        drop(store);
        std::fs::remove_dir_all(&folder).expect("remove the folder");
    }
}

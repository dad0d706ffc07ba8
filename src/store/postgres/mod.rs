//! The store in PostgreSQL: one schema per installation, leases by the database's own clock.
//!
//! The schema is `ostler`, or what the URL's parameter `ostler_schema` names; it is the whole `search_path`. A connection needs a
//! session of its own with the settings that were asked for, which [`session`] checks. A database that does not answer becomes
//! [`StoreError::Unavailable`] within [`PATIENCE`], and every operation tries anew, so that it heals by itself.

mod leadership;
mod migrate;
mod observations;
mod session;
mod slots;
mod tasks;
mod url;

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgPoolOptions, PgRow};
use sqlx::query::{Query, QueryAs};
use sqlx::{Connection, FromRow, PgPool, Postgres};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::changes::Topics;
use super::rows::LeadershipRecord;
use super::{Fence, StoreError, schema};

pub use migrate::drop_schema;
pub(super) use migrate::inspect;
pub(super) use migrate::migrate;
pub use tasks::periodic_statements;
pub use url::{BadDatabaseUrl, DatabaseUrl};

/// How long one operation may take, with everything that it waits for.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(2_500);
const CONNECTIONS: u32 = 8;
const IDLE: Duration = Duration::from_secs(300);

/// How long one waits for a connection to be given back before one looks whether there is one, while another one is being made.
const LOOK: Duration = Duration::from_millis(50);
/// For asking the database why it gives no connection.
const ASK: Duration = Duration::from_millis(700);
/// What it said is believed for so long.
const BELIEVED: Duration = Duration::from_secs(2);

/// The store of one schema of a PostgreSQL database.
pub struct PostgresStore {
    pool: PgPool,
    url: DatabaseUrl,
    /// Why there was no connection, and when that was asked.
    refusal: Mutex<Option<(Instant, StoreError)>>,
    installation: Uuid,
    /// Host and port, for messages.
    place: String,
    work: tasks::WorkState,
}

impl PostgresStore {
    /// Connects, and checks that the schema is one that this release can work with.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::OlderSchema`] and [`StoreError::NewerSchema`];
    /// [`StoreError::OtherInstallation`] when `expected` is not the id recorded there.
    pub async fn open(url: &DatabaseUrl, expected: Option<Uuid>) -> Result<Self, StoreError> {
        let pool = connections(url, CONNECTIONS);
        // One connection listens, the other tells.
        let work = tasks::WorkState::new(connections(url, 2), url.schema());
        let (refusal, url) = (Mutex::default(), url.clone());
        let mut store = Self { pool, installation: Uuid::nil(), place: url.place(), url, refusal, work };
        store.installation = within(&store.place, async {
            let mut session = store.session().await?;
            session::check(session.connection(), &store.url, Some(PATIENCE)).await?;
            session::check_own(session.connection(), &store.url).await?;
            session::warn_of_few_connections(session.connection(), &store.url).await;
            let known = schema::newest(&schema::POSTGRES);
            let found = migrate::found(session.connection()).await?;
            schema::usable(found, known)?;
            let recorded = migrate::recorded(session.connection()).await?;
            session.end();
            recorded.ok_or(StoreError::OlderSchema { found: found.version, known })
        })
        .await?;
        match expected {
            Some(expected) if expected != store.installation => {
                Err(StoreError::OtherInstallation { found: store.installation, expected })
            }
            _ => Ok(store),
        }
    }

    /// A connection without a transaction.
    async fn session(&self) -> Result<Session, StoreError> {
        // Whoever waits for a new one takes one that is given back meanwhile: where the server gives no more, that is the only way.
        let acquired = tokio::select! {
            biased;
            acquired = self.pool.acquire() => acquired,
            connection = self.given_back() => Ok(connection),
        };
        match acquired {
            Ok(connection) => Ok(Session { connection, ended: false }),
            Err(sqlx::Error::PoolTimedOut) => Err(self.why_no_connection().await),
            Err(other) => Err(other.into()),
        }
    }

    async fn given_back(&self) -> PoolConnection<Postgres> {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(connection) = self.pool.try_acquire() {
                return connection;
            }
        }
    }

    /// In the database's own words, which the pool keeps to itself. Asked once for all that wait.
    async fn why_no_connection(&self) -> StoreError {
        let mut refusal = self.refusal.lock().await;
        if let Some((_, why)) = refusal.as_ref().filter(|(at, _)| at.elapsed() < BELIEVED) {
            return why.clone();
        }
        let asked = tokio::time::timeout(ASK, async {
            let mut connection = PgConnection::connect_with(&self.url.options(Some(PATIENCE))).await?;
            let checked = session::check(&mut connection, &self.url, Some(PATIENCE)).await;
            let _ = connection.close().await;
            checked
        })
        .await;
        let away = |why: String| {
            StoreError::Unavailable(format!("no connection to {} within {ACQUIRE_TIMEOUT:?}: {why}", self.place))
        };
        let why = match asked {
            Ok(Ok(())) => away(format!("all {CONNECTIONS} connections of this process are in use")),
            Ok(Err(StoreError::Unavailable(why))) => away(why),
            Ok(Err(unfit)) => unfit,
            Err(_) => away("it does not answer".to_owned()),
        };
        *refusal = Some((Instant::now(), why.clone()));
        why
    }

    /// A connection in a transaction.
    async fn write(&self) -> Result<Session, StoreError> {
        let mut session = self.session().await?;
        sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED").execute(session.connection()).await?;
        Ok(session)
    }

    /// A transaction of the leader. The lead can't change until it ends; it is refused when the lead is somebody else's,
    /// or lapsed.
    async fn write_fenced(&self, fence: &Fence) -> Result<Session, StoreError> {
        let mut session = self.write().await?;
        let record: LeadershipRecord = sqlx::query_as(leadership::READ_LOCKED).fetch_one(session.connection()).await?;
        match record.admits(fence) {
            Ok(()) => Ok(session),
            Err(fenced) => {
                session.roll_back().await?;
                Err(fenced)
            }
        }
    }

    /// Such changes were committed.
    pub(super) fn changed(&self, topics: Topics) {
        self.work.changed(topics);
    }

    /// One statement that writes; returns how many rows it touched.
    pub(super) async fn execute(&self, statement: Query<'_, Postgres, PgArguments>) -> Result<u64, StoreError> {
        self.within(async {
            let mut session = self.session().await?;
            let done = statement.execute(session.connection()).await?;
            session.end();
            Ok(done.rows_affected())
        })
        .await
    }

    /// Several statements that write, in one transaction.
    pub(super) async fn execute_all(
        &self,
        statements: Vec<Query<'_, Postgres, PgArguments>>,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut session = self.write().await?;
            for statement in statements {
                statement.execute(session.connection()).await?;
            }
            session.commit().await
        })
        .await
    }

    /// One statement of the leader's that writes.
    pub(super) async fn execute_fenced(
        &self,
        fence: &Fence,
        statement: Query<'_, Postgres, PgArguments>,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            statement.execute(session.connection()).await?;
            session.commit().await
        })
        .await
    }

    /// Several statements of the leader's that write, in one transaction.
    pub(super) async fn execute_all_fenced(
        &self,
        fence: &Fence,
        statements: Vec<Query<'_, Postgres, PgArguments>>,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            for statement in statements {
                statement.execute(session.connection()).await?;
            }
            session.commit().await
        })
        .await
    }

    /// One statement that gives rows.
    pub(super) async fn fetch<T>(&self, statement: QueryAs<'_, Postgres, T, PgArguments>) -> Result<Vec<T>, StoreError>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.within(async {
            let mut session = self.session().await?;
            let rows = statement.fetch_all(session.connection()).await?;
            session.end();
            Ok(rows)
        })
        .await
    }

    /// Bounds an operation. What is dropped in the middle closes its connection: see [`Session`].
    async fn within<T>(&self, operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        within(&self.place, operation).await
    }
}

/// Every connection is checked: a pooler may come in between later, and each of its sessions may be another one.
fn connections(url: &DatabaseUrl, most: u32) -> PgPool {
    let checked = url.clone();
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE)
        .after_connect(move |connection, _| {
            let url = checked.clone();
            Box::pin(async move {
                let unfit = |error: StoreError| sqlx::Error::Configuration(error.to_string().into());
                session::check(connection, &url, Some(PATIENCE)).await.map_err(unfit)
            })
        })
        .connect_lazy_with(url.options(Some(PATIENCE)))
}

async fn within<T>(place: &str, operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(PATIENCE, operation).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer of {place} within {PATIENCE:?}"))),
    }
}

/// A connection that goes back to the pool only after it was brought to a good end. One that was dropped in the middle of
/// something (an error, a timeout) is closed: its state is unknown, and its server may be hanging.
struct Session {
    connection: PoolConnection<Postgres>,
    ended: bool,
}

impl Session {
    fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// For a session without a transaction.
    fn end(mut self) {
        self.ended = true;
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("COMMIT").execute(self.connection()).await?;
        self.ended = true;
        Ok(())
    }

    async fn roll_back(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("ROLLBACK").execute(self.connection()).await?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

//! A new database for one test, and as many openers of it as the test wants.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::real::Postgres;
use jiff::Timestamp;
use ostler::store::sqlite::FolderAccess;
use ostler::store::{
    self, Admission, BackendRow, Fence, Home, ServerRow, Slot, SlotAnswer, SlotPurpose, SlotRequest, Store,
};
use sqlx::{Connection, PgConnection, SqliteConnection};

pub const LEASE: Duration = Duration::from_secs(15);

/// One database, opened once as its leader does it.
pub struct Bench {
    pub store: Arc<dyn Store>,
    pub home: Home,
    /// Of PostgreSQL; empty for a folder.
    pub url: String,
    pub _scratch: Option<Scratch>,
}

impl Bench {
    pub async fn sqlite() -> Self {
        let scratch = Scratch::new();
        let home = Home::Folder { path: scratch.0.join("data"), hold: FolderAccess::Lock };
        let store = store::open(&home, None).await.expect("open the data folder");
        Self { store, home, url: String::new(), _scratch: Some(scratch) }
    }

    /// A new schema in a database of its own.
    pub async fn postgres() -> Self {
        // The part is started by a script, and waits for it.
        let url = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.expect("a database");
        Self::at(&url).await
    }

    /// At the URL of an empty database.
    pub async fn at(url: &str) -> Self {
        let home = Home::Postgres(url.parse().expect("a URL"));
        store::migrate(&home, None, false).await.expect("migrate");
        let store = store::open(&home, None).await.expect("open the database");
        Self { store, home, url: url.to_owned(), _scratch: None }
    }

    /// Another opener with connections of its own, as another process would have. On SQLite it shares the folder.
    pub async fn peer(&self) -> Arc<dyn Store> {
        store::open(&self.peer_home(), None).await.expect("open as another process")
    }

    pub fn peer_home(&self) -> Home {
        match &self.home {
            Home::Folder { path, .. } => Home::Folder { path: path.clone(), hold: FolderAccess::Share },
            Home::Postgres(url) => Home::Postgres(url.clone()),
        }
    }

    /// Changes with every write, and in PostgreSQL with every lock of a row.
    pub async fn fingerprint(&self) -> String {
        match &self.home {
            Home::Folder { path, .. } => {
                // The WAL grows with every commit, until it is checkpointed after 1,000 pages.
                let size = |name: &str| std::fs::metadata(path.join(name)).expect(name).len();
                format!("{} {}", size("ostler.db"), size("ostler.db-wal"))
            }
            Home::Postgres(_) => {
                let mut connection = PgConnection::connect(&self.url).await.expect("connect");
                sqlx::query_scalar(
                    "SELECT string_agg(version, ',' ORDER BY version) FROM (
                        SELECT 'l' || xmin || ' ' || xmax AS version FROM ostler.leadership
                        UNION ALL SELECT 'b' || xmin || ' ' || xmax FROM ostler.backends
                        UNION ALL SELECT 's' || xmin || ' ' || xmax FROM ostler.servers) AS versions",
                )
                .fetch_one(&mut connection)
                .await
                .expect("row versions")
            }
        }
    }

    /// Numbers, as a statement in both dialects gives them.
    pub async fn numbers(&self, statement: &'static str) -> Vec<i64> {
        match &self.home {
            Home::Folder { path, .. } => {
                let url = format!("sqlite://{}", path.join("ostler.db").display());
                let mut connection = SqliteConnection::connect(&url).await.expect("open the file");
                sqlx::query_scalar(statement).fetch_all(&mut connection).await.expect("numbers")
            }
            Home::Postgres(_) => {
                let mut connection = PgConnection::connect(&self.url).await.expect("connect");
                sqlx::raw_sql("SET search_path = ostler").execute(&mut connection).await.expect("set");
                sqlx::query_scalar(statement).fetch_all(&mut connection).await.expect("numbers")
            }
        }
    }

    /// What no method of the store does.
    pub async fn by_hand(&self, statement: &'static str) {
        match &self.home {
            Home::Folder { path, .. } => {
                let url = format!("sqlite://{}", path.join("ostler.db").display());
                let mut connection = SqliteConnection::connect(&url).await.expect("open the file");
                sqlx::query(statement).execute(&mut connection).await.expect("change");
            }
            Home::Postgres(_) => {
                let mut connection = PgConnection::connect(&self.url).await.expect("connect");
                sqlx::raw_sql("SET search_path = ostler").execute(&mut connection).await.expect("set");
                sqlx::raw_sql(statement).execute(&mut connection).await.expect("change");
            }
        }
    }

    /// Leads as `holder`.
    pub async fn lead(&self, holder: &str) -> Fence {
        self.store.campaign(holder, LEASE).await.expect("campaign").expect("nobody else leads")
    }

    /// A leader and a server.
    pub async fn serving(&self, limit: i32) -> Fence {
        let fence = self.lead("leader").await;
        self.store.put_server(&fence, &server(limit)).await.expect("put the server");
        fence
    }

    /// Takes a slot that must be given.
    pub async fn take(&self, request: &SlotRequest) -> Slot {
        match self.store.take_slot(request).await.expect("take a slot") {
            SlotAnswer::Given(slot) => slot,
            other => panic!("no slot for {request:?}: {other:?}"),
        }
    }

    pub async fn occupied(&self) -> usize {
        self.store.slots(URL).await.expect("read the slots").len()
    }
}

pub const URL: &str = "http://127.0.0.1:11435";

pub fn server(limit: i32) -> ServerRow {
    let instance = Some("7@1".to_owned());
    ServerRow { url: URL.to_owned(), limit, admission: Admission::Open, instance, calls_per_day: None }
}

/// A request whose lease is long.
pub fn call(holder: &str) -> SlotRequest {
    request(holder, LEASE, Duration::from_secs(60))
}

pub fn request(holder: &str, lease: Duration, call_within: Duration) -> SlotRequest {
    SlotRequest {
        server_url: URL.to_owned(),
        holder: holder.to_owned(),
        purpose: SlotPurpose::Call,
        class: None,
        caller: None,
        model: Some("llama3.2:3b".to_owned()),
        lease,
        call_within,
    }
}

pub fn backend(uid: &str) -> BackendRow {
    BackendRow {
        uid: uid.to_owned(),
        namespace: "default".to_owned(),
        name: format!("name-of-{uid}"),
        generation: 3,
        engine: "MLX".to_owned(),
        url: "http://localhost:11435/".to_owned(),
        server_url: URL.to_owned(),
        priority: 10,
        spec: serde_json::json!({"engine": "MLX", "models": [{"name": "a", "alias": "small"}], "concurrency": {"max": 2}}),
        state: "Serving".to_owned(),
        reason: "Serving".to_owned(),
        ready: true,
        ready_since: Some(at(1_700_000_000)),
    }
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Waits until `done` says so.
///
/// # Panics
/// After 20 seconds.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(std::time::Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A folder that goes with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ostler-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("make a folder for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("can't remove {}: {error}", self.0.display());
        }
    }
}

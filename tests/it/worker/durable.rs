//! Nothing that was finished is lost, and nothing is done again for nothing, whatever the database does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use ostler::{
    engines::EngineKind,
    simulate::SimulateOptions,
    store::Home,
    tasks::{AttemptClass, TaskState},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use super::{
    eventually,
    shop::{Shop, executions, spooled, until_in_flight, worker_process_with},
};
use crate::{real::Postgres, store::bench::Bench};

/// After it is over, all goes on within this.
const SOON: Duration = Duration::from_secs(20);

fn paced(tokens_per_second: f64) -> SimulateOptions {
    SimulateOptions { tokens_per_second, ..SimulateOptions::new(EngineKind::Mlx) }
}

async fn locked(shop: &Shop) -> SqliteConnection {
    let Home::Folder { path, .. } = &shop.bench.home else { panic!("SQLite") };
    let url = format!("sqlite://{}", path.join("ostler.db").display());
    let mut other = SqliteConnection::connect(&url).await.expect("open the file");
    // Nobody can write until that ends.
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("lock");
    other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_result_that_comes_between_two_tries_of_recording_survives_a_kill() {
    let shop = Shop::sqlite().await;
    let quick = shop.simulated("quick", paced(8.0), 2, 20).await;
    let slow = shop.simulated("slow", paced(2.5), 2, 10).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(4, &["igor"], Some("small")).await;
    let spool = std::env::temp_dir().join(format!("ostler-worker-{}", uuid::Uuid::new_v4()));
    let mut worker = worker_process_with(&shop.bench, spool.clone());
    until_in_flight(&quick, 2).await;
    until_in_flight(&slow, 2).await;
    let mut other = locked(&shop).await;
    eventually("the first results to be on disk", || async { spooled(&spool) >= 2 }).await;
    // The next ones end while the worker waits between two tries that take three seconds each.
    eventually("the last calls to end", || async { slow.log().in_flight == 0 }).await;
    let ended = Instant::now();
    eventually("all results to be on disk", || async { spooled(&spool) == 4 }).await;
    assert!(
        ended.elapsed() < Duration::from_secs(2),
        "on disk at once, and not after another try: {:?}",
        ended.elapsed()
    );
    worker.signal(Signal::SIGKILL);
    worker.ended().await;
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("unlock");
    let mut second = worker_process_with(&shop.bench, spool.clone());
    shop.until_completed(&ids).await;
    let counted = executions(&[&quick, &slow]);
    assert!(counted.values().all(|times| *times == (1, 1)), "{counted:?}");
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await, Some(0));
    assert_eq!(spooled(&spool), 0);
}

/// A server of its own, whose database can be taken away from the role that the shop works as.
struct Own {
    server: Arc<Postgres>,
    shop: Shop,
    /// As superuser.
    url: String,
}

impl Own {
    async fn start() -> Self {
        let server = Arc::new(blocking(Postgres::start).await);
        let of = server.clone();
        let url = blocking(move || of.database()).await;
        let mut admin = PgConnection::connect(&url).await.expect("connect");
        let database: String =
            sqlx::query_scalar("SELECT current_database()").fetch_one(&mut admin).await.expect("a name");
        let role = format!("CREATE ROLE shop LOGIN; GRANT CREATE ON DATABASE {database} TO shop");
        sqlx::raw_sql(AssertSqlSafe(role)).execute(&mut admin).await.expect("a role");
        let shop = Shop::on(Bench::at(&url.replace("//ostler@", "//shop@")).await).await;
        Self { server, shop, url }
    }

    /// Also ends all connections of the shop, so that it holds for new ones.
    async fn alter_role(&self, what: &str) {
        let mut admin = PgConnection::connect(&self.url).await.expect("connect");
        let alter = format!(
            "ALTER ROLE shop {what}; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop'"
        );
        sqlx::raw_sql(AssertSqlSafe(alter)).execute(&mut admin).await.expect("alter");
    }

    async fn completed(&self) -> i64 {
        let Ok(mut admin) = PgConnection::connect(&self.url).await else { return -1 };
        let count = sqlx::query_scalar("SELECT count(*) FROM ostler.finished_tasks WHERE state = 'completed'");
        count.fetch_one(&mut admin).await.unwrap_or(-1)
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_database_that_is_read_only_out_of_connections_or_restarted_loses_nothing() {
    let own = Own::start().await;
    let shop = &own.shop;
    shop.queue(json!({"leaseSeconds": 60, "retry": {"backoffSeconds": 1}})).await;
    let server = shop.simulated("mlx", paced(20.0), 8, 10).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(200, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    for (outage, words) in [("read-only", "read-only transaction"), ("full", "too many connections"), ("restart", "")] {
        let before = own.completed().await;
        until_in_flight(&server, 4).await;
        match outage {
            "read-only" => own.alter_role("SET default_transaction_read_only = on").await,
            "full" => own.alter_role("CONNECTION LIMIT 0").await,
            _ => {
                let server = own.server.clone();
                blocking(move || server.kill()).await;
            }
        }
        eventually("what ends meanwhile to be on disk", || async { worker.spooled() >= 4 }).await;
        let said = || worker.metrics.troubles.all().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        eventually("it to be told", || async { said().contains(words) && said().contains("results wait, on disk in") })
            .await;
        match outage {
            "read-only" => own.alter_role("RESET default_transaction_read_only").await,
            "full" => own.alter_role("CONNECTION LIMIT -1").await,
            _ => {
                let server = own.server.clone();
                blocking(move || server.resume()).await;
            }
        }
        let over = Instant::now();
        eventually("all to go on", || async { worker.spooled() == 0 && own.completed().await > before + 8 }).await;
        assert!(over.elapsed() < SOON, "after {outage}: {:?}", over.elapsed());
        println!("{outage}: went on after {:?}", over.elapsed());
    }
    eventually("all to be completed", || async { own.completed().await == 200 }).await;
    let counted = executions(&[&server]);
    for (n, task) in shop.tasks(&ids).await.into_iter().rev().enumerate() {
        let (sent, _) = counted.get(&format!("hello {n}")).copied().unwrap_or_default();
        let allowed = task.attempts_used + task.free_requeues + task.leases_lost;
        assert!((1..=allowed).contains(&i32::try_from(sent).expect("few")), "{sent} calls: {task:?}");
        assert_eq!(task.attempts.iter().filter(|a| a.class == AttemptClass::Ok).count(), 1, "{task:?}");
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_result_that_the_database_refuses_uses_attempts_and_ends_with_a_human() {
    let shop = Shop::on(Bench::postgres().await).await;
    shop.queue(json!({"leaseSeconds": 60, "retry": {"maxAttempts": 3, "backoffSeconds": 1, "maxBackoffSeconds": 1}}))
        .await;
    let server = shop.simulated("mlx", paced(100.0), 4, 10).await;
    shop.expert("igor", "small").await;
    shop.bench
        .by_hand(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'never … this one'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON finished_tasks FOR EACH ROW
                WHEN (NEW.payload ->> 'prompt' = 'hello 1') EXECUTE FUNCTION refuse()",
        )
        .await;
    let ids = shop.give(3, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    eventually("it to end with a human", || async { shop.task(ids[1]).await.state == TaskState::DeferredToHuman })
        .await;
    for id in [ids[0], ids[2]] {
        eventually("the others to be completed", || async { shop.task(id).await.state == TaskState::Completed }).await;
    }
    let task = shop.task(ids[1]).await;
    assert_eq!((task.attempts_used, task.leases_lost), (3, 0), "{task:?}");
    let reason = task.reason.expect("a reason");
    assert!(reason.contains("3 of 3 attempts failed") && reason.contains("never ? this one"), "{reason}");
    assert_eq!(executions(&[&server])["hello 1"], (3, 3), "no more often than it may be tried");
    assert_eq!(worker.spooled(), 0);
    worker.end().await;
}

//! What Ostler's queue costs beyond the statements that any queue in PostgreSQL needs, measured in turns on one database.
//!
//!     OSTLER_DATABASE_URL=postgres://… cargo bench --bench queue [-- ROUNDS [TASKS [WHAT…]]]
//!
//! - `drain`: claim 500, complete 500, four connections, against the same with bare statements and SKIP LOCKED; and the rate of
//!   insertion
//! - `snapshot`: the same drain while somebody holds an old snapshot, against itself without
//! - `assign`: the assignment of all tasks to 100 experts against the bare UPDATE
//!
//! Everything is in a schema of its own, which is dropped.

use std::time::{Duration, Instant};

use ostler::cli::bench::{Bench, median};
use ostler::store::DatabaseUrl;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const CLAIMERS: u32 = 4;
const BATCH: i32 = 500;
const EXPERTS: usize = 8;
const MANY_EXPERTS: usize = 100;

fn main() {
    ostler::net::install_crypto();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut number = |default: u32| args.next().map_or(default, |arg| arg.parse().expect("a number"));
    let (rounds, tasks) = (number(3), number(50_000));
    let what: Vec<String> = args.collect();
    let unknown = what.iter().find(|one| !["drain", "snapshot", "assign"].contains(&one.as_str()));
    assert!(unknown.is_none(), "there is no {unknown:?} to measure");
    let wanted = |name: &str| what.is_empty() || what.iter().any(|one| one == name);
    let url = std::env::var("OSTLER_DATABASE_URL").expect("OSTLER_DATABASE_URL names the database");
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(async {
        if wanted("drain") {
            drains(&url, rounds, tasks).await;
        }
        if wanted("snapshot") {
            snapshots(&url, rounds, tasks).await;
        }
        if wanted("assign") {
            assignments(&url, rounds, tasks).await;
        }
    });
}

/// A schema with Ostler's tables, and connections for bare statements in it.
struct Rig {
    bench: Bench,
    pool: PgPool,
}

impl Rig {
    async fn new(url: &str, experts: usize) -> Self {
        let database: DatabaseUrl = url.parse().expect("a URL");
        let bench = Bench::new(&database).await.expect("make a schema");
        bench.declare(experts).await.expect("declare");
        let options: PgConnectOptions = url.parse().expect("a URL");
        let options = options.options([
            ("search_path", bench.url.schema()),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
        ]);
        let pool = PgPoolOptions::new().max_connections(CLAIMERS).connect_with(options).await.expect("connect");
        Self { bench, pool }
    }

    async fn run(&self, statement: &str) {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&self.pool).await.expect("a statement");
    }

    async fn fill(&self, tasks: u32) -> Duration {
        let took = self.bench.insert(tasks).await.expect("insert");
        self.bench.assign().await.expect("assign");
        self.run("VACUUM ANALYZE tasks").await;
        took
    }

    /// Tasks a second.
    async fn drain(&self, tasks: u32) -> f64 {
        let drained = self.bench.drain(tasks, CLAIMERS, BATCH).await.expect("drain");
        rate(tasks, drained.took)
    }

    async fn end(self) {
        self.pool.close().await;
        self.bench.drop_schema().await.expect("drop the schema");
    }
}

async fn drains(url: &str, rounds: u32, tasks: u32) {
    let rig = Rig::new(url, EXPERTS).await;
    rig.run(BARE_TABLE).await;
    let (mut ratios, mut inserts) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let bare = bare_drain(&rig, tasks).await;
        let inserted = rig.fill(tasks).await;
        inserts.push(rate(tasks, inserted));
        let ours = rig.drain(tasks).await;
        ratios.push(ours / bare);
        println!("drain {round}: bare {bare:.0} tasks/s, ostler {ours:.0} tasks/s, ratio {:.2}", ours / bare);
    }
    println!("drain: median ratio {:.2} (goal: at least 0.70)", median(&mut ratios));
    println!("insert: median {:.0} tasks/s", median(&mut inserts));
    rig.end().await;
}

const BARE_TABLE: &str = "
    CREATE TABLE bare (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        queue text NOT NULL,
        state text NOT NULL DEFAULT 'pending',
        priority integer NOT NULL DEFAULT 0,
        payload jsonb NOT NULL,
        result jsonb,
        claimed_by text,
        created_at timestamptz NOT NULL DEFAULT now(),
        claimed_at timestamptz,
        ended_at timestamptz
    ) WITH (fillfactor = 70);
    CREATE INDEX bare_pending ON bare (queue, priority DESC, id) WHERE state = 'pending'";

/// What everybody writes first: claim by SKIP LOCKED, and mark as completed, with the result.
async fn bare_drain(rig: &Rig, tasks: u32) -> f64 {
    rig.run(&format!(
        "INSERT INTO bare (queue, payload) SELECT 'default', '{{\"data\": {{\"do\": \"nothing\"}}}}' FROM generate_series(1, {tasks})"
    ))
    .await;
    rig.run("VACUUM ANALYZE bare").await;
    let began = Instant::now();
    let claimers = (0..CLAIMERS).map(|_| {
        let pool = rig.pool.clone();
        tokio::spawn(async move {
            loop {
                let claimed: Vec<(i64, serde_json::Value)> = sqlx::query_as(
                    "UPDATE bare SET state = 'in_progress', claimed_by = 'w', claimed_at = clock_timestamp()
                     WHERE id = ANY (ARRAY(SELECT id FROM bare WHERE queue = 'default' AND state = 'pending'
                        ORDER BY priority DESC, id LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING id, payload",
                )
                .bind(i64::from(BATCH))
                .fetch_all(&pool)
                .await
                .expect("claim");
                if claimed.is_empty() {
                    return;
                }
                sqlx::query(
                    "UPDATE bare SET state = 'completed', result = w.result, ended_at = clock_timestamp()
                     FROM unnest($1::bigint[], $2::jsonb[]) AS w (id, result)
                     WHERE bare.id = w.id AND claimed_by IS NOT NULL",
                )
                .bind(claimed.iter().map(|(id, _)| *id).collect::<Vec<_>>())
                .bind(vec![serde_json::json!({"text": "ok"}); claimed.len()])
                .execute(&pool)
                .await
                .expect("complete");
            }
        })
    });
    for claimer in claimers.collect::<Vec<_>>() {
        claimer.await.expect("no panic");
    }
    rate(tasks, began.elapsed())
}

/// A transaction that was begun before the drain and does nothing keeps every dead row and index entry in place.
async fn snapshots(url: &str, rounds: u32, tasks: u32) {
    let rig = Rig::new(url, EXPERTS).await;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        rig.fill(tasks).await;
        let free = rig.drain(tasks).await;
        rig.fill(tasks).await;
        let options: PgConnectOptions = url.parse().expect("a URL");
        let mut holder = PgConnection::connect_with(&options).await.expect("connect");
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
            .execute(&mut holder)
            .await
            .expect("hold a snapshot");
        let held = rig.drain(tasks).await;
        holder.close().await.expect("let go");
        ratios.push(held / free);
        println!("snapshot {round}: without {free:.0} tasks/s, held {held:.0} tasks/s, ratio {:.2}", held / free);
    }
    println!("snapshot: median ratio {:.2} (goal: at least 0.95)", median(&mut ratios));
    rig.end().await;
}

async fn assignments(url: &str, rounds: u32, tasks: u32) {
    let rig = Rig::new(url, MANY_EXPERTS).await;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        fresh(&rig, tasks).await;
        let began = Instant::now();
        rig.run(
            "UPDATE tasks SET expert = 'expert-' || lpad((id % 100)::text, 3, '0'), assignment_reason = 'domain and role',
                candidates = 1
             WHERE state = 'pending' AND assignment_reason IS NULL",
        )
        .await;
        let bare = began.elapsed().as_secs_f64();
        fresh(&rig, tasks).await;
        let ours = rig.bench.assign().await.expect("assign").as_secs_f64();
        let even: (i64, i64, i64) = sqlx::query_as(
            "SELECT min(count), max(count), sum(count)::bigint FROM (SELECT count(*) FROM tasks GROUP BY expert) AS given",
        )
        .fetch_one(&rig.pool)
        .await
        .expect("count");
        assert!(even.1 - even.0 <= 1 && even.2 == i64::from(tasks), "uneven, or not all: {even:?}");
        ratios.push(ours / bare);
        println!("assign {round}: bare {bare:.3} s, ostler {ours:.3} s, ratio {:.2}", ours / bare);
    }
    println!("assign: median ratio {:.2} (goal: at most 1.50)", median(&mut ratios));
    rig.end().await;
}

/// Nothing but unassigned tasks.
async fn fresh(rig: &Rig, tasks: u32) {
    rig.run("TRUNCATE tasks").await;
    rig.bench.insert(tasks).await.expect("insert");
    rig.run("VACUUM ANALYZE tasks").await;
}

fn rate(tasks: u32, took: Duration) -> f64 {
    f64::from(tasks) / took.as_secs_f64()
}

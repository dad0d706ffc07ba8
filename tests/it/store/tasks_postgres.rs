//! What only PostgreSQL has: constraints, killed backends, notifications, days of ended tasks, counted places, cursors.

use std::sync::Arc;
use std::time::Duration;

use ostler::store::{FreeClaim, Retention, Store, TaskFilter, Topics};
use ostler::tasks::{NewTask, TaskState};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, LEASE, eventually};
use super::tasks_bench::*;

const DAY: Duration = Duration::from_secs(24 * 3_600);

async fn connect(bench: &Bench) -> PgConnection {
    let mut connection = PgConnection::connect(&bench.url).await.expect("connect");
    sqlx::raw_sql("SET search_path = ostler").execute(&mut connection).await.expect("choose the schema");
    connection
}

async fn run(connection: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await?;
    Ok(done.rows_affected())
}

async fn number(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(connection).await.expect(query)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_the_database_refuses_what_the_machine_refuses() {
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 1).await;
    let claimed_by = lease(&bench.store, "worker").await;
    give_many(&bench, &fence, "hook", 1).await;
    let [running] = &claim_hooks(&bench.store, &claimed_by, 1).await[..] else { panic!("one is there") };
    let pending = give_many(&bench, &fence, "hook", 1).await[0];
    let unassigned = insert(&bench, &[new_task()]).await[0];
    let mut database = connect(&bench).await;
    for (task, change) in [
        (pending, "state = 'in_progress'"),
        (pending, "state = 'in_progress', lease = 1, epoch = 0"),
        (pending, "lease = 1"),
        (pending, "state = 'completed'"),
        (pending, "expert = NULL"),
        (pending, "epoch = -1"),
        (pending, "cycle = 0"),
        (pending, "priority = 101"),
        (unassigned, "state = 'in_progress', lease = 1, epoch = 1"),
        (unassigned, "assigned_model = 'small'"),
        (unassigned, "assignment_reason = 'domain'"),
        (running.task.id, "lease = NULL"),
        (running.task.id, "state = 'pending'"),
        (running.task.id, "assignment_reason = NULL"),
        (running.task.id, "attempts = (SELECT json_agg(g) FROM generate_series(1, 21) AS g)"),
    ] {
        let refused = run(&mut database, &format!("UPDATE tasks SET {change} WHERE id = {task}")).await;
        let code = refused.as_ref().err().and_then(|error| error.as_database_error()?.code().map(String::from));
        assert_eq!(code.as_deref(), Some("23514"), "{change}: {refused:?}");
    }
    let harmless = run(&mut database, &format!("UPDATE tasks SET priority = 3 WHERE id = {pending}")).await;
    assert_eq!(harmless.expect("allowed"), 1);
    complete(&bench, running, done()).await;
    let refused = run(&mut database, "UPDATE finished_tasks SET result = NULL").await;
    assert!(refused.is_err(), "a completed task has a result");
}

/// Claims and completes until nothing is left, whatever fails in between.
async fn work(store: Arc<dyn Store>, claim: FreeClaim, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let Ok(claimed) = store.claim_free(&claim).await else { continue };
        if claimed.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let completions: Vec<_> = claimed.iter().map(|one| end(one, done())).collect();
        while !completions.is_empty() && store.complete(&completions).await.is_err() && !stop.is_cancelled() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_backends_killed_in_the_middle_of_claims_and_ends_lose_and_double_nothing() {
    const TASKS: usize = 3_000;
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 1).await;
    give_many(&bench, &fence, "hook", TASKS).await;
    let mut database = connect(&bench).await;
    let stop = CancellationToken::new();
    let mut workers = Vec::new();
    let mut leases = Vec::new();
    for worker in 0..4 {
        let store = bench.peer().await;
        let lease = lease(&store, &format!("worker-{worker}")).await;
        let claim = FreeClaim { queues: served(&lease), most: 7 };
        leases.push(lease);
        workers.push(tokio::spawn(work(store, claim, stop.clone())));
    }
    let mut killed = 0;
    eventually("killed often enough, or all done", async || {
        killed += number(
            &mut database,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'ostler'
             AND datname = current_database() AND state <> 'idle' AND random() < 0.5",
        )
        .await;
        killed > 40 || number(&mut database, "SELECT count(*) FROM tasks").await == 0
    })
    .await;
    assert!(killed > 0, "nobody was caught in the middle");
    // What was claimed while the answer got lost is still claimed: its worker is gone.
    for lease in &leases {
        eventually("a lease is closed", async || bench.store.close_lease(lease).await.is_ok()).await;
    }
    stop.cancel();
    for worker in workers {
        worker.await.expect("no panic");
    }
    for lease in &leases {
        bench.store.close_lease(lease).await.expect("close");
    }
    let (stop, last) = (CancellationToken::new(), lease(&bench.store, "last").await);
    let claim = FreeClaim { queues: served(&last), most: 50 };
    let worker = tokio::spawn(work(bench.store.clone(), claim, stop.clone()));
    eventually("all are done", async || number(&mut database, "SELECT count(*) FROM tasks").await == 0).await;
    stop.cancel();
    worker.await.expect("no panic");
    let finished =
        number(&mut database, "SELECT count(DISTINCT id) FROM finished_tasks WHERE state = 'completed'").await;
    let rows = number(&mut database, "SELECT count(*) FROM finished_tasks").await;
    assert_eq!((finished, rows), (TASKS as i64, TASKS as i64), "inserted = ended, each once");
    assert_eq!(number(&mut database, "SELECT sum(running) FROM expert_places").await, 0, "no place is lost");
    let beyond = "SELECT count(*) FROM finished_tasks WHERE epoch < attempts_used + free_requeues + leases_lost
        OR attempts_used <> 1 OR json_array_length(attempts) <> 1";
    assert_eq!(number(&mut database, beyond).await, 0, "each was counted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_waiter_that_lost_its_connection_listens_again() {
    let bench = Bench::postgres().await;
    shop(&bench, 1).await;
    let peer = bench.peer().await;
    let mut database = connect(&bench).await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    for _ in 0..2 {
        let waiter = peer.clone();
        let waiting = tokio::spawn(async move {
            // May resolve for nothing: what counts is that it listens.
            waiter.follow(Topics::NEW).changed(Duration::from_millis(100)).await;
        });
        waiting.await.expect("no panic");
        eventually("it listens", async || number(&mut database, listening).await > 0).await;
        number(
            &mut database,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        )
        .await;
        eventually("the old one is gone", async || number(&mut database, listening).await == 0).await;
        eventually("it listens again", async || number(&mut database, listening).await > 0).await;
    }
    let mut waiter = peer.follow(Topics::NEW);
    // What was missed meanwhile is told once.
    while waiter.changed(Duration::from_secs(1)).await {}
    insert(&bench, &[new_task()]).await;
    assert!(waiter.changed(Duration::from_secs(60)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_day_of_which_nothing_is_kept_is_dropped_as_a_whole() {
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 1).await;
    let keyed = |key: &str| NewTask { key: Some(key.to_owned()), ..new_task() };
    give(&bench, &fence, "hook", &[keyed("a"), keyed("b"), keyed("c")]).await;
    let lease = lease(&bench.store, "worker").await;
    let claimed = claim_hooks(&bench.store, &lease, 3).await;
    for one in &claimed {
        complete(&bench, one, done()).await;
    }
    let mut database = connect(&bench).await;
    let today = "SELECT count(*) FROM finished_completed_rest";
    assert_eq!(number(&mut database, today).await, 0, "the migration made room for today");
    for (task, days) in [(0, 9), (1, 3)] {
        let id = claimed[task].task.id;
        let moves = format!(
            "SELECT make_finished_day('finished_completed', ((clock_timestamp() AT TIME ZONE 'UTC')::date - {days}));
             UPDATE finished_tasks SET state_since = state_since - interval '{days} days' WHERE id = {id}"
        );
        run(&mut database, &moves).await.expect("as if it had ended then");
    }
    let past = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'finished_completed'::regclass
        AND inhrelid::regclass::text ~ '[0-9]{8}' AND right(inhrelid::regclass::text, 8) < to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')";
    assert_eq!(number(&mut database, past).await, 2);
    let retention = [
        Retention { queue: Some(queue_key()), completed: 7 * DAY, failed: 30 * DAY },
        Retention { queue: None, completed: 7 * DAY, failed: 30 * DAY },
    ];
    assert_eq!(bench.store.retain(&fence, &retention).await, Ok(1));
    assert_eq!(number(&mut database, past).await, 1, "dropped, not emptied");
    let left = bench.store.tasks(&TaskFilter::default(), &all_on_a_page()).await.expect("tasks");
    assert_eq!(left.iter().map(|task| task.key.as_deref()).collect::<Vec<_>>(), [Some("c"), Some("b")]);
    let again = bench.store.insert_tasks(&[keyed("a"), keyed("b")]).await.expect("insert");
    assert_eq!(again.iter().map(|one| one.existed).collect::<Vec<_>>(), [false, true], "keys go with their tasks");
    let other = [Retention {
        queue: Some(ostler::tasks::QueueKey { name: "other".to_owned(), ..queue_key() }),
        ..retention[0].clone()
    }];
    assert_eq!(bench.store.retain(&fence, &other).await, Ok(0), "nobody said how long this queue's are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_count_of_places_that_is_off_is_put_right() {
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 1).await;
    give_many(&bench, &fence, "hook", 3).await;
    let lease = lease(&bench.store, "worker").await;
    assert_eq!(claim_hooks(&bench.store, &lease, 2).await.len(), 2);
    let mut database = connect(&bench).await;
    let running = "SELECT running::bigint FROM expert_places WHERE expert = 'hook'";
    assert_eq!(number(&mut database, running).await, 2);
    run(&mut database, "UPDATE expert_places SET running = 50 WHERE expert = 'hook'").await.expect("break it");
    assert_eq!(claim_hooks(&bench.store, &lease, 1).await.len(), 0, "it seems to be full");
    bench.store.renew(&fence, LEASE).await.expect("leads");
    bench.store.retain(&fence, &[]).await.expect("retain");
    assert_eq!(number(&mut database, running).await, 2);
    eventually("it has places", async || claim_hooks(&bench.store, &lease, 1).await.len() == 1).await;
}

#[tokio::test]
async fn real_a_place_that_is_taken_while_a_claim_runs_is_not_given_twice() {
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 1).await;
    give_many(&bench, &fence, "hook", 20).await;
    let mut database = connect(&bench).await;
    let lease = lease(&bench.store, "worker").await;
    assert_eq!(claim_hooks(&bench.store, &lease, 2).await.len(), 2, "as many as asked for: there is more");
    run(&mut database, "BEGIN").await.expect("begin");
    let taken = "UPDATE expert_places SET running = places - 1 WHERE expert = 'hook'";
    assert_eq!(run(&mut database, taken).await.expect("somebody else's claim"), 1);
    let store = bench.store.clone();
    let claim = tokio::spawn(async move { claim_hooks(&store, &lease, 5).await.len() });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ostler'
        AND datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the claim waits for the places", async || number(&mut database, waiting).await == 1).await;
    run(&mut database, "COMMIT").await.expect("commit");
    assert_eq!(claim.await.expect("no panic"), 1, "one place was left");
    assert_eq!(number(&mut database, "SELECT count(*) FROM tasks WHERE state = 'in_progress'").await, 3);
    assert_eq!(
        number(&mut database, "SELECT places::bigint - running FROM expert_places WHERE expert = 'hook'").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_task_that_another_process_puts_before_the_cursor_is_seen_soon() {
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 1).await;
    let ids = give_many(&bench, &fence, "hook", 3).await;
    let peer = bench.peer().await;
    let lease = lease(&peer, "worker").await;
    assert_eq!(super::tasks_bench::ids(&claim_hooks(&peer, &lease, 1).await), ids[..1]);
    let urgent = give(&bench, &fence, "hook", &[NewTask { priority: 9, ..new_task() }]).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(super::tasks_bench::ids(&claim_hooks(&peer, &lease, 1).await), urgent, "after a second at the latest");
    assert_eq!(super::tasks_bench::ids(&claim_hooks(&peer, &lease, 5).await), ids[1..]);
    assert_eq!(state(&bench, ids[2]).await, TaskState::InProgress);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_result_whose_commit_takes_long_is_not_missed_by_whoever_reads_on() {
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 2).await;
    let ids = give(&bench, &fence, "hook", &[new_task(), new_task()]).await;
    let lease = lease(&bench.store, "worker").await;
    let claimed = claim_hooks(&bench.store, &lease, 2).await;
    assert_eq!(claimed.len(), 2);
    // The first one ends before the second one, and is committed long after it.
    let mut slow = connect(&bench).await;
    run(&mut slow, "BEGIN").await.expect("begin");
    let ends = format!(
        "WITH gone AS (DELETE FROM tasks WHERE id = {} RETURNING *)
         INSERT INTO finished_tasks SELECT id, created_at, clock_timestamp(), epoch, priority, attempts_used, free_requeues, leases_lost,
            cycle, bytes, 'failed', namespace, queue, domain, role, labels, attempts, payload, run_after, deadline, expert,
            assignment_reason, candidates, assigned_model, model, key, 'slow', NULL FROM gone",
        ids[0]
    );
    assert_eq!(run(&mut slow, &ends).await.expect("end it"), 1);
    let second = claimed.iter().find(|one| one.task.id == ids[1]).expect("claimed");
    complete(&bench, second, done()).await;
    let ended = TaskFilter { states: vec![TaskState::Completed, TaskState::Failed], ..TaskFilter::default() };
    let (mut after, mut seen) = (None, Vec::new());
    let mut read = async || {
        for task in bench.store.task_changes(&ended, after, 10, true).await.expect("changes") {
            after = Some(ostler::store::TaskCursor::of(&task));
            seen.push(task.id);
        }
        seen.clone()
    };
    // Longer than what changed needs to settle.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(read().await.is_empty(), "what may be overtaken is not shown");
    run(&mut slow, "COMMIT").await.expect("commit");
    eventually("both are shown", async || read().await.len() == 2).await;
    assert_eq!(read().await, ids, "in the order in which they ended");
}

/// Statements that run again and again must not look at all that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_what_runs_periodically_reads_by_indexes() {
    let bench = Bench::postgres().await;
    shop(&bench, 2).await;
    let mut database = connect(&bench).await;
    for statement in [
        "INSERT INTO tasks (rank, created_at, state_since, priority, bytes, namespace, queue, domain, role, labels, payload, run_after,
            deadline, expert, assignment_reason)
         SELECT CASE WHEN n % 2 = 0 THEN 4611686018427387904 + 4102444800000 ELSE n END, now(), now(), 0, 2, 'default', 'q' || n % 10,
            'd', 'r', '{}', '{}', CASE WHEN n % 2 = 0 THEN timestamptz '2100-01-01' END, now() + interval '1 day', 'hook' || n % 50, 'x'
         FROM generate_series(1, 20000) AS n",
        "INSERT INTO leases (holder, namespace, queue, expires_at)
         SELECT 'h' || n, 'default', 'q', now() + interval '1 hour' FROM generate_series(1, 5000) AS n",
        "INSERT INTO claims SELECT id, ARRAY[id], ARRAY[1] FROM leases",
        "INSERT INTO finished_tasks (id, created_at, state_since, epoch, priority, attempts_used, free_requeues, leases_lost, cycle, bytes,
            state, namespace, queue, domain, role, labels, attempts, payload)
         SELECT 1000000 + n, now(), now() - n * interval '1 millisecond', 1, 0, 1, 0, 0, 1, 2, 'failed', 'default', 'q', 'd', 'r', '{}',
            '[]', '{}' FROM generate_series(1, 50000) AS n",
        "ANALYZE",
    ] {
        run(&mut database, statement).await.expect("fill");
    }
    let large = "SELECT relname::text FROM pg_class WHERE relnamespace = 'ostler'::regnamespace AND relkind = 'r' AND reltuples > 1000";
    let large: Vec<String> = sqlx::query_scalar(large).fetch_all(&mut database).await.expect("tables");
    assert!(large.len() >= 4, "{large:?}");
    for (what, statement) in ostler::store::postgres::periodic_statements() {
        // As it is prepared: the plan must be right without knowing the values.
        run(&mut database, "SET plan_cache_mode = force_generic_plan").await.expect("set");
        run(&mut database, &format!("PREPARE periodic AS {statement}")).await.expect(what);
        let values = vec!["NULL"; statement_parameters(&statement)].join(", ");
        let call = if values.is_empty() { "periodic".to_owned() } else { format!("periodic ({values})") };
        let explain = AssertSqlSafe(format!("EXPLAIN (FORMAT TEXT) EXECUTE {call}"));
        let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut database).await.expect(what);
        let plan = plan.join("\n");
        // What reads all tasks in progress reads all claims, of which each holds what a worker claimed at once.
        let reads_claims = ["recount places", "read changes", "read on from a change"].contains(&what);
        for table in large.iter().filter(|table| !reads_claims || *table != "claims") {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{what}:\n{plan}");
        }
        run(&mut database, "DEALLOCATE periodic").await.expect("deallocate");
    }
}

/// Whatever stands before: a claim must not walk over what nobody may claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_claim_does_not_walk_over_the_tasks_of_a_full_expert() {
    const BEFORE: usize = 5_000;
    let bench = Bench::postgres().await;
    let fence = shop(&bench, 2).await;
    give_many(&bench, &fence, "hook", BEFORE).await;
    bench.store.project_declared(&fence, &webhook("hook", 0)).await.expect("it is full");
    bench.store.project_declared(&fence, &webhook("other", 5)).await.expect("project");
    let last = give_many(&bench, &fence, "other", 3).await;
    let ids = insert(&bench, &[new_task()]).await;
    let webhook_task = assignment(ids[0], "other", None);
    assert_eq!(bench.store.assign(&fence, &[webhook_task]).await, Ok(1));
    let lease = lease(&bench.store, "worker").await;
    let mut database = connect(&bench).await;
    run(&mut database, "VACUUM ANALYZE tasks").await.expect("vacuum");
    run(&mut database, "SET plan_cache_mode = force_generic_plan").await.expect("set");
    let statements = ostler::store::postgres::periodic_statements();
    let (_, claim) = statements.iter().find(|(what, _)| *what == "claim").expect("named");
    run(&mut database, &format!("PREPARE claim AS {claim}")).await.expect("prepare");
    let id = lease.id;
    let explain = format!(
        "EXPLAIN (ANALYZE) EXECUTE claim (ARRAY['default'], ARRAY['default'], ARRAY[''], ARRAY[{id}], ARRAY[{first}], ARRAY[{first}], 0, 1,
            ARRAY[false], ARRAY['worker'], {id}, '{{}}')",
        first = i64::MIN
    );
    run(&mut database, "BEGIN").await.expect("begin");
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut database).await.expect("explain");
    run(&mut database, "ROLLBACK").await.expect("roll back");
    let removed = |line: &String| -> usize {
        line.trim().strip_prefix("Rows Removed by Filter: ").map_or(0, |rows| rows.parse().expect("a number"))
    };
    let walked: usize = plan.iter().map(removed).sum();
    assert!(walked < 100, "it walked over {walked} tasks:\n{}", plan.join("\n"));
    assert_eq!(claim_hooks(&bench.store, &lease, 9).await.len(), 1, "{last:?} take a slot");
    assert_eq!(claim_slots(&bench, &slot_claim(&lease, 2)).await.given.len(), 2);
}

fn statement_parameters(statement: &str) -> usize {
    (1..20).take_while(|number| statement.contains(&format!("${number}"))).count()
}

//! Tasks that are given in by SQL, within somebody else's transaction: refused as the API refuses them.

use std::time::Duration;

use ostler::store::{TaskFilter, Topics};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{bench::Bench, tasks::declared};
use crate::real::Postgres;

/// The queues `default` and `nightly`, the expert `igor`, on PostgreSQL; and a connection that knows nothing of Ostler.
async fn shop() -> (Bench, PgConnection) {
    let url = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.unwrap();
    let bench = Bench::postgres(&url).await;
    let fence = bench.lead().await;
    for row in [
        declared("TaskQueue", "default", json!({"deadlineSeconds": 60})),
        declared("TaskQueue", "nightly", json!({})),
        declared("Expert", "igor", json!({"domains": ["backend"], "model": "small", "handler": "Chat"})),
    ] {
        bench.store.project_declared(&fence, &row).await.unwrap();
    }
    (bench, PgConnection::connect(&url).await.unwrap())
}

async fn add(connection: &mut PgConnection, task: &Value) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT ostler.add_task($1)").bind(task).fetch_one(connection).await
}

async fn run(connection: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await?;
    Ok(done.rows_affected())
}

/// Why the database refused something.
fn why(refused: sqlx::Error) -> String {
    refused.as_database_error().expect("the database's word").message().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_task_is_there_when_the_transaction_that_gave_it_in_commits_and_somebody_is_told() {
    let (bench, mut caller) = shop().await;
    let mut new = bench.store.follow(Topics::NEW);
    // What was before may be told once more.
    while new.changed(Duration::from_secs(1)).await {}
    run(&mut caller, "CREATE TABLE orders (task bigint)").await.unwrap();
    for end in ["ROLLBACK", "COMMIT"] {
        run(&mut caller, "BEGIN").await.unwrap();
        let task = add(&mut caller, &json!({"prompt": "ünï"})).await.unwrap();
        sqlx::query("INSERT INTO orders VALUES ($1)").bind(task).execute(&mut caller).await.unwrap();
        run(&mut caller, end).await.unwrap();
        let orders: Vec<i64> = sqlx::query_scalar("SELECT task FROM orders").fetch_all(&mut caller).await.unwrap();
        let ids: Vec<i64> = bench.get("/api/v1/tasks").await.1["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["id"].as_i64().unwrap())
            .collect();
        assert_eq!((&ids, ids.len()), (&orders, usize::from(end == "COMMIT")), "{end}");
        let told = new.changed(Duration::from_secs(if end == "COMMIT" { 20 } else { 1 })).await;
        assert_eq!(told, end == "COMMIT", "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_task_by_sql_is_the_task_that_the_api_would_have_made() {
    let (bench, mut caller) = shop().await;
    for given in [
        json!({"prompt": "a"}),
        json!({"prompt": "a", "model": null, "maxTokens": 7, "schema": {"type": "object"}}),
        json!({"queue": "nightly", "domain": "backend", "role": "sre", "messages": [{"role": "user", "content": "ü"}],
            "priority": -7, "runAfter": "2096-03-01T12:00:00.5Z", "deadline": "2096-03-02T00:00:00+02:00", "key": "k",
            "labels": {"a": "b"}, "model": "large", "expert": "igor"}),
        json!({"input": ["a", "b"], "runAfter": "1d12h", "deadline": "100d"}),
        json!({"data": {"n": [1, -7, 18_446_744_073_709_551_615_u64, 0.1, 1.5, 0.300_000_000_000_000_04], "x": null}}),
        json!({"data": false}),
    ] {
        let by_sql = add(&mut caller, &given).await.unwrap();
        let mut other = given.clone();
        // The same key would be the same task.
        other["key"] = given["key"].as_str().map(|key| format!("{key}2")).into();
        let (status, reply) = bench.post("/api/v1/tasks", Some(other)).await;
        assert_eq!(status, StatusCode::CREATED, "{given}: {reply}");
        let read = async |id: i64| {
            let mut task = bench.store.task(id).await.unwrap().expect("it is there");
            // Durations count from when each was given in; to a minute.
            let minutes =
                |at: Option<jiff::Timestamp>| at.map(|at| (at.duration_since(task.created_at).as_secs() + 5) / 60);
            let times = (minutes(task.run_after), minutes(task.deadline));
            let key = task.key.take().map(|key| key.trim_end_matches('2').to_owned());
            (
                times,
                key,
                task.namespace,
                task.queue,
                task.domain,
                task.role,
                task.labels,
                task.model,
                task.priority,
                task.expert,
                task.payload,
            )
        };
        assert_eq!(read(by_sql).await, read(reply["items"][0]["id"].as_i64().unwrap()).await, "{given}");
    }
    let before = bench.store.count_tasks(&TaskFilter::default()).await.unwrap();
    let again = add(&mut caller, &json!({"prompt": "another", "queue": "nightly", "key": "k"})).await.unwrap();
    let there = bench.store.task(again).await.unwrap().expect("it is there");
    assert_eq!(
        (there.key.as_deref(), there.domain.as_str()),
        (Some("k"), "backend"),
        "a key gives the task that exists"
    );
    assert_eq!(bench.store.count_tasks(&TaskFilter::default()).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_what_is_wrong_is_refused_by_field_and_in_the_apis_words() {
    let (bench, mut caller) = shop().await;
    let deep = |levels: usize| -> Value {
        serde_json::from_str(&format!("{{\"data\": {}1{}}}", "[".repeat(levels), "]".repeat(levels))).unwrap()
    };
    for task in [
        json!({}),
        json!({"prompt": ""}),
        json!({"prompt": " \n\u{2003}"}),
        json!({"prompt": 7}),
        json!({"prompt": "a", "data": 1}),
        json!({"messages": []}),
        json!({"messages": "a"}),
        json!({"messages": [{"role": "robot", "content": "a"}]}),
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": " "}]}),
        json!({"input": ["a", 1]}),
        json!({"input": ["a", " "]}),
        json!({"input": []}),
        json!({"input": "a"}),
        json!({"prompt": "a", "queue": "nightli"}),
        json!({"prompt": "a", "queue": ""}),
        json!({"prompt": "a", "domain": "x".repeat(101)}),
        json!({"prompt": "a", "expert": "boris"}),
        json!({"prompt": "a", "priority": 101}),
        json!({"prompt": "a", "priority": 1.5}),
        json!({"prompt": "a", "priority": "high"}),
        json!({"prompt": "a", "maxTokens": 0}),
        json!({"prompt": "a", "runAfter": "soon"}),
        json!({"prompt": "a", "runAfter": "2026-13-01T12:00:00Z"}),
        json!({"prompt": "a", "runAfter": "0s"}),
        json!({"prompt": "a", "runAfter": "1969-12-31T23:59:59Z"}),
        json!({"prompt": "a", "deadline": "9999-12-30T00:00:00Z"}),
        json!({"prompt": "a", "deadline": "3000000d"}),
        json!({"prompt": "a", "deadline": "2026-03-01T11:59:59Z"}),
        json!({"prompt": "a", "deadline": "2026-03-01T11:59:59.25+01:00"}),
        json!({"prompt": "a", "deadline": "2099-03-02T00:00:00Z", "runAfter": "2099-03-02T00:00:00Z"}),
        json!({"prompt": "a", "schema": "text"}),
        json!({"prompt": "a", "key": "a\nb"}),
        json!({"prompt": "a", "key": "k".repeat(201)}),
        json!({"prompt": "a", "labels": {"a": 1}}),
        json!({"prompt": "a", "labels": {"a=b": "c"}}),
        json!({"prompt": "a", "labels": {"a": "b,c"}}),
        json!({"prompt": "a", "labels": ["a"]}),
        json!({"prompt": "a", "labels": (0..33).map(|n| (format!("l{n}"), "v".into())).collect::<serde_json::Map<_, _>>()}),
        deep(64),
    ] {
        let shown: String = task.to_string().chars().take(100).collect();
        let (status, reply) = bench.post("/api/v1/tasks?dryRun=true", Some(task.clone())).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{shown}: {reply}");
        let [problem] = &reply["problems"].as_array().expect("problems")[..] else { panic!("{shown}: {reply}") };
        // Of a value deep inside, the field of the task is told.
        let field = problem["field"].as_str().unwrap();
        let field = if field.starts_with("data[") { "data" } else { field };
        let refused = add(&mut caller, &task).await.expect_err(&shown);
        assert_eq!(why(refused), format!("{field}: {}", problem["message"].as_str().unwrap()), "{shown}");
    }
    for (task, expected) in [
        (json!([]), "task: is a list: write one JSON object"),
        (json!({"prompt": "a", "promt": "b"}), "promt: unknown field: a task has queue, domain"),
        (json!({"messages": [{"role": "user"}]}), "messages[0]: is no message: write {"),
        (json!({"prompt": "x".repeat(1_048_576)}), "prompt: has 1048590 bytes, 1048576 are allowed"),
    ] {
        let said = why(add(&mut caller, &task).await.expect_err(expected));
        assert!(said.starts_with(expected), "{said}");
    }
    let number = "SELECT ostler.add_task('{\"data\": [1, 0.12345678901234567890]}')";
    let said = why(run(&mut caller, number).await.expect_err("it can't be kept"));
    assert!(said.starts_with("data: has 0.12345678901234567890, which can't be kept exactly"), "{said}");
    assert_eq!(bench.store.count_tasks(&TaskFilter::default()).await, Ok(0), "nothing of it was taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_whoever_may_call_it_may_do_nothing_else_and_no_table_of_theirs_is_taken_for_one() {
    let (bench, mut caller) = shop().await;
    // Roles are the server's, and other tests have databases there as well.
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    run(&mut caller, &format!("CREATE ROLE {role}")).await.unwrap();
    run(&mut caller, &format!("GRANT USAGE ON SCHEMA ostler TO {role}; SET ROLE {role}")).await.unwrap();
    let refused = why(add(&mut caller, &json!({"prompt": "a"})).await.expect_err("no right"));
    assert_eq!(refused, "permission denied for function add_task");
    run(&mut caller, &format!("RESET ROLE; GRANT EXECUTE ON FUNCTION ostler.add_task TO {role}")).await.unwrap();
    run(&mut caller, &format!("GRANT SELECT ON ostler.results TO {role}; SET ROLE {role}")).await.unwrap();
    run(&mut caller, "CREATE TEMP TABLE tasks (id bigint); CREATE TEMP TABLE declared (name text)").await.unwrap();
    run(&mut caller, "SET search_path = pg_temp").await.unwrap();
    let id = add(&mut caller, &json!({"prompt": "a"})).await.unwrap();
    assert!(bench.store.task(id).await.unwrap().is_some());
    let mine: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_temp.tasks").fetch_one(&mut caller).await.unwrap();
    assert_eq!(mine, 0);
    run(&mut caller, "SELECT * FROM ostler.results").await.unwrap();
    let refused = why(run(&mut caller, "SELECT * FROM ostler.tasks").await.expect_err("no right"));
    assert_eq!(refused, "permission denied for table tasks");
    run(&mut caller, &format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_results_are_read_by_sql() {
    let (bench, mut caller) = shop().await;
    let id = add(&mut caller, &json!({"prompt": "a", "key": "k", "labels": {"order": "7"}})).await.unwrap();
    let (status, _) =
        bench.post("/api/v1/tasks/commands", Some(json!({"command": "cancel", "ids": [id], "reason": "no"}))).await;
    assert_eq!(status, StatusCode::OK);
    let read = "SELECT id, key, labels ->> 'order', state, reason FROM ostler.results WHERE ended_at > now() - interval '1 hour'";
    let rows: Vec<(i64, String, String, String, String)> = sqlx::query_as(read).fetch_all(&mut caller).await.unwrap();
    let text = str::to_owned;
    assert_eq!(rows, [(id, text("k"), text("7"), text("cancelled"), text("by ada: no"))]);
}

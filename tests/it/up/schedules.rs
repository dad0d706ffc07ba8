//! Schedules of a folder: they fire by the clock and by hand, once each, whatever is killed in between.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::Value;
use sqlx::{Row, sqlite::SqliteConnectOptions};

use super::harness::{PATIENCE, Up};

const TASKS: &str = "apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: igor, labels: {team: a}}
spec: {domains: [backend], model: small}
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: ada, labels: {team: a}}
spec: {domains: [math], model: small}
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: bob, labels: {team: b}}
spec: {domains: [law], model: small}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: default}
spec: {}
";

fn schedule(name: &str, cron: &str, rest: &str) -> String {
    format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: TaskSchedule\nmetadata: {{name: {name}}}\nspec:\n  queueRef: {{name: default}}\n  \
         schedule: '{cron}'\n  task: {{prompt: Learn.}}\n{rest}"
    )
}

/// How many tasks each schedule has inserted, by schedule and run.
async fn inserted(data: &Path) -> BTreeMap<(String, String), i64> {
    let options = SqliteConnectOptions::new().filename(data.join("ostler.db")).read_only(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let rows = sqlx::query("SELECT labels FROM tasks UNION ALL SELECT labels FROM finished_tasks")
        .fetch_all(&pool)
        .await
        .unwrap();
    let mut counts = BTreeMap::new();
    for row in rows {
        let labels: Value = serde_json::from_str(row.get::<&str, _>(0)).unwrap();
        let text = |key: &str| labels[key].as_str().unwrap().to_owned();
        *counts.entry((text("ostler.dev/schedule"), text("ostler.dev/run"))).or_insert(0) += 1;
    }
    counts
}

async fn until(
    up: &Up,
    what: &str,
    wanted: impl Fn(&BTreeMap<(String, String), i64>) -> bool,
) -> BTreeMap<(String, String), i64> {
    let begun = std::time::Instant::now();
    loop {
        let seen = inserted(&up.data()).await;
        if wanted(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE + Duration::from_secs(30), "{what}: {seen:?}\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn status(up: &Up, name: &str) -> Value {
    up.get(&format!("/api/v1/taskschedules/default/{name}")).await["status"].clone()
}

async fn until_state(up: &Up, name: &str, state: &str) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let seen = status(up, name).await;
        if seen["state"] == state {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is not {state}: {seen:#}\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_run_by_hand_gives_each_selected_expert_a_task_once_whatever_is_killed() {
    let manifest = schedule("yearly", "0 0 1 1 *", "  forEachExpert: {matchLabels: {team: a}}\n");
    let mut up = Up::start(&[("tasks.yaml", TASKS), ("s.yaml", &manifest)]).await;
    let seen = until_state(&up, "yearly", "Scheduled").await;
    assert!(seen["nextRunTime"].as_str().unwrap().ends_with("-01-01T00:00:00Z"), "{seen:#}");
    assert_eq!(inserted(&up.data()).await.len(), 0);
    up.ostler_ok(&["run", "ts/yearly"]);
    until(&up, "a run by hand", |seen| seen.values().copied().collect::<Vec<_>>() == [2]).await;
    for _ in 0..2 {
        up.kill();
        up.run(&[]).await;
        until_state(&up, "yearly", "Scheduled").await;
    }
    let seen = until(&up, "the same", |seen| seen.len() == 1).await;
    assert_eq!(seen.values().copied().collect::<Vec<_>>(), [2], "not fired again: {seen:?}");
    up.ostler_ok(&["run", "ts/yearly"]);
    until(&up, "a second run by hand", |seen| seen.len() == 2).await;
    let begun = std::time::Instant::now();
    while status(&up, "yearly").await["lastRunTasks"] != 2 {
        assert!(begun.elapsed() < PATIENCE, "{:#}", status(&up, "yearly").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let events = up.ostler_ok(&["events", "ts/yearly"]);
    assert!(events.contains("Fired") && events.contains("inserted 2 tasks"), "{events}");
    let refused = up.ostler(&["run", "tq/default"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[tokio::test]
async fn what_is_due_each_minute_fires_once_a_minute_and_what_is_held_waits() {
    let minutely = schedule("minutely", "* * * * *", "");
    let held = schedule("held", "* * * * *", "  requires: [{kind: LLMBackend, name: nowhere}]\n");
    let asleep = schedule("asleep", "* * * * *", "  suspend: true\n");
    let up = Up::start(&[("t.yaml", TASKS), ("m.yaml", &minutely), ("h.yaml", &held), ("a.yaml", &asleep)]).await;
    until_state(&up, "asleep", "Suspended").await;
    let seen = until(&up, "the minute's run", |seen| !seen.is_empty()).await;
    let ((name, run), count) = seen.iter().next().unwrap();
    assert_eq!((name.as_str(), *count, seen.len()), ("minutely", 1, 1), "{seen:?}");
    assert!(run.ends_with(":00Z"), "{run}");
    let waits = until_state(&up, "held", "Held").await;
    let said = waits["conditions"][0]["message"].as_str().unwrap();
    assert!(said.contains("LLMBackend nowhere") && said.contains("it is not there"), "{said}");
    let wrong = schedule("held", "0 0 31 2 *", "");
    up.write("h.yaml", &wrong);
    let said = until_state(&up, "held", "InvalidSchedule").await;
    assert!(said["conditions"][0]["message"].as_str().unwrap().contains("never comes"), "{said:#}");
}

#[tokio::test]
async fn schedules_that_can_not_be_recorded_hold_up_no_other() {
    let names: Vec<String> = (0..6).map(|n| format!("poisoned-{n}")).chain(["good".to_owned()]).collect();
    let manifests: Vec<String> = names.iter().map(|name| schedule(name, "0 0 1 1 *", "")).collect();
    let up = Up::start(&[("t.yaml", TASKS), ("s.yaml", &manifests.join("---\n"))]).await;
    for name in &names {
        until_state(&up, name, "Scheduled").await;
    }
    let options = SqliteConnectOptions::new().filename(up.data().join("ostler.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let poison = "CREATE TRIGGER poison BEFORE INSERT ON tasks WHEN new.labels LIKE '%poisoned-%'
        BEGIN SELECT RAISE(ABORT, 'not this one'); END";
    sqlx::raw_sql(poison).execute(&pool).await.unwrap();
    for name in &names {
        up.ostler_ok(&["run", &format!("ts/{name}")]);
    }
    let seen = until(&up, "the good one's run", |seen| !seen.is_empty()).await;
    assert!(seen.keys().all(|(name, _)| name == "good"), "{seen:?}");
    assert!(up.log().contains("could not record a run of a schedule; will retry"), "{}", up.log());
    sqlx::raw_sql("DROP TRIGGER poison").execute(&pool).await.unwrap();
    until(&up, "all runs", |seen| seen.len() == names.len()).await;
}

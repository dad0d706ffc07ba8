//! Schedules while the API server is away and while leaders come and go: `ostler controller` processes on an API server of their own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ostler::{
    store::{self, Home, Store, TaskFilter, TaskPage},
    tasks::Task,
};

use crate::pools::{Process, World, is};

const PATIENCE: Duration = Duration::from_secs(120);

fn schedule(namespace: &str, name: &str, cron: &str, prompt: &str) -> String {
    format!(
        "---\napiVersion: ostler.dev/v1alpha1\nkind: TaskSchedule\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{queueRef: {{name: default}}, schedule: '{cron}', task: {{prompt: {prompt}}}}}\n"
    )
}

struct Clock {
    world: World,
    store: Arc<dyn Store>,
}

impl Clock {
    async fn new() -> Self {
        let world = tokio::task::spawn_blocking(World::alone).await.expect("parts");
        let home = Home::Postgres(world.database.parse().expect("a URL"));
        store::migrate(&home, None, false).await.expect("migrate");
        let store = store::open(&home, None).await.expect("open the database");
        Self { world, store }
    }

    fn apply(&self, manifests: &str) {
        self.world.api().apply(manifests);
    }

    fn controller(&self, name: &str) -> Process {
        self.world.start(name, &["controller", "--listen", "127.0.0.1:0"])
    }

    /// Prompts of what was inserted, by schedule and run.
    async fn runs(&self) -> BTreeMap<(String, Timestamp), Vec<String>> {
        let page = TaskPage { limit: 1_000, ..TaskPage::default() };
        let mut runs: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for task in self.store.tasks(&TaskFilter::default(), &page).await.expect("read") {
            let Task { labels, payload, .. } = task;
            let run = labels["ostler.dev/run"].parse().expect("a time");
            let prompts = runs.entry((labels["ostler.dev/schedule"].clone(), run)).or_default();
            prompts.push(payload.prompt.unwrap_or_default());
        }
        runs
    }

    async fn until_fired(&self, name: &str, run: Timestamp, logs: &[&str]) {
        let begun = Instant::now();
        while !self.runs().await.contains_key(&(name.to_owned(), run)) {
            let said: String = logs.iter().map(|log| self.world.log(log)).collect();
            assert!(begun.elapsed() < PATIENCE, "{name} did not fire at {run}: {:?}\n{said}", self.runs().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_logged(&self, name: &str, word: &str) {
        let begun = Instant::now();
        while !self.world.log(name).contains(word) {
            assert!(begun.elapsed() < PATIENCE, "{name} does not say {word:?}: {}", self.world.log(name));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn until_scheduled(&self, name: &str, generation: i64) {
        self.world.until(&format!("ts/{name}"), |seen| {
            is("Scheduled")(seen) && seen["status"]["observedGeneration"] == generation
        });
    }
}

/// The next full minute that is at least so far away.
fn minute_after(least: Duration) -> Timestamp {
    let soon = Timestamp::now().as_second() + i64::try_from(least.as_secs()).expect("seconds");
    Timestamp::from_second((soon / 60 + 1) * 60).expect("a time")
}

async fn sleep_until(at: Timestamp) {
    let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::time::sleep(left).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_schedules_fire_once_whether_the_api_server_is_away_or_their_leader_and_by_what_was_last_declared() {
    let clock = Clock::new().await;
    let ns = clock.world.namespace.clone();
    clock.apply(&format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: TaskQueue\nmetadata: {{name: default, namespace: {ns}}}\nspec: {{}}\n"
    ));
    for (name, cron) in [("reworded", "* * * * *"), ("put-off", "* * * * *"), ("hastened", "0 0 1 1 *")] {
        clock.apply(&schedule(&ns, name, cron, "old"));
    }
    let first = clock.controller("first");
    for name in ["reworded", "put-off", "hastened"] {
        clock.until_scheduled(name, 1);
    }

    // Without an API server a controller that never saw one takes over: it goes by what is in the database.
    clock.world.api().stop();
    let second = clock.controller("second");
    clock.until_logged("second", "controller serves").await;
    let away = minute_after(Duration::from_secs(8));
    sleep_until(away - jiff::SignedDuration::from_secs(3)).await;
    first.kill();
    for name in ["reworded", "put-off"] {
        clock.until_fired(name, away, &["second"]).await;
    }
    let late = Timestamp::now().duration_since(away);
    eprintln!("fired {late} late by a new leader, without an API server");
    assert_eq!(clock.world.log("second").matches(" leading ").count(), 1, "{}", clock.world.log("second"));

    // Nobody leads while the manifests are changed, and a run becomes due.
    clock.world.api().resume();
    let changed = minute_after(Duration::from_secs(12));
    sleep_until(changed - jiff::SignedDuration::from_secs(8)).await;
    second.kill();
    clock.apply(&(schedule(&ns, "reworded", "* * * * *", "new") + &schedule(&ns, "put-off", "0 0 1 1 *", "new")));
    clock.apply(&schedule(&ns, "hastened", "*/1 * * * *", "new"));
    sleep_until(changed + jiff::SignedDuration::from_secs(1)).await;
    let _third = clock.controller("third");
    clock.until_logged("third", " leading ").await;
    for name in ["reworded", "put-off", "hastened"] {
        clock.until_scheduled(name, 2);
    }
    clock.until_fired("reworded", changed, &["third"]).await;
    clock.world.until("ts/reworded", |seen| seen["status"]["lastRunTime"] == changed.to_string());
    let runs = clock.runs().await;
    let of = |name: &str, at: Timestamp| runs.get(&(name.to_owned(), at)).cloned().unwrap_or_default();
    assert!(runs.values().all(|prompts| prompts.len() == 1), "each once: {runs:?}");
    assert_eq!((of("reworded", away), of("reworded", changed)), (vec!["old".to_owned()], vec!["new".to_owned()]));
    assert_eq!((of("put-off", away), of("put-off", changed)), (vec!["old".to_owned()], vec![]), "{runs:?}");
    assert_eq!(of("hastened", changed), [] as [String; 0], "a changed time makes up for nothing: {runs:?}");
}

//! `ostler up` on a folder: the leader assigns what comes in, its own worker and those beside it do it.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use ostler::{
    engines::EngineKind,
    simulate::{SimulateOptions, SimulatedServer},
    store::{self, Home, Store, TaskFilter, TaskPage, sqlite::FolderAccess},
    tasks::{NewTask, Payload, TaskState},
};

use super::{PATIENCE, eventually};
use crate::up::harness::Up;

fn manifests(mlx: &str, ollama: &str) -> String {
    let mut text = format!(
        "apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: mlx}}
spec:
  engine: MLX
  url: {mlx}
  priority: 10
  models: [{{name: mlx-community/Llama-3.2-3B-Instruct-4bit, alias: small}}]
  concurrency: {{max: 2}}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: ollama}}
spec:
  engine: Ollama
  url: {ollama}
  priority: 20
  models: [{{name: 'llama3.2:3b', alias: small}}]
  concurrency: {{max: 4}}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {{name: default}}
spec: {{leaseSeconds: 10, retry: {{backoffSeconds: 1}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {{name: smart}}
spec: {{queueRefs: [{{name: default}}]}}
"
    );
    for n in 1..=8 {
        text += &format!(
            "---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {{name: e{n}}}
spec: {{domains: [d{n}], model: small, parameters: {{maxTokens: 8, timeoutSeconds: 20}}}}
"
        );
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_hundred_and_five_tasks_are_assigned_in_seconds_and_done_by_up_and_workers_beside_it() {
    let mlx = SimulatedServer::start(SimulateOptions::new(EngineKind::Mlx)).await.expect("start");
    let options = SimulateOptions { parallel: 4, ..SimulateOptions::new(EngineKind::Ollama) };
    let ollama = SimulatedServer::start(options).await.expect("start");
    let up = Up::start(&[("all.yaml", &manifests(mlx.url(), ollama.url()))]).await;
    up.until_ready("mlx").await;
    up.until_ready("ollama").await;
    let home = Home::Folder { path: up.data(), hold: FolderAccess::Share };
    let store = store::open(&home, None).await.expect("open beside it");
    let beside = tokio::process::Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["worker", "--pool", "smart", "--data-dir"])
        .arg(up.data())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut beside = beside.expect("run ostler");

    let tasks: Vec<NewTask> = (0..405).map(task).collect();
    store.insert_tasks(&tasks).await.expect("insert");
    let begun = Instant::now();
    eventually("all to be assigned", || async { counts(&*store).await.0 == 0 }).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "assigned after {:?}", begun.elapsed());
    while counts(&*store).await.1 < 405 {
        assert!(begun.elapsed() < PATIENCE, "{:?} of 405: {}", counts(&*store).await, up.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(mlx.log().in_flight_peak <= 2, "MLX had {} at once", mlx.log().in_flight_peak);
    assert!(ollama.log().in_flight_peak <= 4, "Ollama had {} at once", ollama.log().in_flight_peak);
    let page = TaskPage { limit: 1_000, ..TaskPage::default() };
    let done = store.tasks(&TaskFilter::default(), &page).await.expect("read");
    assert!(done.iter().all(|task| task.state == TaskState::Completed && task.leases_lost == 0));
    assert!(done.iter().all(|task| task.expert.as_deref() == Some(&format!("e{}", &task.domain[1..]))));

    let id = i32::try_from(beside.id().expect("it runs")).expect("a process id");
    kill(nix::unistd::Pid::from_raw(id), Signal::SIGTERM).expect("signal");
    let ended = tokio::time::timeout(PATIENCE, beside.wait()).await.expect("it ends").expect("wait");
    assert_eq!(ended.code(), Some(0));
}

fn task(n: usize) -> NewTask {
    NewTask {
        namespace: "default".into(),
        queue: "default".into(),
        domain: format!("d{}", n % 8 + 1),
        role: "engineer".into(),
        payload: Payload { prompt: Some(format!("hello {n}")), ..Payload::default() },
        ..NewTask::default()
    }
}

/// Unassigned and completed.
async fn counts(store: &dyn Store) -> (i64, i64) {
    let all = store.queue_counts().await.expect("count");
    (all.iter().map(|c| c.unassigned).sum(), all.iter().map(|c| c.completed).sum())
}

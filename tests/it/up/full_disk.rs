//! The disk of the data folder is full for a time.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ostler::{
    engines::EngineKind,
    simulate::{CallEnd, SimulateOptions, SimulatedServer},
};
use serde_json::Value;

use super::{
    declared::{MLX_MODEL, Manifests, prompts},
    harness::Up,
};

const TASKS: usize = 200;
/// Once there is room again, all goes on within this.
const SOON: Duration = Duration::from_secs(20);

fn manifests(url: &str) -> Manifests {
    let rest = "probe: {periodSeconds: 1}, concurrency: {max: 6, adaptive: false, unsafeMax: true}";
    Manifests::default().backend("mlx", "MLX", url, MLX_MODEL, rest).work("maxTokens: 8, timeoutSeconds: 30", "")
}

/// A small file system of its own, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "ostler-test"]).arg(folder).status();
        assert!(mounted.expect("mount").success(), "this test needs the right to mount");
        Self(folder.to_owned())
    }

    /// Takes all that is left, and what is given back meanwhile.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.0.join("filler")).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what still has it open keeps it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// What status says once it fails over a full disk.
async fn told(up: &Up, disk: &Disk) -> String {
    let mut told = String::new();
    until("status says it", up, SOON, async || {
        // The log's room and that of dropped files is taken, too.
        disk.fill();
        let output = up.ostler(&["status", "--check"]);
        told = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.code() == Some(3) && told.contains("full")
    })
    .await;
    // An answer holds for a second.
    until("it is not ready", up, SOON, async || up.try_get("/readyz").await.is_none()).await;
    told
}

async fn completed(up: &Up) -> i64 {
    let queues = up.try_get("/api/v1/tasks/queues").await.unwrap_or_default();
    queues["items"].as_array().into_iter().flatten().filter_map(|queue| queue["completed"].as_i64()).sum()
}

async fn until(what: &str, up: &Up, patience: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < patience, "{what}: not after {patience:?}\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_full_disk_stops_the_work_and_loses_nothing() {
    let options = SimulateOptions { tokens_per_second: 8.0, ..SimulateOptions::new(EngineKind::Mlx) };
    let server = SimulatedServer::start(options).await.expect("start");
    let mut up = Up::prepare(&[("all.yaml", manifests(server.url()).text())]);
    let disk = Disk::at(&up.data());
    up.run(&[]).await;
    up.until_ready("mlx").await;
    up.add_tasks(prompts(TASKS));
    until("some are done", &up, SOON * 2, async || completed(&up).await >= 20).await;

    for round in 1..=2 {
        disk.fill();
        let filled = Instant::now();
        let told = told(&up, &disk).await;
        while filled.elapsed() < Duration::from_secs(6) {
            disk.fill();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(up.is_running(), "{}", up.log());
        let before = completed(&up).await;
        disk.free();
        let freed = Instant::now();
        until("it goes on", &up, SOON, async || completed(&up).await > before + 8).await;
        println!(
            "round {round}: told {}; went on after {:?}",
            told.lines().next().unwrap_or_default(),
            freed.elapsed()
        );
        until("status is well again", &up, SOON * 2, async || up.ostler(&["status", "--check"]).status.success()).await;
        until("it is ready", &up, SOON, async || up.try_get("/readyz").await.is_some()).await;
    }
    until("all are done", &up, SOON * 12, async || completed(&up).await == TASKS as i64).await;

    let list = up.get("/api/v1/tasks?limit=1000").await;
    let tasks = list["items"].as_array().cloned().unwrap_or_default();
    assert_eq!(tasks.len(), TASKS);
    let calls = server.log().inferences().count();
    let count = |task: &Value, field: &str| task[field].as_i64().unwrap_or(0);
    let allowed: i64 = tasks
        .iter()
        .map(|task| count(task, "attemptsUsed") + count(task, "freeRequeues") + count(task, "leasesLost"))
        .sum();
    let finished = server.log().inferences().filter(|call| call.end == CallEnd::Finished).count();
    println!("{calls} calls, {finished} to their end, {allowed} allowed");
    // Canaries are calls, too.
    let canaries =
        server.log().inferences().filter(|call| !call.prompt.as_deref().unwrap_or("").starts_with("task ")).count();
    assert!(((calls - canaries) as i64) <= allowed, "{calls} calls, {canaries} of them canaries, {allowed} allowed");
    let root = up.root.clone();
    drop(up);
    drop(disk);
    let _ = std::fs::remove_dir_all(root);
}

/// A worker that has nothing to do writes nothing: no statement fails that would tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_disk_that_fills_while_nothing_is_done_is_told_of() {
    let mut up = Up::prepare(&[("all.yaml", Manifests::default().work("maxTokens: 8", "").text())]);
    let disk = Disk::at(&up.data());
    up.run(&[]).await;
    until("a pool", &up, SOON, async || up.get("/api/v1/tasks/workers").await["items"][0].is_object()).await;
    told(&up, &disk).await;
    disk.free();
    until("it is ready again", &up, SOON, async || up.try_get("/readyz").await.is_some()).await;
    let root = up.root.clone();
    drop(up);
    drop(disk);
    let _ = std::fs::remove_dir_all(root);
}

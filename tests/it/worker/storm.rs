//! Workers, the leader and the database's connections killed, and the database restarted, over and over; what must hold is counted
//! afterwards, in the database and at the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use ostler::{
    engines::EngineKind,
    simulate::{SimulateOptions, SimulatedServer},
    store::{TaskFilter, TaskPage},
    tasks::{AttemptClass, NewTask, Payload, Task, TaskId, TaskState},
};
use sqlx::{Connection, PgConnection};

use super::{
    eventually,
    shop::{Process, executions, new_task, worker_process},
};
use crate::{real::Postgres, store::bench::Bench, up::harness::Up};

const TASKS: usize = 5_000;
const LIMIT: usize = 8;
const EXPERTS: usize = 8;
const WORKERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(400);
/// Between two blows.
const CALM: Duration = Duration::from_millis(2_000);
/// Blows at most: what is left then is done in peace.
const BLOWS: usize = 12;

fn manifests(url: &str) -> String {
    let mut text = format!(
        "apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: vllm}}
spec:
  engine: OpenAI
  url: {url}
  models: [{{name: gpt-oss-20b, alias: small}}]
  concurrency: {{max: {LIMIT}, adaptive: false}}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {{name: default}}
spec: {{leaseSeconds: 5, retry: {{maxAttempts: 10, backoffSeconds: 1}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {{name: smart}}
spec: {{queueRefs: [{{name: default}}]}}
"
    );
    for n in 0..EXPERTS {
        text += &format!(
            "---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {{name: e{n}}}
spec: {{domains: [d{n}], model: small, maxConcurrentTasks: 20, parameters: {{maxTokens: 4, timeoutSeconds: 4}}}}
"
        );
    }
    text
}

fn task(n: usize) -> NewTask {
    let payload = Payload { prompt: Some(format!("hello {n}")), ..Payload::default() };
    NewTask { domain: format!("d{}", n % EXPERTS), key: Some(format!("task {n}")), ..new_task(payload) }
}

/// What is killed.
struct Storm {
    bench: Bench,
    postgres: Option<Postgres>,
    up: Up,
    workers: Vec<Process>,
}

impl Storm {
    /// A leader with a worker of its own, and workers beside it.
    async fn brews(server: &SimulatedServer) -> Self {
        ostler::net::install_crypto();
        let (postgres, url) = tokio::task::spawn_blocking(|| {
            let postgres = Postgres::start();
            let url = postgres.database();
            (postgres, url)
        })
        .await
        .expect("PostgreSQL");
        let bench = Bench::at(&url).await;
        let up = Up::prepare(&[("all.yaml", &manifests(server.url()))]);
        let mut storm = Self { bench, postgres: Some(postgres), up, workers: Vec::new() };
        storm.lead();
        storm.workers = (0..WORKERS).map(|_| storm.worker()).collect();
        storm
    }

    fn lead(&mut self) {
        self.up.spawn(&[("OSTLER_DATABASE_URL", &self.bench.url)]);
    }

    fn worker(&self) -> Process {
        worker_process(&self.bench)
    }

    async fn strikes(&mut self, round: usize) {
        match round % 8 {
            0 | 4 => self.cut_connections().await,
            2 => self.restart_database().await,
            // Nothing is taken back before another one leads, and has waited for a lease.
            6 => {
                self.up.kill();
                self.lead();
            }
            _ => {
                let mut victim = self.workers.remove(0);
                victim.signal(Signal::SIGKILL);
                victim.ended().await;
                self.workers.push(self.worker());
            }
        }
    }

    async fn cut_connections(&self) {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND datname = current_database() ORDER BY random() LIMIT 6) AS some";
        if let Ok(mut connection) = PgConnection::connect(&self.bench.url).await {
            // It may hit the statement itself.
            let _ = sqlx::query(cut).execute(&mut connection).await;
        }
    }

    async fn restart_database(&mut self) {
        let taken = self.postgres.take().expect("it runs");
        let restarted = tokio::task::spawn_blocking(move || {
            taken.kill();
            taken.resume();
            taken
        });
        self.postgres = Some(restarted.await.expect("restarted"));
    }

    /// Completed, or with a human; 0 while the database is away.
    async fn ended(&self) -> usize {
        let counts = self.bench.store.queue_counts().await.unwrap_or_default();
        let ended: i64 = counts.iter().map(|of| of.completed + of.failed + of.deferred_to_human).sum();
        usize::try_from(ended).unwrap_or(0)
    }

    /// As whoever runs them does: what ended for want of a database is begun again.
    fn supervise(&mut self) {
        if !self.up.is_running() {
            self.lead();
        }
        for n in 0..self.workers.len() {
            if !self.workers[n].is_running() {
                self.workers[n] = self.worker();
            }
        }
    }

    /// Workers drain; the leader goes on, and takes back what is still lost.
    async fn passes(&mut self) {
        for mut worker in std::mem::take(&mut self.workers) {
            worker.signal(Signal::SIGTERM);
            assert_eq!(worker.ended().await, Some(0));
        }
    }

    async fn number(&self, statement: &'static str) -> i64 {
        self.bench.numbers(statement).await[0]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_five_thousand_tasks_survive_whatever_is_killed() {
    let options = SimulateOptions { tokens_per_second: 400.0, ..SimulateOptions::new(EngineKind::OpenAi) };
    let server = SimulatedServer::start(options).await.expect("start");
    let mut storm = Storm::brews(&server).await;
    let tasks: Vec<NewTask> = (0..TASKS).map(task).collect();
    let mut ids = BTreeSet::new();
    for some in tasks.chunks(1_000) {
        ids.extend(storm.bench.store.insert_tasks(some).await.expect("insert").iter().map(|one| one.id));
    }
    eventually("the first calls", || async { server.log().inferences().count() > 1 }).await;
    let (begun, mut round) = (Instant::now(), 0);
    loop {
        let ended = storm.ended().await;
        if ended >= TASKS {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{ended} of {TASKS} ended: {}", storm.up.log());
        tokio::time::sleep(CALM).await;
        storm.supervise();
        // The last ones have time to come back from whoever was killed with them.
        if round < BLOWS && ended < TASKS - TASKS / 20 {
            storm.strikes(round).await;
            round += 1;
        }
    }
    assert!(round >= 8, "everything was killed, in {round} rounds");
    println!("{TASKS} tasks in {:?}, through {round} blows", begun.elapsed());
    // Given in once more, by somebody who got no answer.
    let again = storm.bench.store.insert_tasks(&tasks[..100]).await.expect("insert");
    assert!(again.iter().all(|one| one.existed && ids.contains(&one.id)), "{again:?}");
    storm.passes().await;
    holds(&storm, &ids, &server).await;
}

/// Every line of what must hold, whatever crashes.
async fn holds(storm: &Storm, ids: &BTreeSet<TaskId>, server: &SimulatedServer) {
    let peak = server.log().in_flight_peak;
    assert!(peak <= LIMIT, "{peak} calls at once, above the limit of {LIMIT}");
    let live = storm.number("SELECT count(*) FROM tasks").await;
    let ended = storm.number("SELECT count(*) FROM finished_tasks").await;
    assert_eq!(live + ended, i64::try_from(TASKS).expect("few"), "inserted = terminal + live + purged (none)");
    let both = "SELECT count(*) FROM tasks JOIN finished_tasks USING (id)";
    assert_eq!(storm.number(both).await, 0, "no task is live and has ended");
    let twice = "SELECT count(*) - count(DISTINCT id) FROM finished_tasks";
    assert_eq!(storm.number(twice).await, 0, "one terminal transition per cycle");
    let claimed = "SELECT count(*) FROM tasks WHERE state = 'in_progress'";
    assert_eq!(storm.number(claimed).await, 0, "nobody has a task any more");
    assert_eq!(
        storm.number("SELECT coalesce(sum(running), 0)::bigint FROM expert_places").await,
        0,
        "every place is free"
    );
    eventually("the dead workers' slots and leases to be free", || async {
        let occupied = storm.bench.store.servers().await.expect("read");
        let lapsed = "SELECT count(*) FROM leases WHERE expires_at < clock_timestamp() - interval '10 seconds'";
        occupied.iter().all(|server| server.occupied == 0) && storm.number(lapsed).await == 0
    })
    .await;
    let at_the_engine = executions(&[server]);
    let tasks = all(storm).await;
    assert_eq!(tasks.iter().map(|task| task.id).collect::<BTreeSet<_>>(), *ids);
    for task in &tasks {
        counts(task, &at_the_engine);
    }
    let (executions, lost) = (at_the_engine.values().map(|of| of.0).sum::<usize>(), lost(&tasks));
    println!("{executions} executions, {lost} lost leases, {peak} at once");
    assert!(lost > 0, "nobody was killed with a task");
}

fn lost(tasks: &[Task]) -> i32 {
    tasks.iter().map(|task| task.leases_lost).sum()
}

/// Executions, as the engine has them, are counted in the database; what was done was done once as far as anybody can see.
fn counts(task: &Task, at_the_engine: &BTreeMap<String, (usize, usize)>) {
    let prompt = task.payload.prompt.clone().unwrap_or_default();
    let (sent, finished) = at_the_engine.get(&prompt).copied().unwrap_or_default();
    let counted = task.attempts_used + task.free_requeues + task.leases_lost;
    assert!(i32::try_from(sent).expect("few") <= counted, "{sent} executions: {task:?}");
    assert_eq!(task.cycle, 1, "{task:?}");
    let done = task.attempts.iter().filter(|attempt| attempt.class == AttemptClass::Ok).count();
    match task.state {
        TaskState::Completed => assert!(done == 1 && finished >= 1, "{finished} finished: {task:?}"),
        TaskState::DeferredToHuman => assert!(done == 0 && task.leases_lost >= 3, "{task:?}"),
        _ => panic!("{task:?}"),
    }
}

async fn all(storm: &Storm) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        let page = TaskPage { limit: 1_000, before: tasks.last().map(|task| task.id), ..TaskPage::default() };
        let some = storm.bench.store.tasks(&TaskFilter::default(), &page).await.expect("read");
        if some.is_empty() {
            return tasks;
        }
        tasks.extend(some);
    }
}

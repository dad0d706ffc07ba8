//! A leader without controllers: it declares, assigns and reaps, as tests say.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ostler::{
    calls::CallSecrets,
    net::HttpClient,
    simulate::{SimulateOptions, SimulatedServer},
    store::{Admission, BackendRow, DeclaredRow, Fence, Home, ServerRow, Store, TaskCommand, TaskFilter, TaskPage},
    tasks::{Assignment, NewTask, Payload, Task, TaskId, TaskState},
    telemetry::{Loops, Metrics},
    worker::{Timings, Worker, WorkerParts},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, eventually};
use crate::store::bench::Bench;

pub const NS: &str = "default";

/// A database with a leader, a queue and a pool.
pub struct Shop {
    pub bench: Bench,
    pub fence: Fence,
    leading: JoinHandle<()>,
}

impl Shop {
    pub async fn sqlite() -> Self {
        Self::on(Bench::sqlite().await).await
    }

    pub async fn on(bench: Bench) -> Self {
        ostler::net::install_crypto();
        let fence = bench.lead("leader").await;
        let leading = tokio::spawn(lead(Arc::clone(&bench.store), fence.clone()));
        let shop = Self { bench, fence, leading };
        shop.queue(json!({"leaseSeconds": 90, "retry": {"backoffSeconds": 1}})).await;
        shop.pool(json!({"queueRefs": [{"name": "default"}]})).await;
        shop
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.bench.store
    }

    pub async fn declare(&self, kind: &str, name: &str, spec: Value) {
        let row = DeclaredRow {
            uid: format!("{kind}-{name}"),
            kind: kind.to_owned(),
            namespace: NS.to_owned(),
            name: name.to_owned(),
            generation: 1,
            labels: BTreeMap::new(),
            spec,
            suspended: false,
            held: None,
        };
        self.store().project_declared(&self.fence, &row).await.expect("project");
    }

    pub async fn queue(&self, spec: Value) {
        self.declare("TaskQueue", "default", spec).await;
    }

    pub async fn pool(&self, spec: Value) {
        self.declare("WorkerPool", "smart", spec).await;
    }

    /// A chatting expert for an alias. A call takes 20 seconds at most, so that a dead worker's slots are free after that.
    pub async fn expert(&self, name: &str, alias: &str) {
        self.expert_with(name, json!({"model": alias})).await;
    }

    pub async fn expert_with(&self, name: &str, mut spec: Value) {
        let usual = json!({"handler": "Chat", "maxConcurrentTasks": 50});
        for (key, value) in usual.as_object().expect("fields") {
            spec.as_object_mut().expect("fields").entry(key.clone()).or_insert(value.clone());
        }
        if spec.get("parameters").is_none() {
            spec["parameters"] = json!({"maxTokens": 8, "timeoutSeconds": 20});
        }
        self.declare("Expert", name, spec).await;
    }

    /// A simulated engine, declared as a backend that serves the alias `small`.
    pub async fn simulated(&self, name: &str, options: SimulateOptions, limit: i32, priority: i32) -> SimulatedServer {
        let server = SimulatedServer::start(options.clone()).await.expect("start");
        let models: Vec<Value> =
            options.models.iter().map(|model| json!({"name": model, "alias": "small"})).take(1).collect();
        self.backend(name, options.engine.as_str(), server.url(), &models, limit, priority).await;
        server
    }

    pub async fn backend(&self, name: &str, engine: &str, url: &str, models: &[Value], limit: i32, priority: i32) {
        let spec = json!({"engine": engine, "url": url, "models": models, "priority": priority});
        let row = BackendRow {
            uid: format!("uid-{name}"),
            namespace: NS.to_owned(),
            name: name.to_owned(),
            generation: 1,
            engine: engine.to_owned(),
            url: url.to_owned(),
            server_url: url.to_owned(),
            priority,
            spec,
            state: "Serving".to_owned(),
            reason: "Serving".to_owned(),
            ready: true,
            ready_since: None,
        };
        self.store().project_backend(&self.fence, &row).await.expect("project");
        self.admit(url, limit, Admission::Open).await;
    }

    /// The one backend's `stallSeconds`.
    pub async fn stall_after(&self, seconds: i32) {
        let mut backend = self.store().backends().await.expect("read").remove(0);
        backend.spec["stallSeconds"] = seconds.into();
        backend.generation += 1;
        self.store().project_backend(&self.fence, &backend).await.expect("project");
    }

    pub async fn admit(&self, url: &str, limit: i32, admission: Admission) {
        let server = ServerRow { url: url.to_owned(), limit, admission, instance: None, calls_per_day: None };
        self.store().put_server(&self.fence, &server).await.expect("put the server");
    }

    /// Inserts and assigns: `hello N` for the Nth task, to the experts in turn.
    pub async fn give(&self, count: usize, experts: &[&str], model: Option<&str>) -> Vec<TaskId> {
        let task = |n: usize| new_task(Payload { prompt: Some(format!("hello {n}")), ..Payload::default() });
        self.give_these(&(0..count).map(task).collect::<Vec<_>>(), experts, model).await
    }

    pub async fn give_these(&self, tasks: &[NewTask], experts: &[&str], model: Option<&str>) -> Vec<TaskId> {
        let inserted = self.store().insert_tasks(tasks).await.expect("insert");
        let ids: Vec<TaskId> = inserted.iter().map(|one| one.id).collect();
        let assign = |(id, expert): (&TaskId, &&str)| Assignment {
            task: *id,
            expert: (*expert).to_owned(),
            model: model.map(str::to_owned),
            reason: "domain",
            candidates: [(*expert).to_owned()].into(),
        };
        let assignments: Vec<_> = ids.iter().zip(experts.iter().cycle()).map(assign).collect();
        for some in assignments.chunks(500) {
            self.store().assign(&self.fence, some).await.expect("assign");
        }
        ids
    }

    pub async fn task(&self, id: TaskId) -> Task {
        self.store().task(id).await.expect("read").expect("it is there")
    }

    pub async fn tasks(&self, ids: &[TaskId]) -> Vec<Task> {
        let mut all = Vec::new();
        for some in ids.chunks(500) {
            let filter = TaskFilter { ids: some.to_vec(), ..TaskFilter::default() };
            let page = TaskPage { limit: 1_000, ..TaskPage::default() };
            all.extend(self.store().tasks(&filter, &page).await.expect("read"));
        }
        all
    }

    pub async fn in_state(&self, state: TaskState) -> usize {
        let counts = self.store().queue_counts().await.expect("count");
        let of = |counts: &ostler::store::QueueCounts| match state {
            TaskState::Pending => counts.pending,
            TaskState::InProgress => counts.in_progress,
            TaskState::Completed => counts.completed,
            TaskState::Failed | TaskState::Cancelled => counts.failed,
            TaskState::DeferredToHuman => counts.deferred_to_human,
        };
        usize::try_from(counts.iter().map(of).sum::<i64>()).expect("a count")
    }

    pub async fn until_completed(&self, ids: &[TaskId]) {
        let begun = Instant::now();
        let mut last = usize::MAX;
        while self.in_state(TaskState::Completed).await < ids.len() {
            if begun.elapsed() > PATIENCE {
                last = self.in_state(TaskState::Completed).await;
            }
            assert!(last == usize::MAX, "{last} of {} completed: {:#?}", ids.len(), self.unfinished(ids).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn unfinished(&self, ids: &[TaskId]) -> Vec<(TaskId, TaskState, Option<String>)> {
        let tasks = self.tasks(ids).await;
        let open = tasks.into_iter().filter(|task| task.state != TaskState::Completed);
        open.take(5).map(|task| (task.id, task.state, task.reason)).collect()
    }

    pub async fn cancel(&self, id: TaskId) {
        let filter = TaskFilter { ids: vec![id], ..TaskFilter::default() };
        let changed = self.store().command_tasks(&filter, &TaskCommand::Cancel, "not needed any more", 1).await;
        assert_eq!(changed, Ok(vec![id]));
    }

    pub async fn occupied(&self, url: &str) -> usize {
        self.store().slots(url).await.expect("slots").len()
    }

    /// A worker in this process, on a store of its own.
    pub async fn worker(&self) -> Working {
        self.worker_with(Timings::default(), Arc::new(Given::default())).await
    }

    pub async fn worker_with(&self, timings: Timings, secrets: Arc<dyn CallSecrets>) -> Working {
        let spool = std::env::temp_dir().join(format!("ostler-worker-{}", uuid::Uuid::new_v4()));
        let (metrics, stop) = (Metrics::new(), CancellationToken::new());
        let worker = Worker::new(WorkerParts {
            store: self.bench.peer().await,
            secrets,
            http: HttpClient::direct().expect("a client"),
            metrics: metrics.worker.clone(),
            loops: Loops::new(),
            holder: format!("worker-{}", uuid::Uuid::new_v4()),
            host: "here".to_owned(),
            namespace: NS.to_owned(),
            pool: "smart".to_owned(),
            spool: spool.clone(),
            timings,
        });
        let running = tokio::spawn(worker.expect("a spool").run(stop.clone()));
        Working { stop, running, spool, metrics }
    }

    /// `ostler worker` as a process of its own.
    pub fn process(&self) -> Process {
        worker_process(&self.bench)
    }
}

/// `ostler worker` as a process of its own.
pub fn worker_process(bench: &Bench) -> Process {
    worker_process_with(bench, std::env::temp_dir().join(format!("ostler-worker-{}", uuid::Uuid::new_v4())))
}

/// The same, with a spool folder that another one may have left.
pub fn worker_process_with(bench: &Bench, spool: PathBuf) -> Process {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ostler"));
    command.args(["worker", "--pool", "smart"]);
    match &bench.home {
        Home::Folder { path, .. } => command.arg("--data-dir").arg(path),
        Home::Postgres(_) => command.env("OSTLER_DATABASE_URL", &bench.url),
    };
    let child = command
        .arg("--spool")
        .arg(&spool)
        .env("OSTLER_LOG", "ostler=debug")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("run ostler");
    Process { child, spool }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.leading.abort();
    }
}

/// Renews the lead and reaps. That a pause is no death is the controllers' to know.
async fn lead(store: Arc<dyn Store>, fence: Fence) {
    loop {
        let _ = store.renew(&fence, Duration::from_secs(15)).await;
        let _ = store.reap(&fence).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

pub fn new_task(payload: Payload) -> NewTask {
    NewTask {
        namespace: NS.to_owned(),
        queue: "default".to_owned(),
        domain: "backend".to_owned(),
        role: "engineer".to_owned(),
        payload,
        ..NewTask::default()
    }
}

/// Secrets by name, for tests.
#[derive(Default)]
pub struct Given(pub BTreeMap<String, BTreeMap<String, Vec<u8>>>);

#[async_trait]
impl CallSecrets for Given {
    async fn data(&self, _namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
        self.0.get(name).cloned().ok_or_else(|| format!("Secret {name} is not there"))
    }
}

/// A worker in this process.
pub struct Working {
    stop: CancellationToken,
    running: JoinHandle<()>,
    pub spool: PathBuf,
    pub metrics: Metrics,
}

impl Working {
    /// As SIGTERM does.
    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.expect("it ends").expect("no panic");
        let _ = std::fs::remove_dir_all(&self.spool);
    }

    pub fn spooled(&self) -> usize {
        spooled(&self.spool)
    }
}

/// Results that wait in a spool folder.
pub fn spooled(folder: &std::path::Path) -> usize {
    let files = std::fs::read_dir(folder).expect("the spool");
    files.filter(|file| file.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "json"))).count()
}

/// A worker process.
pub struct Process {
    child: tokio::process::Child,
    pub spool: PathBuf,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ask").is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it runs")).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("signal");
    }

    /// Its exit code; `None`: a signal ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("wait").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.spool);
    }
}

/// How often each prompt was sent, and how often to its end.
pub fn executions(servers: &[&SimulatedServer]) -> BTreeMap<String, (usize, usize)> {
    let mut counted: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for server in servers {
        for call in server.log().inferences() {
            let entry = counted.entry(call.prompt.clone().unwrap_or_default()).or_default();
            entry.0 += 1;
            entry.1 += usize::from(call.end == ostler::simulate::CallEnd::Finished);
        }
    }
    counted
}

pub async fn until_in_flight(server: &SimulatedServer, calls: usize) {
    eventually(&format!("{calls} calls in flight"), || async { server.log().in_flight >= calls }).await;
}

//! Worker processes that are killed in the middle of anything: what must hold, counted afterwards in the database and at the
//! engine.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ostler::store::sqlite::FolderAccess;
use ostler::store::{self, Claimed, FreeClaim, Home, Slot, SlotClaim, Store, TaskFilter, Topics};
use ostler::tasks::{AttemptClass, TaskId, TaskState, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bench::{Bench, URL};
use super::tasks_bench::*;

const DATABASE: &str = "OSTLER_TEST_KILLED_WORKER_DATABASE";
const ENGINE: &str = "OSTLER_TEST_KILLED_WORKER_ENGINE";
const LEASE: Duration = Duration::from_secs(3);
const LIMIT: usize = 2;
const TASKS: usize = 400;
const WORKERS: usize = 3;

/// Not a test of its own: the process that is killed. It claims and executes, with and without slots, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the tests below, in processes of their own"]
async fn works_until_it_is_killed() {
    let (Ok(database), Ok(engine)) = (std::env::var(DATABASE), std::env::var(ENGINE)) else { return };
    let home = if database.starts_with("postgres") {
        Home::Postgres(database.parse().expect("a URL"))
    } else {
        Home::Folder { path: database.into(), hold: FolderAccess::Share }
    };
    let store = store::open(&home, None).await.expect("open");
    let holder = format!("worker-{}", std::process::id());
    loop {
        work(&store, &holder, &engine).await;
    }
}

/// Until its lease is lost.
async fn work(store: &Arc<dyn Store>, holder: &str, engine: &str) {
    let key = queue_key();
    let lease = patiently(|| store.open_lease(holder, &key, LEASE)).await;
    let renewal = [(lease.clone(), LEASE)];
    let mut changes = store.follow(Topics::TASKS);
    while patiently(|| store.renew_leases(&renewal)).await.is_empty() {
        let claim = SlotClaim { slot_lease: MINUTE, call_within: MINUTE, ..slot_claim(&lease, 2) };
        let slotted = patiently(|| store.claim_slots(&claim)).await.given;
        let free = FreeClaim { queues: served(&lease), most: 2 };
        let free = patiently(|| store.claim_free(&free)).await;
        if slotted.is_empty() && free.is_empty() {
            changes.changed(Duration::from_millis(200)).await;
        }
        let slotted = slotted.into_iter().map(|(slot, claimed)| (Some(slot), claimed));
        let calls = slotted.chain(free.into_iter().map(|claimed| (None, claimed)));
        futures::future::join_all(calls.map(|(slot, claimed)| call(store, engine, slot, claimed))).await;
    }
}

async fn call(store: &Arc<dyn Store>, engine: &str, slot: Option<Slot>, claimed: Claimed) {
    let mut stream = TcpStream::connect(engine).await.expect("the engine listens");
    let kind = if slot.is_some() { "slot" } else { "free" };
    let line = format!("{kind} {} {}\n", claimed.task.id, claimed.task.epoch);
    stream.write_all(line.as_bytes()).await.expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the engine answers");
    drop(stream);
    let reason = || "the engine said so".to_owned();
    let verdict = match (claimed.task.id + claimed.task.epoch) % 7 {
        0 => Verdict::Retry { after: Duration::ZERO, reason: reason() },
        1 => Verdict::Requeue { after: Duration::from_millis(20), reason: reason() },
        _ => done(),
    };
    let ends = [end(&claimed, verdict)];
    patiently(|| store.complete(&ends)).await;
    if let Some(slot) = slot {
        patiently(|| store.release_slot(&slot, Duration::ZERO)).await;
    }
}

/// Counts calls: how many at once that took a slot, and which executions there were.
#[derive(Default)]
struct Engine {
    running: AtomicUsize,
    most: AtomicUsize,
    executions: Mutex<Vec<(TaskId, i64)>>,
}

impl Engine {
    async fn listen(self: Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.clone().serve(stream));
            }
        });
        address
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            match stream.read_u8().await {
                Ok(byte) => line.push(byte),
                // Killed before it had said what it wants.
                Err(_) => return,
            }
        }
        let line = String::from_utf8(line).expect("text");
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse().expect("a number");
        self.executions.lock().expect("no panic").push((number(1), number(2)));
        let slotted = words[0] == "slot";
        if slotted {
            self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
        // A call ends with its answer, or when its client has gone.
        let gone = async { while stream.read_u8().await.is_ok() {} };
        let _ = tokio::time::timeout(Duration::from_millis(15), gone).await;
        if slotted {
            self.running.fetch_sub(1, Ordering::SeqCst);
        }
        let _ = stream.write_all(b"ok").await;
    }
}

struct Workers {
    database: String,
    engine: String,
    living: Vec<Child>,
    dead: BTreeSet<String>,
}

impl Workers {
    fn start_missing(&mut self) {
        while self.living.len() < WORKERS {
            let child = Command::new(std::env::current_exe().expect("this binary"))
                .args(["--exact", "store::killed::works_until_it_is_killed", "--ignored"])
                .env(DATABASE, &self.database)
                .env(ENGINE, &self.engine)
                .stdout(Stdio::null())
                .spawn()
                .expect("run this binary again");
            self.living.push(child);
        }
    }

    fn kill_one(&mut self) {
        let mut child = self.living.remove(0);
        child.kill().expect("kill");
        child.wait().expect("it has ended");
        self.dead.insert(format!("worker-{}", child.id()));
    }

    /// What an agent's word that a caller is gone would do: its slots need not wait for the end of their calls.
    async fn free_slots_of_the_dead(&self, bench: &Bench) {
        for row in bench.store.slots(URL).await.expect("slots") {
            if self.dead.contains(&row.holder) {
                let (number, epoch, holder) = (row.number, row.epoch, row.holder);
                let slot = Slot { server_url: URL.to_owned(), number, holder, epoch };
                bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        while !self.living.is_empty() {
            self.kill_one();
        }
    }
}

pub async fn what_must_hold_holds_when_workers_are_killed(bench: &Bench) {
    let fence = shop(bench, i32::try_from(LIMIT).expect("few")).await;
    let ids = give_many(bench, &fence, "igor", TASKS / 2).await;
    give_many(bench, &fence, "hook", TASKS - ids.len()).await;
    let engine = Arc::new(Engine::default());
    let address = engine.clone().listen().await;
    let database = match &bench.home {
        Home::Folder { path, .. } => path.to_str().expect("UTF-8").to_owned(),
        Home::Postgres(_) => bench.url.clone(),
    };
    let mut workers = Workers { database, engine: address, living: Vec::new(), dead: BTreeSet::new() };
    let deadline = Instant::now() + Duration::from_secs(180);
    let mut pass = 0_u64;
    loop {
        workers.start_missing();
        bench.store.reap(&fence).await.expect("reap");
        workers.free_slots_of_the_dead(bench).await;
        let open = TaskFilter { states: vec![TaskState::Pending, TaskState::InProgress], ..TaskFilter::default() };
        let left = bench.store.tasks(&open, &all_on_a_page()).await.expect("read").len();
        if left == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{left} tasks are left");
        pass += 1;
        if pass.is_multiple_of(6) && workers.dead.len() < 12 {
            workers.kill_one();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(workers.dead.len() >= 3, "few were killed: {:?}", workers.dead);
    drop(workers);
    count(bench, &engine).await;
}

async fn count(bench: &Bench, engine: &Engine) {
    let tasks = bench.store.tasks(&TaskFilter::default(), &all_on_a_page()).await.expect("read");
    assert_eq!(tasks.len(), TASKS, "inserted = terminal + live + purged");
    assert!(engine.most.load(Ordering::SeqCst) <= LIMIT, "calls at the engine: {:?}", engine.most);
    let executions = engine.executions.lock().expect("no panic").clone();
    assert_eq!(executions.iter().collect::<BTreeSet<_>>().len(), executions.len(), "a claim was executed twice");
    let mut by_task: BTreeMap<TaskId, i32> = BTreeMap::new();
    for (id, _) in executions.iter() {
        *by_task.entry(*id).or_default() += 1;
    }
    for task in &tasks {
        let counted = task.attempts_used + task.free_requeues + task.leases_lost;
        let executed = by_task.get(&task.id).copied().unwrap_or_default();
        assert!(executed <= counted, "task {} was executed {executed} times, {counted} are counted", task.id);
        assert_eq!(task.epoch, i64::from(counted + task.leases_lost), "a claim for each, and each lost lease");
        let lost = task.attempts.iter().filter(|attempt| attempt.class == AttemptClass::LeaseLost).count();
        assert_eq!(lost, usize::try_from(task.leases_lost).expect("few"));
        let ended = task.attempts.iter().filter(|attempt| attempt.class == AttemptClass::Ok).count();
        match task.state {
            TaskState::Completed => assert_eq!(ended, 1, "one end for task {}", task.id),
            TaskState::DeferredToHuman => assert_eq!((ended, task.leases_lost), (0, 3)),
            other => panic!("task {} is {other:?}", task.id),
        }
    }
    assert!(tasks.iter().filter(|task| task.state == TaskState::Completed).count() > TASKS / 2);
    let loads = bench.store.expert_loads().await.expect("read");
    assert!(loads.is_empty(), "{loads:?}");
}

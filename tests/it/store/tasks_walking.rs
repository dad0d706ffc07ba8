//! Random walks over all that can be asked of a store, from seeds that a failure names.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ostler::store::{DeclaredRow, Fence, Lease, Retention, TaskCommand, TaskFilter};
use ostler::tasks::machine::{Life, TaskEvent, step};
use ostler::tasks::{NewTask, Task, TaskId, TaskState};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::bench::{Bench, URL, server};
use super::tasks_bench::*;
use super::tasks_model::Model;

const STEPS: usize = 80;
pub const CHATS: [&str; 2] = ["igor", "olga"];
pub const HOOKS: [&str; 1] = ["hook"];
pub const HOUR: Duration = Duration::from_secs(3_600);

/// Seeds as `FROM-TO` in `OSTLER_MODEL_SEEDS`, else a few.
fn seeds(bench: &Bench) -> std::ops::RangeInclusive<u64> {
    let asked = std::env::var("OSTLER_MODEL_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once('-')?;
        Some(from.parse().ok()?..=to.parse().ok()?)
    });
    asked.unwrap_or(1..=if bench.url.is_empty() { 24 } else { 8 })
}

struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with OSTLER_MODEL_SEEDS={0}-{0}", self.0);
        }
    }
}

pub async fn every_walk_ends_where_the_machine_says(bench: &Bench) {
    for seed in seeds(bench) {
        let told = Told(seed);
        let mut walk = Walk::begin(bench, seed).await;
        for number in 0..STEPS {
            let what = walk.step().await;
            walk.check(&format!("seed {seed}, step {number}: {what}")).await;
        }
        walk.end().await;
        drop(told);
    }
}

pub struct Walk<'a> {
    pub bench: &'a Bench,
    fence: Fence,
    pub random: StdRng,
    pub model: Model,
    /// Walks follow each other in one database.
    seed: u64,
}

impl<'a> Walk<'a> {
    async fn begin(bench: &'a Bench, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let fence = shop(bench, 3).await;
        let model = Model { queue_is_open: true, limit: 3, ..Model::default() };
        let mut walk = Self { bench, fence, random, model, seed };
        for expert in CHATS.into_iter().chain(HOOKS) {
            walk.declare(expert, 3).await;
        }
        walk.open_lease().await;
        walk
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    fn some_tasks(&mut self) -> Vec<TaskId> {
        let count = self.random.random_range(1..5);
        let mut ids: Vec<_> = self.model.tasks.keys().copied().choose_multiple(&mut self.random, count);
        ids.extend(self.chance(10).then_some(i64::MAX - 1));
        ids
    }

    fn some_lease(&mut self) -> Option<Lease> {
        self.model.leases.values().map(|(lease, _)| lease.clone()).choose(&mut self.random)
    }

    /// Of a worker process: a webhook's claims nothing.
    pub fn workers_lease(&mut self) -> Option<Lease> {
        let workers =
            self.model.leases.values().map(|(lease, _)| lease).filter(|lease| lease.holder.starts_with("worker"));
        workers.cloned().choose(&mut self.random)
    }

    async fn step(&mut self) -> String {
        match self.random.random_range(0..100) {
            0..12 => self.insert().await,
            12..24 => self.assign().await,
            24..34 => self.claim_free().await,
            34..46 => self.claim_slots().await,
            46..50 => self.claim_next().await,
            50..64 => self.complete().await,
            64..68 => self.open_lease().await,
            68..72 => self.renew().await,
            72..76 => self.reap().await,
            76..78 => self.close().await,
            78..80 => self.hand_over().await,
            80..90 => self.command().await,
            90..93 => self.change_expert().await,
            93..95 => self.change_queue().await,
            95..97 => self.change_limit().await,
            97..99 => self.release().await,
            _ => self.retain().await,
        }
    }

    async fn check(&self, what: &str) {
        let tasks = self.all().await;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.model.is(&tasks)));
        assert!(result.is_ok(), "after {what}");
        let lost = self.bench.store.lost_claims(&self.model.claims).await.expect("ask");
        let is_lost = |(id, epoch): &&(TaskId, i64)| {
            !self
                .model
                .tasks
                .get(id)
                .is_some_and(|known| known.life.state == TaskState::InProgress && known.life.epoch == *epoch)
        };
        let wanted: BTreeSet<_> = self.model.claims.iter().filter(is_lost).map(|(id, _)| *id).collect();
        assert_eq!(lost.into_iter().collect::<BTreeSet<_>>(), wanted, "lost claims after {what}");
        let slots = self.bench.store.slots(URL).await.expect("slots");
        let found: BTreeSet<_> = slots.iter().map(|slot| (slot.number, slot.epoch)).collect();
        let wanted: BTreeSet<_> = self.model.slots.iter().map(|slot| (slot.number, slot.epoch)).collect();
        assert_eq!(found, wanted, "slots after {what}");
    }

    pub async fn all(&self) -> Vec<Task> {
        self.bench.store.tasks(&TaskFilter::default(), &all_on_a_page()).await.expect("read")
    }

    async fn insert(&mut self) -> String {
        let now = Timestamp::now();
        let (past, future) = (now - SignedDuration::from_hours(1), now + SignedDuration::from_hours(1));
        let mut batch = Vec::new();
        for _ in 0..self.random.random_range(1..6) {
            let number = self.random.random_range(0..6);
            batch.push(NewTask {
                priority: self.random.random_range(-2..3),
                run_after: self.chance(20).then(|| if self.chance(50) { past } else { future }),
                deadline: self.chance(20).then(|| if self.chance(50) { past } else { future }),
                key: self.chance(30).then(|| format!("key {number}")),
                expert: self.chance(20).then(|| (*CHATS.choose(&mut self.random).expect("some")).to_owned()),
                ..new_task()
            });
        }
        let inserted = self.bench.store.insert_tasks(&batch).await.expect("insert");
        for (task, one) in batch.into_iter().zip(&inserted) {
            let there = task.key.as_deref().and_then(|key| self.model.with_key(key));
            assert_eq!(one.existed.then_some(one.id), there, "{task:?}");
            if there.is_none() {
                self.model.insert(one.id, Life::new(task.run_after, task.deadline), task.expert, task.key);
            }
        }
        format!("insert {inserted:?}")
    }

    async fn assign(&mut self) -> String {
        let mut batch = Vec::new();
        for id in self.model.tasks.keys().copied().collect::<Vec<_>>() {
            let living: Vec<_> = self.model.places.keys().cloned().collect();
            if let (Some(expert), true) = (living.choose(&mut self.random), self.chance(60)) {
                let model = CHATS.contains(&expert.as_str()).then(|| model_of(expert));
                batch.push(assignment(id, expert, model));
            }
        }
        let mut wanted = 0;
        for assignment in &batch {
            let known = self.model.tasks.get_mut(&assignment.task).expect("known");
            let free = known.expert.as_ref().is_none_or(|wish| *wish == assignment.expert);
            if free && !known.life.assigned && known.life.state == TaskState::Pending {
                known.expert = Some(assignment.expert.clone());
                assert!(self.model.happens(assignment.task, TaskEvent::Assign));
                wanted += 1;
            }
        }
        assert_eq!(self.bench.store.assign(&self.fence, &batch).await, Ok(wanted), "{batch:?}");
        format!("assign {wanted}")
    }

    async fn open_lease(&mut self) -> String {
        let holder = format!("worker {} of walk {}", self.random.random_range(0..4), self.seed);
        let lease = lease_for(&self.bench.store, &holder, HOUR).await;
        self.model.leases.insert(lease.id, (lease.clone(), false));
        format!("open {lease:?}")
    }

    async fn renew(&mut self) -> String {
        let Some(lease) = self.some_lease() else { return "nothing".to_owned() };
        let lapses = self.chance(60);
        let time = if lapses { Duration::ZERO } else { HOUR };
        let lost = Lease { id: lease.id + 1_000_000, ..lease.clone() };
        let answer = self.bench.store.renew_leases(&[(lease.clone(), time), (lost.clone(), HOUR)]).await;
        assert_eq!(answer, Ok(vec![lost]));
        self.model.leases.insert(lease.id, (lease.clone(), lapses));
        format!("renew {lease:?} for {time:?}")
    }

    async fn reap(&mut self) -> String {
        let reaped = self.bench.store.reap(&self.fence).await.expect("reap");
        let lapsed: BTreeSet<_> =
            self.model.leases.iter().filter(|(_, (_, lapsed))| *lapsed).map(|(id, _)| *id).collect();
        let (mut requeued, mut deferred, mut expired) = (0, 0, 0);
        for id in self.model.tasks.keys().copied().collect::<Vec<_>>() {
            if self.model.tasks[&id].lease.is_some_and(|lease| lapsed.contains(&lease)) {
                assert!(self.model.happens(id, TaskEvent::LeaseLost));
                match self.model.tasks[&id].life.state {
                    TaskState::DeferredToHuman => deferred += 1,
                    _ => requeued += 1,
                }
            }
            expired += u64::from(self.model.happens(id, TaskEvent::DeadlinePassed));
        }
        self.model.leases.retain(|id, _| !lapsed.contains(id));
        assert_eq!((reaped.requeued, reaped.deferred, reaped.expired), (requeued, deferred, expired));
        assert_eq!(reaped.leases, lapsed.len() as u64);
        format!("{reaped:?}")
    }

    async fn close(&mut self) -> String {
        let Some(lease) = self.some_lease() else { return "nothing".to_owned() };
        self.bench.store.close_lease(&lease).await.expect("close");
        for id in self.model.tasks.keys().copied().collect::<Vec<_>>() {
            if self.model.tasks[&id].lease == Some(lease.id) {
                assert!(self.model.happens(id, TaskEvent::LeaseClosed));
            }
        }
        self.model.leases.remove(&lease.id);
        format!("close {lease:?}")
    }

    async fn command(&mut self) -> String {
        let living: Vec<_> = self.model.places.keys().cloned().collect();
        let (command, event) = match (self.random.random_range(0..6), living.choose(&mut self.random)) {
            (0, _) => (TaskCommand::Cancel, TaskEvent::Cancel),
            (1, _) => (TaskCommand::Retry, TaskEvent::Retry),
            (2, _) => (TaskCommand::Resume, TaskEvent::Resume),
            (3, Some(expert)) => {
                let model = CHATS.contains(&expert.as_str()).then(|| model_of(expert));
                (TaskCommand::Reassign { expert: expert.clone(), model }, TaskEvent::Reassign)
            }
            (4, _) => (TaskCommand::Close, TaskEvent::Close),
            _ => (TaskCommand::Purge, TaskEvent::Purge),
        };
        let ids = self.some_tasks();
        let most = self.random.random_range(1..4);
        let done = self.bench.store.command_tasks(&filter(&ids), &command, "r", most).await.expect("command");
        let may = |id: &&TaskId| {
            let known = self.model.tasks.get(id);
            known.is_some_and(|known| step(&known.life, event, Timestamp::now()).is_ok())
        };
        let applies = ids.iter().collect::<BTreeSet<_>>().into_iter().filter(may).count();
        assert_eq!(done.len(), applies.min(usize::try_from(most).expect("few")), "{command:?} on {ids:?}");
        for id in &done {
            assert!(ids.contains(id));
            if let (TaskCommand::Reassign { expert, .. }, Some(known)) = (&command, self.model.tasks.get_mut(id)) {
                known.expert = Some(expert.clone());
            }
            assert!(self.model.happens(*id, event), "{command:?} on task {id}");
        }
        format!("{command:?} on {done:?} of {ids:?}")
    }

    async fn declare(&mut self, name: &str, places: i32) {
        let row = if HOOKS.contains(&name) { webhook(name, places) } else { expert(name, &model_of(name), places) };
        self.bench.store.project_declared(&self.fence, &row).await.expect("project");
        self.model.places.insert(name.to_owned(), usize::try_from(places).expect("few"));
    }

    async fn change_expert(&mut self) -> String {
        let name = *CHATS.iter().chain(&HOOKS).choose(&mut self.random).expect("some");
        match self.random.random_range(0..4) {
            0 => {
                let gone = format!("Expert-{name}");
                let all = self.bench.store.declared("Expert").await.expect("read");
                let complete: Vec<_> = all.into_iter().map(|row| row.uid).filter(|uid| *uid != gone).collect();
                self.bench.store.sweep_declared(&self.fence, "Expert", &complete).await.expect("sweep");
                self.model.loses(name);
                format!("{name} is gone")
            }
            1 => {
                let row = if HOOKS.contains(&name) { webhook(name, 3) } else { expert(name, &model_of(name), 3) };
                let row = DeclaredRow { suspended: true, ..row };
                self.bench.store.project_declared(&self.fence, &row).await.expect("project");
                self.model.loses(name);
                format!("{name} is suspended")
            }
            _ => {
                // Fewer than run now stop nobody: the model's bound is checked at claims alone.
                let places = self.random.random_range(3..6);
                let running = i32::try_from(self.model.running(name)).expect("few");
                self.declare(name, places.max(running)).await;
                format!("{name} has {places} places")
            }
        }
    }

    async fn change_queue(&mut self) -> String {
        let open = self.chance(60);
        let row = match self.random.random_range(0..2) {
            _ if open => queue("default"),
            0 => DeclaredRow { suspended: true, ..queue("default") },
            _ => DeclaredRow { held: Some("waits".to_owned()), ..queue("default") },
        };
        self.bench.store.project_declared(&self.fence, &row).await.expect("project");
        self.model.queue_is_open = open;
        format!("the queue is open: {open}")
    }

    async fn change_limit(&mut self) -> String {
        let limit = self.random.random_range(0..5);
        self.bench.store.put_server(&self.fence, &server(limit)).await.expect("put");
        self.model.limit = usize::try_from(limit).expect("few");
        format!("limit {limit}")
    }

    async fn release(&mut self) -> String {
        if self.model.slots.is_empty() {
            return "nothing".to_owned();
        }
        let at = self.random.random_range(0..self.model.slots.len());
        let slot = self.model.slots.remove(at);
        self.bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
        format!("release {slot:?}")
    }

    async fn retain(&mut self) -> String {
        let kept = |zero: bool| if zero { Duration::ZERO } else { HOUR };
        let (completed, failed) = (self.chance(50), self.chance(50));
        let retention = Retention { queue: Some(queue_key()), completed: kept(completed), failed: kept(failed) };
        let dropped = self.bench.store.retain(&self.fence, &[retention]).await.expect("retain");
        let mut wanted = 0;
        for id in self.model.tasks.keys().copied().collect::<Vec<_>>() {
            let goes = match self.model.tasks[&id].life.state {
                TaskState::Completed => completed,
                TaskState::Failed | TaskState::Cancelled => failed,
                _ => false,
            };
            wanted += u64::from(goes && self.model.happens(id, TaskEvent::Purge));
        }
        assert_eq!(dropped, wanted);
        format!("retain {wanted}")
    }

    /// Leaves the database as a next walk wants it.
    async fn end(mut self) {
        assert_eq!(self.bench.numbers(MISCOUNTED).await, [0, 0], "kinds of tasks whose count is off");
        let all = TaskFilter::default();
        for command in [TaskCommand::Cancel, TaskCommand::Purge] {
            self.bench.store.command_tasks(&all, &command, "", 10_000).await.expect("command");
        }
        assert_eq!(self.all().await.len(), 0);
        for (lease, _) in self.model.leases.values() {
            self.bench.store.close_lease(lease).await.expect("close");
        }
        for slot in self.model.slots.drain(..) {
            self.bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
        }
        assert_eq!(self.bench.occupied().await, 0);
        self.bench.store.resign(&self.fence).await.expect("resign");
    }
}

/// How many kinds of live tasks, and how many days of ended ones, are counted otherwise than they are.
const MISCOUNTED: &str = "SELECT count(*) FROM (
        SELECT namespace, queue, state, domain, role, coalesce(expert, ''), coalesce(assigned_model, ''), assignment_reason IS NOT NULL,
            rank < 4611686018427387904, count(*) FROM tasks GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        EXCEPT SELECT namespace, queue, state, domain, role, expert, model, is_assigned, is_due, sum(count) FROM task_counts
        WHERE ended_at = 0 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9) AS missing
    UNION ALL SELECT count(*) FROM (
        SELECT namespace, queue, state, sum(count) FROM task_counts GROUP BY 1, 2, 3 HAVING sum(count) <> 0
        EXCEPT SELECT namespace, queue, state, count(*) FROM (
            SELECT namespace, queue, state FROM tasks UNION ALL SELECT namespace, queue, state FROM finished_tasks
        ) AS all_tasks GROUP BY 1, 2, 3) AS extra";

fn model_of(expert: &str) -> String {
    if expert == "olga" { "large".to_owned() } else { "small".to_owned() }
}

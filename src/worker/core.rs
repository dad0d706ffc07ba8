//! What everything in a worker shares.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::RwLock;
use rand::Rng;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    finish::Finisher,
    job::{ClaimedJob, Jobs},
    leases::Leases,
    stats::Stats,
    world::PoolView,
};
use crate::{
    calls::{CachedSecrets, CallStopped, EvidenceLog, HeldSlot, HeldSlots, Targets},
    net::HttpClient,
    store::{BootInstant, Claimed, Store},
    tasks::{
        Attempt, ClaimedTask, Finished, QueueKey,
        retry::{Ended, RetryPolicy},
    },
    telemetry::WorkerMetrics,
};

/// How long and how often; the defaults are what runs.
#[derive(Clone, Debug)]
pub struct Timings {
    pub slot_lease: Duration,
    /// How long the slot of an aborted streamed call counts on.
    pub linger: Duration,
    /// Whether claims are still ours is asked so often.
    pub heartbeat: Duration,
    pub report: Duration,
    /// The same while nothing is new.
    pub report_idle: Duration,
    /// What is declared is read again after so long, though nobody told of a change.
    pub world: Duration,
    /// The shortest time from one round of claiming that found nothing to the next.
    pub between: Duration,
    /// The longest wait between two rounds of claiming, while tasks may wait for a slot that somebody else frees.
    pub poll: Duration,
    /// The same while tasks wait for something else, such as their expert's places.
    pub waiting: Duration,
    /// The longest wait while nothing waits and nobody told of a change.
    pub idle: Duration,
    /// Leases under which nothing was claimed for so long are closed: an idle worker holds nothing that is to be renewed.
    pub rest: Duration,
    /// A slot is kept from call to call for so long.
    pub keep_slot: Duration,
    /// Where calls usually take longer, the next task is not claimed before the slot is free.
    pub prefetch_below: Duration,
    /// A prefetched task is given back when its turn does not come within this.
    pub prefetch_for: Duration,
    /// Whoever has waited longer goes before what the loaded model would prefer.
    pub affinity: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            slot_lease: seconds(30),
            linger: seconds(1),
            heartbeat: seconds(2),
            report: seconds(3),
            report_idle: seconds(10),
            world: seconds(60),
            between: Duration::from_millis(50),
            poll: Duration::from_millis(500),
            waiting: seconds(2),
            idle: seconds(30),
            rest: seconds(120),
            keep_slot: seconds(60),
            prefetch_below: seconds(3),
            prefetch_for: seconds(5),
            affinity: seconds(120),
        }
    }
}

/// Shared by all that runs in a worker.
pub struct Core {
    pub store: Arc<dyn Store>,
    pub namespace: String,
    pub pool: String,
    pub holder: String,
    pub http: HttpClient,
    pub secrets: CachedSecrets,
    pub timings: Timings,
    pub metrics: WorkerMetrics,
    pub leases: Leases,
    pub slots: HeldSlots,
    pub jobs: Jobs,
    pub finisher: Finisher,
    pub targets: Targets,
    pub stats: Stats,
    pub evidence: EvidenceLog,
    /// No more claims.
    pub draining: CancellationToken,
    /// Somebody looks for tasks: there is room, or more may wait.
    pub wake: Notify,
    pub places: Places,
    pub world: RwLock<Arc<PoolView>>,
    pub clock: DatabaseClock,
}

/// The database's time, which deadlines and the times of attempts are by. This machine's clock may be minutes off.
#[derive(Debug, Default)]
pub struct DatabaseClock(RwLock<Option<(Timestamp, BootInstant)>>);

impl DatabaseClock {
    /// The database said `now` in an answer to what was asked at `asked`.
    pub fn read(&self, now: Timestamp, asked: BootInstant) {
        *self.0.write() = Some((now, asked));
    }

    /// By this machine's clock until the database was asked.
    pub fn now(&self) -> Timestamp {
        self.at(BootInstant::now()).unwrap_or_else(Timestamp::now)
    }

    fn at(&self, instant: BootInstant) -> Option<Timestamp> {
        let (then, asked) = (*self.0.read())?;
        then.checked_add(instant.since(asked)).ok()
    }
}

impl Core {
    pub fn world(&self) -> Arc<PoolView> {
        Arc::clone(&self.world.read())
    }

    pub fn set_world(&self, world: PoolView) {
        *self.world.write() = Arc::new(world);
    }

    /// Registers a claim. `None`: its lease is not known any more, so it is left to lapse.
    pub fn take_on(&self, claimed: Claimed) -> Option<Arc<ClaimedJob>> {
        let lease = self.leases.of(&claimed.lease)?;
        self.metrics.claimed(&self.namespace, &self.pool);
        Some(self.jobs.add(claimed, lease))
    }

    /// Ends an execution: what comes next is decided by the queue's rules.
    pub fn end(&self, job: &Arc<ClaimedJob>, run: CallRun, ended: Ended) -> oneshot::Receiver<bool> {
        self.jobs.remove(job);
        let task = &job.task;
        let now = self.clock.now();
        let (class, error) = (ended.class(), ended.error());
        let attempt = Attempt {
            expert: task.expert.clone(),
            backend: run.backend,
            model: run.model,
            holder: self.holder.clone(),
            started_at: run.started_at.unwrap_or(now),
            ended_at: run.started_at.map_or(now, |at| at.max(now)),
            first_token_at: run.first_token_at,
            prompt_tokens: run.prompt_tokens,
            completion_tokens: run.completion_tokens,
            class,
            error,
        };
        let policy = self.retry_policy(task);
        tracing::debug!(task = task.id, epoch = task.epoch, ?class, error = attempt.error, "an execution ended");
        let chance = rand::rng().random_range(0.0..1.0);
        let finished = Finished::new((task.id, task.epoch), task, &policy, ended, attempt, now, chance);
        self.finisher.finish(finished, Arc::clone(&job.lease))
    }

    /// Gives a claim back that was not begun. Nobody need know when that is recorded.
    pub fn give_back(&self, job: &Arc<ClaimedJob>) {
        drop(self.end(job, CallRun::default(), Ended::GivenBack { why: "its worker gave it back before it began" }));
    }

    /// What a stopped call means for its task. Nothing is recorded of one that is not ours.
    pub fn stopped(&self, job: &Arc<ClaimedJob>, run: CallRun, why: CallStopped) {
        let ended = match why {
            CallStopped::NotOurs => return self.jobs.remove(job),
            CallStopped::LeaseLost => Ended::LeaseLost,
            CallStopped::Draining => Ended::GivenBack { why: "its worker was told to stop" },
            CallStopped::SlotLost => Ended::Unavailable {
                why: "its slot was taken away, because the backend hangs or is being recovered".into(),
                retry_after: None,
            },
            CallStopped::SlotUnsure => Ended::Unavailable {
                why: "its slot lapsed while the machine or its worker stood still".into(),
                retry_after: None,
            },
            CallStopped::SlotEnds => {
                Ended::Retryable { why: "the time that a call may take was over".into(), retry_after: None }
            }
        };
        drop(self.end(job, run, ended));
    }

    fn retry_policy(&self, task: &ClaimedTask) -> RetryPolicy {
        let world = self.world();
        let key = QueueKey { namespace: task.namespace.clone(), name: task.queue.clone() };
        world.queues.get(&key).map(|queue| queue.retry).unwrap_or_default()
    }

    /// Whether a call may begin or go on.
    pub fn may_run(&self, job: &ClaimedJob, slot: Option<&HeldSlot>) -> Result<(), CallStopped> {
        job.may_run(slot, BootInstant::now())
    }
}

/// What an execution was like, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct CallRun {
    pub backend: Option<String>,
    pub model: Option<String>,
    /// `None`: it was not begun.
    pub started_at: Option<Timestamp>,
    pub first_token_at: Option<Timestamp>,
    pub prompt_tokens: Option<i64>,
    pub completion_tokens: Option<i64>,
}

/// How many tasks are being done, and how many may be.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicI32,
    allowed: AtomicI32,
}

impl Places {
    pub fn allow(&self, most: i32) {
        self.allowed.store(most, Ordering::Relaxed);
    }

    pub fn allowed(&self) -> i32 {
        self.allowed.load(Ordering::Relaxed)
    }

    pub fn taken(&self) -> i32 {
        self.taken.load(Ordering::Relaxed)
    }

    pub fn free(&self) -> i32 {
        (self.allowed() - self.taken()).max(0)
    }

    /// More are taken than are allowed now: whoever is done takes no further task.
    pub fn is_over(&self) -> bool {
        self.taken() > self.allowed()
    }
}

/// One of a worker's places, until it is dropped.
pub struct WorkerPlace(Arc<Core>);

impl WorkerPlace {
    pub fn take(core: &Arc<Core>) -> Self {
        core.places.taken.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(core))
    }
}

impl Drop for WorkerPlace {
    fn drop(&mut self) {
        self.0.places.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_what_the_database_said_whatever_this_machine_takes_it_for() {
        let clock = DatabaseClock::default();
        let boot = |second| BootInstant::from_boot(Duration::from_secs(second));
        assert!(clock.now().duration_since(Timestamp::now()).as_secs().abs() < 5, "its own until it was asked");
        let said: Timestamp = "2001-01-01T00:00:00Z".parse().unwrap();
        clock.read(said, boot(100));
        assert_eq!(clock.at(boot(160)), Some("2001-01-01T00:01:00Z".parse().unwrap()));
        clock.read(said, BootInstant::now());
        assert!(clock.now().duration_since(said).as_secs() < 60);
    }
}

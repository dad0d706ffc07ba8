//! Workers, as they behave.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Broken, Fault, Simulation,
    engine::{Millis, Seen as SeenCall},
    home::{MODEL, NAMESPACE, queue},
};
use crate::{
    store::{Lease, Served, Slot, SlotClaim},
    tasks::{
        Attempt, Completion, Task,
        retry::{Ended, RetryPolicy, verdict},
    },
};

const LEASE_MILLIS: Millis = 90_000;
/// A slot's lease, and by when its call must have ended.
const SLOT_LEASE: Duration = Duration::from_secs(30);
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// The worker ends its calls so much sooner.
const MARGIN: Millis = 2_000;
/// An engine notices within that time that a client of a stream has gone.
const NOTICED: Millis = 1_000;
const CONCURRENCY: usize = 3;

/// One worker process after another, under one name.
pub struct Worker {
    pub number: usize,
    /// How many processes it has been.
    pub lives: u32,
    pub away_until: Millis,
    pub is_dead: bool,
    lease: Option<HeldLease>,
    pub jobs: Vec<Job>,
    outbox: Vec<Completion>,
}

struct HeldLease {
    lease: Lease,
    asked_at: Millis,
    /// A claim under it was not answered: what it took, if anything, comes back when the lease is closed.
    doubted: bool,
}

/// A task that a worker was given.
pub struct Job {
    pub task: Task,
    pub slot: Slot,
    pub engine: usize,
    call: Option<u64>,
    must_end: Millis,
    /// The highest limit in force since the slot was given.
    pub limit: i32,
    /// The engine's process as it was reported when the slot was given.
    instance: u32,
}

impl Job {
    pub const fn call(&self) -> Option<u64> {
        self.call
    }
}

impl Worker {
    pub fn new(number: usize) -> Self {
        Self { number, lives: 1, away_until: 0, is_dead: false, lease: None, jobs: vec![], outbox: vec![] }
    }

    pub fn name(&self) -> String {
        format!("worker-{}.{}", self.number, self.lives)
    }

    /// Whether its lease surely holds, on a clock that counts sleep.
    pub fn holds(&self, now: Millis) -> bool {
        self.lease.as_ref().is_some_and(|held| now < held.asked_at + LEASE_MILLIS)
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.outbox.is_empty()
    }
}

pub type Went = Result<(), Fault>;

impl Simulation<'_> {
    /// Everything that a worker does in one turn. It may end in the middle of anything.
    pub fn work(&mut self, w: usize) -> Went {
        self.keep_lease(w)?;
        self.drop_lost(w)?;
        self.follow_calls(w)?;
        self.send_results(w)?;
        self.claim(w)
    }

    fn keep_lease(&mut self, w: usize) -> Went {
        let name = self.workers[w].name();
        let Some(held) = &self.workers[w].lease else {
            let asked_at = self.now;
            let lease = self.read(|home| home.open_lease(&name))?;
            self.workers[w].lease = Some(HeldLease { lease, asked_at, doubted: false });
            return Ok(());
        };
        let lease = held.lease.clone();
        if held.doubted && self.workers[w].is_idle() {
            self.ask(|home| home.close_lease(&lease))?;
            self.workers[w].lease = None;
            return Ok(());
        }
        if self.now - held.asked_at < LEASE_MILLIS / 3 {
            return Ok(());
        }
        let asked_at = self.now;
        if self.read(|home| home.renew_lease(&lease))? {
            if let Some(held) = &mut self.workers[w].lease {
                held.asked_at = asked_at;
            }
        } else {
            self.workers[w].lease = None;
            for job in std::mem::take(&mut self.workers[w].jobs) {
                self.abort(&job)?;
            }
        }
        Ok(())
    }

    /// Gives way where a claim is somebody else's now, or can't be known to be ours.
    fn drop_lost(&mut self, w: usize) -> Went {
        let claims: Vec<_> = self.workers[w].jobs.iter().map(|job| (job.task.id, job.task.epoch)).collect();
        if claims.is_empty() {
            return Ok(());
        }
        let lost = self.read(|home| home.lost_claims(&claims))?;
        let holds = self.workers[w].holds(self.now);
        let (kept, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.workers[w].jobs)
            .into_iter()
            .partition(|job| holds && !lost.contains(&job.task.id));
        self.workers[w].jobs = kept;
        for job in lost {
            self.abort(&job)?;
        }
        Ok(())
    }

    /// Closes the connection; the slot is free when the engine has surely stopped.
    fn abort(&mut self, job: &Job) -> Went {
        let notices = self.between(0, NOTICED);
        let stops_at = match job.call {
            Some(call) => {
                let surely = self.engines[job.engine].hang_up(call, self.now, notices);
                if surely > self.now + NOTICED { surely } else { self.now + NOTICED }
            }
            None => self.now,
        };
        let linger = Duration::from_millis(u64::try_from(stops_at - self.now).unwrap_or(0));
        self.read(|home| home.release_slot(&job.slot, linger))
    }

    fn follow_calls(&mut self, w: usize) -> Went {
        let mut next = 0;
        while next < self.workers[w].jobs.len() {
            let (slot, call, engine) = {
                let job = &self.workers[w].jobs[next];
                (job.slot.clone(), job.call, job.engine)
            };
            let Some(call) = call else {
                self.send(w, next)?;
                next += 1;
                continue;
            };
            let ended = match self.engines[engine].look(call, self.now) {
                SeenCall::Running => {
                    match self.read(|home| home.renew_slot(&slot, SLOT_LEASE)) {
                        Ok(()) | Err(Fault::Unclear) => next += 1,
                        Err(Fault::Refused) => {
                            let job = self.workers[w].jobs.remove(next);
                            self.finish(w, &job.task, Ended::Stopped);
                            self.abort(&job)?;
                        }
                        Err(crashed) => return Err(crashed),
                    }
                    continue;
                }
                SeenCall::Failed => Ended::Unavailable { why: "refused".into(), retry_after: None },
                SeenCall::Answered => self.some_end(),
            };
            let job = self.workers[w].jobs.remove(next);
            self.finish(w, &job.task, ended);
            self.read(|home| home.release_slot(&job.slot, Duration::ZERO))?;
        }
        Ok(())
    }

    /// Sends the call of a claim, if it is surely ours and surely ends in time.
    fn send(&mut self, w: usize, next: usize) -> Went {
        let careless = self.broken == Some(Broken::SendsLate);
        let takes = self.between(100, 20_000);
        let job = &self.workers[w].jobs[next];
        let late = self.now + MARGIN >= job.must_end || !self.workers[w].holds(self.now);
        if late && !careless {
            let job = self.workers[w].jobs.remove(next);
            self.finish(w, &job.task, Ended::Stopped);
            return self.read(|home| home.release_slot(&job.slot, Duration::ZERO));
        }
        let ends_at = if careless { self.now + takes } else { (self.now + takes).min(job.must_end) };
        let (task, engine, limit) = (&job.task, job.engine, job.limit);
        let (streamed, astray) = (engine > 0, job.instance != self.engines[engine].instance);
        self.watch.executed(task.id, task.cycle).map_err(Fault::Broken)?;
        let call = self.engines[engine].start(ends_at, streamed, astray);
        let in_flight = self.engines[engine].in_flight(self.now);
        self.workers[w].jobs[next].call = Some(call);
        if in_flight > i64::from(limit) {
            let url = &self.engines[engine].url;
            return Err(Fault::Broken(format!("{in_flight} calls are in flight at {url}, above the limit of {limit}")));
        }
        self.check(false)
    }

    fn some_end(&mut self) -> Ended {
        let dice = if self.calm { 0 } else { self.between(0, 100) };
        match dice {
            0..75 => Ended::Ok { result: serde_json::Value::Null },
            75..88 => Ended::Retryable { why: "reset".into(), retry_after: None },
            88..96 => Ended::Unavailable { why: "busy".into(), retry_after: None },
            _ => Ended::Permanent { why: "no such thing".into() },
        }
    }

    fn finish(&mut self, w: usize, task: &Task, ended: Ended) {
        let now = self.time();
        let policy = RetryPolicy { max_backoff: Duration::from_secs(60), ..RetryPolicy::default() };
        let attempt = attempt(task, &ended, self.workers[w].name(), now);
        let chance = f64::from(u8::try_from(self.between(0, 100)).unwrap_or(0)) / 100.0;
        let verdict = verdict(task, &policy, ended, now, chance);
        self.workers[w].outbox.push(Completion { task: task.id, epoch: task.epoch, verdict, attempt });
    }

    /// What was not answered is sent again; and sometimes also what was.
    fn send_results(&mut self, w: usize) -> Went {
        while let Some(completion) = self.workers[w].outbox.first().cloned() {
            self.complete(&completion)?;
            if self.chance(5) {
                self.complete(&completion)?;
            }
            self.workers[w].outbox.remove(0);
            self.echoes.push(completion);
        }
        Ok(())
    }

    fn claim(&mut self, w: usize) -> Went {
        let Some(held) = self.workers[w].lease.as_ref().filter(|held| !held.doubted) else { return Ok(()) };
        let room = CONCURRENCY.saturating_sub(self.workers[w].jobs.len());
        let lease = held.lease.clone();
        if room == 0 || !self.workers[w].holds(self.now) {
            return Ok(());
        }
        let Some(engine) = self.routed()? else { return Ok(()) };
        let claim = SlotClaim {
            queues: vec![Served { queue: queue(), lease }],
            holder: self.workers[w].name(),
            server_url: self.engines[engine].url.clone(),
            models: vec![(NAMESPACE.into(), MODEL.into())],
            loaded: None,
            affinity: Duration::ZERO,
            most: i32::try_from(room).unwrap_or(1),
            slot_lease: SLOT_LEASE,
            call_within: CALL_WITHIN,
        };
        let asked_at = self.now;
        let given = match self.ask(|home| home.claim(&claim)) {
            Ok(given) => given,
            Err(Fault::Unclear) => {
                if let Some(held) = &mut self.workers[w].lease {
                    held.doubted = true;
                }
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        for (slot, task) in given {
            let limit = self.limits[engine];
            let (must_end, instance) = (asked_at + 60_000 - MARGIN, self.reported[engine]);
            self.workers[w].jobs.push(Job { task, slot, engine, call: None, must_end, limit, instance });
        }
        Ok(())
    }
}

fn attempt(task: &Task, ended: &Ended, holder: String, now: Timestamp) -> Attempt {
    Attempt {
        expert: task.expert.clone().unwrap_or_default(),
        backend: None,
        model: None,
        holder,
        started_at: now,
        ended_at: now,
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class: ended.class(),
        error: ended.error(),
    }
}

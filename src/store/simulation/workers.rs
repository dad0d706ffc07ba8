//! Workers, as they behave.

use std::time::Duration;

use super::{
    Broken, Fault, Simulation,
    engine::{Millis, SeenCall},
    home::{Answer, Given, NAMESPACE, QUEUES, SimStore, lease_of},
    lanes::{CALL_WITHIN, Job, SLOT_LEASE, SimLane},
};
use crate::{
    store::{Lease, Served, SlotClaim},
    tasks::{
        Attempt, Completion, TaskId,
        retry::{Ended, RetryPolicy, verdict},
    },
};

const CONCURRENCY: usize = 3;

/// One worker process after another, under one name.
pub struct SimWorker {
    pub number: usize,
    /// How many processes it has been.
    pub lives: u32,
    pub away_until: Millis,
    pub is_dead: bool,
    /// How much faster its clock runs than the database's, in thousandths, and how much ahead it is.
    drift: Millis,
    pub skew: Millis,
    leases: Vec<HeldLease>,
    /// How often leases were doubted: then others are opened, under another name.
    names: u32,
    pub lanes: Vec<SimLane>,
    /// Results with the lease that they belong to.
    outbox: Vec<(Completion, i64)>,
}

struct HeldLease {
    served: Served,
    asked_at: Millis,
    /// A claim under it was not answered: what it took, if anything, comes back when the lease is closed.
    doubted: bool,
}

impl SimWorker {
    pub fn new(number: usize, lives: u32, drift: Millis, skew: Millis) -> Self {
        Self {
            number,
            lives,
            away_until: 0,
            is_dead: false,
            drift,
            skew,
            leases: vec![],
            names: 0,
            lanes: vec![],
            outbox: vec![],
        }
    }

    pub fn name(&self) -> String {
        format!("worker-{}.{}", self.number, self.lives)
    }

    /// By its own clock.
    pub const fn elapsed(&self, since: Millis, now: Millis) -> Millis {
        (now - since) * (1_000 + self.drift) / 1_000
    }

    /// Whether a lease surely holds, with a twentieth to spare.
    pub fn holds(&self, lease: i64, now: Millis) -> bool {
        let held = self.leases.iter().find(|held| held.served.lease.id == lease);
        held.is_some_and(|held| self.elapsed(held.asked_at, now) < millis(held.length()) * 19 / 20)
    }

    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.lanes.iter().flat_map(SimLane::jobs)
    }

    fn uses(&self, lease: i64) -> bool {
        self.jobs().any(|job| job.lease == lease) || self.outbox.iter().any(|(_, of)| *of == lease)
    }

    fn doubt(&mut self, queues: &[Served]) {
        for held in &mut self.leases {
            held.doubted |= queues.iter().any(|served| served.lease.id == held.served.lease.id);
        }
        self.names += 1;
    }

    /// What it may claim under.
    fn served(&self, now: Millis) -> Vec<Served> {
        let usable = self.leases.iter().filter(|held| !held.doubted && self.holds(held.served.lease.id, now));
        usable.map(|held| held.served.clone()).collect()
    }
}

impl HeldLease {
    fn length(&self) -> Duration {
        lease_of(&self.served.queue)
    }
}

pub fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

pub type Went = Result<(), Fault>;

impl Simulation<'_> {
    /// Everything that a worker does in one turn. It may end in the middle of anything.
    pub fn work(&mut self, w: usize) -> Went {
        self.free_dead()?;
        self.keep_leases(w)?;
        self.open_leases(w)?;
        self.drop_lost(w)?;
        self.follow_lanes(w)?;
        self.send_results(w)?;
        self.claim(w)
    }

    fn keep_leases(&mut self, w: usize) -> Went {
        let mut index = 0;
        while let Some(held) = self.workers[w].leases.get(index) {
            let (served, asked_at) = (held.served.clone(), self.now);
            let due = self.workers[w].elapsed(held.asked_at, asked_at) >= millis(held.length()) / 3;
            if held.doubted && !self.workers[w].uses(served.lease.id) {
                self.ask(|home| home.close_lease(&served.lease))?;
                self.workers[w].leases.remove(index);
            } else if !due {
                index += 1;
            } else if self.twice(|home| home.renew_lease(&served))? {
                self.workers[w].leases[index].asked_at = asked_at;
                index += 1;
            } else {
                self.workers[w].leases.remove(index);
                self.drop_jobs(w, |job| job.lease == served.lease.id)?;
            }
        }
        Ok(())
    }

    fn open_leases(&mut self, w: usize) -> Went {
        for (queue, (name, _)) in QUEUES.iter().enumerate() {
            let worker = &self.workers[w];
            if worker.leases.iter().any(|held| !held.doubted && held.served.queue.name == *name) {
                continue;
            }
            let (holder, asked_at) = (format!("{}+{}", worker.name(), worker.names), self.now);
            let served = self.twice(|home| home.open_lease(&holder, queue))?;
            self.workers[w].leases.push(HeldLease { served, asked_at, doubted: false });
        }
        Ok(())
    }

    /// Gives way where a claim is somebody else's now, or can't be known to be ours.
    fn drop_lost(&mut self, w: usize) -> Went {
        let claims: Vec<_> = self.workers[w].jobs().map(|job| (job.task.id, job.task.epoch)).collect();
        if claims.is_empty() {
            return Ok(());
        }
        let lost = self.read(|home| home.lost_claims(&claims))?;
        let unsure = self.workers[w].jobs().filter(|job| !self.workers[w].holds(job.lease, self.now));
        let lost: Vec<TaskId> = unsure.map(|job| job.task.id).chain(lost).collect();
        self.drop_jobs(w, |job| lost.contains(&job.task.id))
    }

    fn follow_lanes(&mut self, w: usize) -> Went {
        let mut index = 0;
        while index < self.workers[w].lanes.len() {
            let mut lane = self.workers[w].lanes.remove(index);
            let went = self.follow(w, &mut lane);
            if !lane.is_over() {
                self.workers[w].lanes.insert(index, lane);
                index += 1;
                went?;
            } else {
                went?;
                self.twice(|home| home.release_slot(&lane.slot, Duration::ZERO))?;
            }
        }
        Ok(())
    }

    /// One turn of a lane: its call is sent, or looked at.
    fn follow(&mut self, w: usize, lane: &mut SimLane) -> Went {
        let Some(call) = lane.call else {
            lane.job = lane.job.take().or_else(|| lane.next.take());
            return self.send(w, lane);
        };
        match self.engines[lane.engine].look(call, self.now) {
            SeenCall::Running => {
                let asked_at = self.now;
                match self.twice(|home| home.renew_slot(&lane.slot, SLOT_LEASE)) {
                    Ok(()) => lane.renewed_at = asked_at,
                    Err(Fault::Unclear) => {}
                    Err(Fault::Refused) => {
                        for job in lane.take_jobs() {
                            self.finish(w, &job, Ended::GivenBack { why: "its worker drains" });
                        }
                        return self.abort(lane);
                    }
                    Err(other) => return Err(other),
                }
                let prefetches = lane.next.is_none() && self.between(0, 100) < 15;
                if prefetches { self.claim_next(w, lane, 2) } else { Ok(()) }
            }
            ended => {
                let ended = match ended {
                    SeenCall::Answered => self.some_end(),
                    _ => Ended::Unavailable { why: "refused".into(), retry_after: None },
                };
                lane.call = None;
                if let Some(job) = lane.job.take() {
                    self.finish(w, &job, ended);
                }
                lane.job = lane.next.take();
                let goes_on = lane.job.is_none() && self.between(0, 100) < 60;
                if goes_on { self.claim_next(w, lane, 1) } else { Ok(()) }
            }
        }
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

    pub fn finish(&mut self, w: usize, job: &Job, ended: Ended) {
        let now = self.time_ahead(self.workers[w].skew);
        let policy = RetryPolicy { max_backoff: Duration::from_secs(60), ..RetryPolicy::default() };
        let task = &job.task;
        let attempt = Attempt {
            expert: task.expert.clone(),
            backend: None,
            model: None,
            holder: self.workers[w].name(),
            started_at: now,
            ended_at: now,
            first_token_at: None,
            prompt_tokens: None,
            completion_tokens: None,
            class: ended.class(),
            error: ended.error(),
        };
        let chance = f64::from(u8::try_from(self.between(0, 100)).unwrap_or(0)) / 100.0;
        let verdict = verdict(task, &policy, ended, now, chance);
        let completion = Completion { task: task.id, epoch: task.epoch, verdict, attempt };
        self.workers[w].outbox.push((completion, job.lease));
    }

    /// What was not answered is sent again; and sometimes also what was.
    fn send_results(&mut self, w: usize) -> Went {
        while let Some((completion, _)) = self.workers[w].outbox.first().cloned() {
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
        let room = CONCURRENCY.saturating_sub(self.workers[w].lanes.len());
        let routes = if room == 0 { Vec::new() } else { self.routed()? };
        if routes.is_empty() {
            return Ok(());
        }
        let (engine, models) = routes[usize::from(routes.len() > 1 && self.between(0, 2) == 1)].clone();
        let claim = self.slot_claim(w, engine, &models, i32::try_from(room).unwrap_or(1), 1);
        if claim.queues.is_empty() {
            return Ok(());
        }
        let asked_at = self.now;
        let Some(given) = self.claimed(w, &claim, |home| home.claim(&claim))? else { return Ok(()) };
        for (slot, given) in given {
            let job = self.job(engine, given);
            self.workers[w].lanes.push(SimLane::new(slot, engine, models.clone(), job, asked_at));
        }
        Ok(())
    }

    /// The next task for a slot in hand; `calls`: how many may still be made before it must be free.
    fn claim_next(&mut self, w: usize, lane: &mut SimLane, calls: u32) -> Went {
        let claim = self.slot_claim(w, lane.engine, &lane.models, 1, calls);
        if claim.queues.is_empty() {
            return Ok(());
        }
        let asked_at = self.now;
        match self.claimed(w, &claim, |home| home.claim_next(&lane.slot, &claim)) {
            Ok(Some(Some(given))) => {
                let job = self.job(lane.engine, given);
                lane.moved(asked_at, claim.call_within);
                *(if lane.call.is_some() { &mut lane.next } else { &mut lane.job }) = Some(job);
                Ok(())
            }
            // Also where the slot was lost: its call, if there is one, learns it at its next renewal.
            Ok(_) | Err(Fault::Refused) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    fn slot_claim(&self, w: usize, engine: usize, models: &[String], most: i32, calls: u32) -> SlotClaim {
        SlotClaim {
            queues: self.workers[w].served(self.now),
            holder: self.workers[w].name(),
            server_url: self.engines[engine].url.clone(),
            models: models.iter().map(|model| (NAMESPACE.into(), model.clone())).collect(),
            loaded: None,
            affinity: Duration::ZERO,
            most,
            slot_lease: SLOT_LEASE,
            call_within: CALL_WITHIN * calls,
        }
    }

    /// `None`: no answer came, and nobody knows what was claimed.
    fn claimed<T>(
        &mut self,
        w: usize,
        claim: &SlotClaim,
        what: impl FnOnce(&mut dyn SimStore) -> Answer<T>,
    ) -> Result<Option<T>, Fault> {
        match self.ask(what) {
            Ok(given) => Ok(Some(given)),
            Err(Fault::Unclear) => {
                if self.broken != Some(Broken::ClaimsUndoubted) {
                    self.workers[w].doubt(&claim.queues);
                }
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    fn job(&self, engine: usize, (task, Lease { id, .. }): Given) -> Job {
        Job { task, lease: id, limit: self.limits[engine] }
    }
}

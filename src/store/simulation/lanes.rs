//! Slots in hand, and the calls in them.

use std::time::Duration;

use super::{
    Broken, Fault, Simulation, Trouble,
    engine::Millis,
    workers::{Went, millis},
};
use crate::{
    store::Slot,
    tasks::{ClaimedTask, retry::Ended},
};

/// A slot's lease, and by when its call must have ended.
pub const SLOT_LEASE: Duration = Duration::from_secs(30);
pub const CALL_WITHIN: Duration = Duration::from_secs(60);
/// The worker ends its calls so much sooner.
const MARGIN: Millis = 2_000;
/// An engine notices within that time that a client of a stream has gone.
const NOTICED: Millis = 1_000;

/// A slot with the call in it, and the one after that.
pub struct SimLane {
    pub slot: Slot,
    pub engine: usize,
    pub models: Vec<String>,
    pub job: Option<Job>,
    /// At the engine.
    pub call: Option<u64>,
    /// Claimed while a call runs.
    pub next: Option<Job>,
    /// When it was claimed last, and by when from then its calls must have ended.
    asked_at: Millis,
    within: Duration,
    /// When its lease was asked for.
    pub renewed_at: Millis,
}

/// A task that a worker was given.
pub struct Job {
    pub task: ClaimedTask,
    pub lease: i64,
    /// The highest limit in force since it was claimed.
    pub limit: i32,
}

impl SimLane {
    pub fn new(slot: Slot, engine: usize, models: Vec<String>, job: Job, asked_at: Millis) -> Self {
        let job = Some(job);
        Self { slot, engine, models, job, call: None, next: None, asked_at, within: CALL_WITHIN, renewed_at: asked_at }
    }

    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.job.iter().chain(&self.next)
    }

    pub fn take_jobs(&mut self) -> Vec<Job> {
        self.job.take().into_iter().chain(self.next.take()).collect()
    }

    pub fn is_over(&self) -> bool {
        self.job.is_none() && self.next.is_none() && self.call.is_none()
    }

    pub fn moved(&mut self, asked_at: Millis, within: Duration) {
        (self.asked_at, self.within, self.renewed_at) = (asked_at, within, asked_at);
    }

    /// The limit of its server may be this now.
    pub fn raise(&mut self, limit: i32) {
        for job in self.job.iter_mut().chain(&mut self.next) {
            job.limit = job.limit.max(limit);
        }
    }
}

impl Simulation<'_> {
    /// Sends the call of a claim, if it is surely ours, the slot is, and it surely ends in time.
    pub fn send(&mut self, w: usize, lane: &mut SimLane) -> Went {
        // As long as its slot allows, where it is the engine's turn to be slow.
        let slow = !self.calm && self.between(0, 100) < 40;
        let takes = self.between(100, if slow { 120_000 } else { 20_000 });
        let Some(job) = &lane.job else { return Ok(()) };
        let worker = &self.workers[w];
        let left = millis(lane.within) - MARGIN - worker.elapsed(lane.asked_at, self.now);
        let late = left <= 0 || !worker.holds(job.lease, self.now);
        let unsure = worker.elapsed(lane.renewed_at, self.now) >= millis(SLOT_LEASE) * 19 / 20;
        let careless = self.broken == Some(Broken::SendsLate);
        if (late && !careless) || (unsure && !careless && self.broken != Some(Broken::SendsUnsure)) {
            for job in lane.take_jobs() {
                self.finish(w, &job, Ended::GivenBack { why: "its worker drains" });
            }
            return Ok(());
        }
        let ends_at = self.now + if careless { takes } else { takes.min(left) };
        self.watch.executed(job.task.id, job.task.cycle).map_err(Fault::Broken)?;
        let engine = &mut self.engines[lane.engine];
        lane.call = Some(engine.start(ends_at));
        let (in_flight, limit) = (engine.in_flight(self.now), job.limit);
        if in_flight > i64::from(limit) {
            let why = format!("{in_flight} calls are in flight at {}, above the limit of {limit}", engine.url);
            return Err(Fault::Broken(why));
        }
        self.check(false)
    }

    /// Closes the connection; the slot is free when the engine has surely stopped.
    pub fn abort(&mut self, lane: &mut SimLane) -> Went {
        let notices = self.between(0, NOTICED);
        self.note_given_up(lane);
        let stops_at = lane.call.take().map_or(self.now, |call| {
            let surely = self.engines[lane.engine].hang_up(call, self.now, notices);
            surely.max(self.now + NOTICED)
        });
        let linger = Duration::from_millis(u64::try_from(stops_at - self.now).unwrap_or(0));
        self.twice(|home| home.release_slot(&lane.slot, linger))
    }

    /// Ends what is done for these tasks, and records nothing.
    pub fn drop_jobs(&mut self, w: usize, goes: impl Fn(&Job) -> bool) -> Went {
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        for mut lane in std::mem::take(&mut self.workers[w].lanes) {
            lane.next.take_if(|job| goes(job));
            if lane.job.take_if(|job| goes(job)).is_some() && lane.call.is_some() {
                for job in lane.take_jobs() {
                    self.finish(w, &job, Ended::GivenBack { why: "its worker drains" });
                }
                dropped.push(lane);
            } else {
                kept.push(lane);
            }
        }
        self.workers[w].lanes = kept;
        let mut dropped = dropped.into_iter();
        while let Some(mut lane) = dropped.next() {
            if let Err(fault) = self.abort(&mut lane) {
                // Whatever happens to a worker, what it gives up is closed.
                dropped.for_each(|lane| self.hang_up(lane));
                return Err(fault);
            }
        }
        Ok(())
    }

    /// An engine that notices nothing goes on with the call.
    fn note_given_up(&mut self, lane: &SimLane) {
        if let Some(call) = lane.call.filter(|_| !self.engines[lane.engine].streams) {
            self.given_up.push((lane.slot.holder.clone(), lane.engine, call));
        }
    }

    /// Closes the connection of a lane's call.
    pub fn hang_up(&mut self, lane: SimLane) {
        self.note_given_up(&lane);
        let notices = self.between(0, NOTICED);
        if let Some(call) = lane.call {
            self.engines[lane.engine].hang_up(call, self.now, notices);
        }
    }

    /// Somebody on the machine of a dead worker frees what it held.
    pub fn free_dead(&mut self) -> Went {
        let last = Millis::try_from(self.known_dead.len()).unwrap_or(Millis::MAX);
        let seldom = self.trouble != Trouble::Deaths;
        if last == 0 || (seldom && self.between(0, 100) >= 30) {
            return Ok(());
        }
        // The last one, or one that was freed already.
        let which = if seldom { self.between(0, last) } else { last - 1 };
        let name = self.known_dead[usize::try_from(which).unwrap_or(0)].clone();
        let linger = if self.broken == Some(Broken::DeadFreeAtOnce) { 0 } else { NOTICED };
        self.ask(|home| home.free_holder(&name, Duration::from_millis(linger.unsigned_abs())))
    }
}

//! Leaders, as they behave.

use std::time::Duration;

use super::{
    Broken, Fault, LIMITS, Simulation,
    engine::{Millis, Process},
    home::{QUEUES, queue},
    workers::Went,
};
use crate::store::{Admission, BootInstant, Fence, Patience, Reapable, ServerRow, StoreError};

/// A process that may lead.
pub struct SimLeader {
    pub name: String,
    pub away_until: Millis,
    pub fence: Option<Fence>,
    patience: Patience,
    /// What listens at each engine as its agent last reported it. Reports are taken in from time to time.
    heard: [Option<Process>; 2],
}

impl SimLeader {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), away_until: 0, fence: None, patience: Patience::default(), heard: [None; 2] }
    }
}

impl Simulation<'_> {
    /// One turn of a leader, or of one who would be.
    pub fn lead(&mut self, l: usize) -> Went {
        let name = self.leaders[l].name.clone();
        let fence = self.read(|home| home.campaign(&name))?;
        if fence != self.leaders[l].fence {
            self.leaders[l].patience = Patience::default();
        }
        self.leaders[l].fence = fence.clone();
        let Some(fence) = fence else { return Ok(()) };
        self.lead_with(l, &fence)
    }

    /// Also by a leader that does not know yet that it is none.
    pub fn lead_with(&mut self, l: usize, fence: &Fence) -> Went {
        self.ask(|home| home.assign(fence))?;
        match self.reapable(l) {
            Reapable::Of(none) if none.is_empty() => {}
            reapable => drop(self.ask(|home| home.reap(fence, &reapable))?),
        }
        let engine = usize::from(self.between(0, 2) > 0);
        let calm = self.calm;
        let limit = if calm { LIMITS[engine] } else { i32::try_from(self.between(0, 4)).unwrap_or(1) };
        if self.between(0, 100) < 60 {
            self.leaders[l].heard[engine] = self.engines[engine].process;
        }
        self.put_limit(l, engine, limit, fence)
    }

    fn reapable(&mut self, l: usize) -> Reapable {
        if self.broken == Some(Broken::NoPatience) {
            return Reapable::All;
        }
        let boot = BootInstant::from_boot(Duration::from_millis(u64::try_from(self.now).unwrap_or(0)));
        let wall = self.time();
        let leases: Vec<_> = QUEUES.iter().enumerate().map(|(index, (_, lease))| (queue(index), *lease)).collect();
        self.leaders[l].patience.reapable(&leases, Duration::from_secs(90), boot, wall)
    }

    fn put_limit(&mut self, l: usize, engine: usize, limit: i32, fence: &Fence) -> Went {
        let heard = self.leaders[l].heard[engine];
        let server = ServerRow {
            url: self.engines[engine].url.clone(),
            limit,
            admission: Admission::Open,
            instance: heard.map(|process| format!("{}@0", process.instance)),
            calls_per_day: None,
        };
        // An agent of another release does not say how long.
        let told = heard.filter(|_| self.between(0, 100) < 80);
        let running_for = match self.broken {
            Some(Broken::AnyInstanceFrees) => Some(Duration::ZERO),
            _ => told.and_then(|process| u64::try_from(self.now - process.began_at).ok()).map(Duration::from_millis),
        };
        let answer = self.read(|home| home.put_server(fence, &server, running_for));
        // Unanswered, it may hold or not: a call that starts under either is right.
        if !matches!(answer, Err(Fault::Refused)) {
            let before = self.limits[engine];
            self.limits[engine] = if answer.is_ok() { limit } else { limit.max(before) };
            let high = self.limits[engine];
            let lanes = self.workers.iter_mut().flat_map(|w| &mut w.lanes).filter(|lane| lane.engine == engine);
            lanes.for_each(|lane| lane.raise(high));
        }
        answer
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced(_) => Self::Refused,
            other => Self::Broken(other.to_string()),
        }
    }
}

//! Leaders, as they behave.

use std::time::Duration;

use super::{Broken, Fault, LIMITS, Simulation, engine::Millis, home::LEASE, workers::Went};
use crate::store::{Admission, BootInstant, Fence, PauseGuard, ServerRow, StoreError};

/// A process that may lead.
pub struct Leader {
    pub name: String,
    pub away_until: Millis,
    pub fence: Option<Fence>,
    guard: PauseGuard,
}

impl Leader {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), away_until: 0, fence: None, guard: PauseGuard::new(LEASE) }
    }
}

impl Simulation<'_> {
    /// One turn of a leader, or of one who would be.
    pub fn lead(&mut self, l: usize) -> Went {
        let name = self.leaders[l].name.clone();
        let fence = self.read(|home| home.campaign(&name))?;
        if fence != self.leaders[l].fence {
            self.leaders[l].guard = PauseGuard::new(LEASE);
        }
        self.leaders[l].fence = fence.clone();
        let Some(fence) = fence else { return Ok(()) };
        self.lead_with(l, &fence)
    }

    /// Also by a leader that does not know yet that it is none.
    pub fn lead_with(&mut self, l: usize, fence: &Fence) -> Went {
        self.ask(|home| home.assign(fence))?;
        let boot = Duration::from_millis(u64::try_from(self.now).unwrap_or(0));
        let may = self.leaders[l].guard.may_reap(BootInstant::from_boot(boot));
        if may || self.broken == Some(Broken::NoPauseGuard) {
            self.ask(|home| home.reap(fence))?;
        }
        let engine = usize::try_from(self.between(0, 2)).unwrap_or(0);
        let calm = self.calm;
        let limit = if calm { LIMITS[engine] } else { i32::try_from(self.between(0, 4)).unwrap_or(1) };
        self.put_limit(engine, limit, fence)
    }

    fn put_limit(&mut self, engine: usize, limit: i32, fence: &Fence) -> Went {
        let server = ServerRow {
            url: self.engines[engine].url.clone(),
            limit,
            admission: Admission::Open,
            instance: Some(format!("{}@0", self.engines[engine].instance)),
            calls_per_day: None,
        };
        let answer = self.read(|home| home.put_server(fence, &server));
        if answer.is_ok() {
            self.reported[engine] = self.engines[engine].instance;
        }
        // Unanswered, it may hold or not: a call that starts under either is right.
        if !matches!(answer, Err(Fault::Refused)) {
            let before = self.limits[engine];
            self.limits[engine] = if answer.is_ok() { limit } else { limit.max(before) };
            let high = self.limits[engine];
            let jobs = self.workers.iter_mut().flat_map(|w| &mut w.jobs).filter(|job| job.engine == engine);
            jobs.for_each(|job| job.limit = job.limit.max(high));
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

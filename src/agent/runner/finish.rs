//! A service that this agent stopped in order to restart it, and could not start: it is started again within seconds.

use std::time::Duration;

use tokio::time::Instant;

use super::ServiceRunner;
use crate::agent::{
    plan::{MAX_FAILED_STARTS, ServiceDecision, ServiceObserved},
    service::ServiceError,
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For how long it is tried before the agent's own loop takes over.
const TIME: Duration = Duration::from_secs(600);

/// A restart of which only the stop is done.
#[derive(Clone, Copy, Debug)]
pub struct HalfDone {
    pub next: Instant,
    pause: Duration,
    until: Instant,
}

impl HalfDone {
    pub fn new(now: Instant) -> Self {
        Self { next: now + FIRST_PAUSE, pause: FIRST_PAUSE, until: now + TIME }
    }

    /// The next try; `None`: its time is over.
    fn again(self, now: Instant) -> Option<Self> {
        let pause = (self.pause * 2).min(LONGEST_PAUSE);
        (now < self.until).then_some(Self { next: now + pause, pause, ..self })
    }
}

impl ServiceRunner {
    /// After a restart has failed: whether the agent owes a start.
    pub(super) fn after_restart<T>(&mut self, result: &Result<T, ServiceError>) {
        self.half_done = match result {
            Err(error) if error.is_failure() && !self.leaves_to_controller(error) => match self.service.instance() {
                Ok(None) => Some(HalfDone::new(Instant::now())),
                Ok(Some(_)) | Err(_) => None,
            },
            Ok(_) | Err(_) => None,
        };
    }

    /// A program that ends by itself at each start is for whoever cares for the service, if somebody does.
    fn leaves_to_controller(&self, error: &ServiceError) -> bool {
        let cared_for = self.service.live().care_until.is_some_and(|until| Instant::now() < until);
        cared_for && error.counts_as_failed_start()
    }

    pub(super) async fn finish_restart(&mut self) {
        let Some(half_done) = self.half_done.take().filter(|_| !self.service.leaving.is_cancelled()) else { return };
        let memory = self.service.keeper.get();
        let held = crate::agent::plan::active(&memory.holds, jiff::Timestamp::now()).next().is_some();
        if held || memory.failed_starts_in_row >= MAX_FAILED_STARTS {
            return;
        }
        let down = match self.service.look(false).await {
            Ok(ServiceObserved::Down | ServiceObserved::Foreign) | Err(_) => true,
            Ok(_) => false,
        };
        if !down {
            return;
        }
        tracing::warn!(service = %self.service.spec.name, "service is down after an unfinished restart; starting it");
        match self.act(ServiceDecision::Start, ServiceObserved::Down, true).await {
            Err(error) if error.is_failure() && !self.leaves_to_controller(&error) => {
                self.half_done = half_done.again(Instant::now());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

//! One task for each service: operations and the agent's own checks take turns, so that two never act at once.

mod operations;
mod own_loop;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, interval_at},
};
use tokio_util::sync::CancellationToken;

pub use operations::hold_of;

use super::{
    keep::Book,
    plan::{self, Occasion},
    service::{Patience, Service, ServiceError},
};
use crate::telemetry::{Beat, Metrics};

/// How often deaths, logs and their size are looked at.
const UPKEEP: Duration = Duration::from_secs(1);

/// What is asked of a runner.
#[derive(Debug)]
pub enum Command {
    /// An operation was written down: its id.
    Operate(String),
    /// The agent ends for good: stop what it started, without a hold, and start nothing more.
    StopForGood(oneshot::Sender<Result<(), ServiceError>>),
}

/// How the agent's own loop goes.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The agent's name, for metrics.
    pub agent: String,
    pub self_check: Duration,
    /// Only say what would be done.
    pub observe: bool,
}

/// Runs one service.
#[derive(Debug)]
pub struct Runner {
    service: Arc<Service>,
    book: Arc<Book>,
    metrics: Metrics,
    pace: Pace,
    shutdown: CancellationToken,
    beat: Beat,
    /// Nothing is started any more.
    leaving: bool,
}

impl Runner {
    pub fn new(
        service: Arc<Service>,
        book: Arc<Book>,
        metrics: Metrics,
        pace: Pace,
        shutdown: CancellationToken,
        beat: Beat,
    ) -> Self {
        Self { service, book, metrics, pace, shutdown, beat, leaving: false }
    }

    /// Finishes what an earlier agent began, starts what is down, and then serves until the agent ends.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        self.upkeep().await;
        self.catch_up().await;
        if !self.shutdown.is_cancelled() {
            self.check(Occasion::AgentStart).await;
        }
        let mut checks = interval_at(Instant::now() + self.pace.self_check, self.pace.self_check);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                command = commands.recv() => match command {
                    Some(Command::Operate(id)) => self.operate(&id).await,
                    Some(Command::StopForGood(done)) => {
                        self.leaving = true;
                        // Whoever asked may be gone; the service is stopped all the same.
                        let _ = done.send(self.stop_for_good().await);
                    }
                    None => return,
                },
                _ = checks.tick() => {
                    self.catch_up().await;
                    self.check(Occasion::Periodic).await;
                }
                _ = upkeep.tick() => self.upkeep().await,
            }
            self.beat.beat();
        }
    }

    /// Does what an earlier agent began, and what could not be written down as begun when it was asked.
    async fn catch_up(&mut self) {
        for entry in self.book.unfinished(&self.service.spec.name) {
            self.operate(&entry.status.id).await;
        }
    }

    async fn upkeep(&self) {
        let service = Arc::clone(&self.service);
        if let Err(error) = tokio::task::spawn_blocking(move || service.upkeep()).await {
            tracing::error!(service = %self.service.spec.name, %error, "upkeep broke off");
        }
        let memory = self.service.keeper.get();
        let held = plan::active(&memory.holds, Timestamp::now()).next().is_some();
        let gave_up = memory.failed_starts_in_row >= plan::MAX_FAILED_STARTS;
        self.metrics.agent.service_left(&self.pace.agent, &self.service.spec.name, held, gave_up);
    }

    fn patience(&self) -> Patience {
        Patience { book: Arc::clone(&self.book), shutdown: self.shutdown.clone() }
    }
}

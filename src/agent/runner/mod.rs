//! One task for each service: operations and the agent's own checks take turns, so that two never act at once.

mod finish;
mod operations;
mod own_loop;
mod upkeep;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use operations::hold_of;
pub use upkeep::Upkeep;

use finish::HalfDone;

use super::{
    keep::OperationBook,
    plan::Occasion,
    service::{Service, ServiceError, WaitContext},
};
use crate::telemetry::{Beat, Metrics};

/// What is asked of a runner.
#[derive(Debug)]
pub enum RunnerCommand {
    /// An operation was written down: its id.
    Operate(String),
    /// The agent ends for good, as the service was told by its `leaving`: stop what it started, without a hold.
    StopForGood(oneshot::Sender<Result<(), ServiceError>>),
}

/// How the agent's own loop goes.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// The agent's name, for metrics.
    pub agent: String,
    pub self_check: Duration,
    /// Only say what would be done.
    pub observe: bool,
}

/// Runs one service.
#[derive(Debug)]
pub struct ServiceRunner {
    service: Arc<Service>,
    book: Arc<OperationBook>,
    metrics: Metrics,
    pace: RunnerSettings,
    shutdown: CancellationToken,
    beat: Beat,
    half_done: Option<HalfDone>,
}

impl ServiceRunner {
    pub fn new(
        service: Arc<Service>,
        book: Arc<OperationBook>,
        metrics: Metrics,
        pace: RunnerSettings,
        shutdown: CancellationToken,
        beat: Beat,
    ) -> Self {
        // From the first report on: until it was looked at, nobody else need start it.
        service.live().own_start = (!pace.observe).then(jiff::Timestamp::now);
        Self { service, book, metrics, pace, shutdown, beat, half_done: None }
    }

    /// Finishes what an earlier agent began, starts what is down, and then serves until the agent ends.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<RunnerCommand>) {
        self.catch_up().await;
        if !self.shutdown.is_cancelled() {
            self.check(Occasion::AgentStart).await;
        }
        self.service.live().own_start = None;
        self.service.changes.tell();
        let mut checks = interval_at(Instant::now() + self.pace.self_check, self.pace.self_check);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let half_done = self.half_done.map(|half_done| half_done.next);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                command = commands.recv() => match command {
                    Some(RunnerCommand::Operate(id)) => self.operate(&id).await,
                    Some(RunnerCommand::StopForGood(done)) => {
                        // Whoever asked may be gone; the service is stopped all the same.
                        let _ = done.send(self.service.stop_for_good().await);
                    }
                    None => return,
                },
                _ = checks.tick() => {
                    self.catch_up().await;
                    self.check(Occasion::Periodic).await;
                }
                () = sleep_until(half_done.unwrap_or_else(Instant::now)), if half_done.is_some() => {
                    self.finish_restart().await;
                }
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

    fn patience(&self) -> WaitContext {
        WaitContext {
            book: Arc::clone(&self.book),
            shutdown: self.shutdown.clone(),
            leaving: self.service.leaving.clone(),
        }
    }
}

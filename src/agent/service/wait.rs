//! Waits until a started service answers: as long as it lives, its time is not over, and nobody wants otherwise.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Service, error::ServiceError, log, process};
use crate::{
    agent::{config::ManagerSpec, keep::OperationBook, os},
    host::{Action, Instance, LastExit, Phase},
};

/// How long a process without a check must live to count as started.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a service that was found running may take to answer when its time to start is over.
const LEAST_TIME: Duration = Duration::from_secs(10);

/// What ends a wait early.
#[derive(Clone, Debug)]
pub struct WaitContext {
    pub book: Arc<OperationBook>,
    pub shutdown: CancellationToken,
    /// The agent ends for good, and stops what it started.
    pub leaving: CancellationToken,
}

impl WaitContext {
    fn broken(&self, service: &str) -> Option<ServiceError> {
        if self.shutdown.is_cancelled() {
            return Some(ServiceError::Interrupted);
        }
        if self.leaving.is_cancelled() {
            return Some(ServiceError::Superseded(Action::Stop.verb()));
        }
        let unfinished = self.book.unfinished(service);
        unfinished
            .iter()
            .find(|e| e.status.phase == Phase::Accepted && matches!(e.status.action, Action::Stop | Action::Restart))
            .map(|e| ServiceError::Superseded(e.status.action.verb()))
    }
}

/// A process that was just started, or was found running.
#[derive(Debug)]
pub struct Started {
    pub instance: Instance,
    /// How it ended, for as long as this agent is its parent.
    pub exit: Option<watch::Receiver<Option<LastExit>>>,
}

impl Started {
    /// How it ended, if it did.
    fn ended(&self) -> Option<String> {
        if os::is_alive(&self.instance) {
            return None;
        }
        let exit = self.exit.as_ref().and_then(|e| e.borrow().clone());
        Some(match exit {
            Some(LastExit { out_of_memory: true, .. }) => "out of memory".into(),
            Some(LastExit { code: Some(code), .. }) => format!("exit code {code}"),
            Some(LastExit { signal: Some(signal), .. }) => format!("signal {signal}"),
            _ => "nobody knows how".into(),
        })
    }
}

impl Service {
    /// Returns when the service answers, or says why it does not. Without `started`, only the check and the status tell.
    pub async fn wait_up(&self, started: Option<Started>, patience: &WaitContext) -> Result<(), ServiceError> {
        self.live().waiting = true;
        let result = self.wait_for_answer(started, patience).await;
        self.live().waiting = false;
        result
    }

    async fn wait_for_answer(&self, started: Option<Started>, patience: &WaitContext) -> Result<(), ServiceError> {
        let begun = Instant::now();
        let time = self.time_to_answer(started.as_ref());
        let mut exit = started.as_ref().and_then(|s| s.exit.clone());
        let mut pause = Duration::from_millis(50);
        loop {
            if let Some(error) = patience.broken(&self.spec.name) {
                return Err(error);
            }
            self.must_run(started.as_ref()).await?;
            let (up, detail) = self.answers(begun).await?;
            // What it left running may have answered.
            self.must_run(started.as_ref()).await?;
            if up {
                return Ok(());
            }
            if begun.elapsed() > time {
                return Err(ServiceError::NotUp {
                    url: match &self.spec.check {
                        Some(check) => check.url.to_string(),
                        None if self.is_container() => "its engine".into(),
                        None => "its status command".into(),
                    },
                    seconds: self.spec.startup.as_secs(),
                    detail,
                });
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.accepted.notified() => {}
                () = exited(exit.as_mut()) => {}
                () = patience.shutdown.cancelled() => {}
                () = patience.leaving.cancelled() => {}
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// One that was found running may have used up a part of its time.
    fn time_to_answer(&self, started: Option<&Started>) -> Duration {
        match started {
            Some(Started { instance, exit: None }) => self.startup_left(Some(instance)).max(LEAST_TIME),
            _ => self.spec.startup,
        }
    }

    async fn answers(&self, begun: Instant) -> Result<(bool, String), ServiceError> {
        if let Some(waits) = self.container_answers(begun)? {
            return Ok(waits);
        }
        if let Some(outcome) = self.ask().await {
            return Ok((outcome.ok, outcome.detail));
        }
        let up = match self.status().await? {
            Some(up) => up,
            None => begun.elapsed() >= SETTLE,
        };
        Ok((up, "not yet up".into()))
    }

    async fn must_run(&self, started: Option<&Started>) -> Result<(), ServiceError> {
        match started.and_then(|started| Some((started, started.ended()?))) {
            Some((started, how)) => Err(self.exited_early(started, how).await),
            None => Ok(()),
        }
    }

    /// Gives the reaper a moment to say how the process ended, and adds what it wrote last.
    async fn exited_early(&self, started: &Started, mut how: String) -> ServiceError {
        if let Some(mut exit) = started.exit.clone() {
            let told = exit.wait_for(Option::is_some);
            if tokio::time::timeout(Duration::from_secs(2), told).await.is_ok() {
                how = started.ended().unwrap_or(how);
            }
        }
        let ManagerSpec::Process(spec) = &self.spec.manager else {
            return ServiceError::ExitedEarly { how, log: String::new() };
        };
        if let Some(cause) = process::complaint(&self.record) {
            return ServiceError::Spawn { cause };
        }
        let since = self.live().log_begun;
        let last = log::last_words(&spec.log.file, since);
        ServiceError::ExitedEarly { how, log: last.map(|l| format!(", its last line: {}", l.line)).unwrap_or_default() }
    }
}

/// Returns when the process is known to have ended; never for one of which nobody tells.
async fn exited(exit: Option<&mut watch::Receiver<Option<LastExit>>>) {
    if let Some(exit) = exit {
        let told = exit.borrow().is_some();
        if !told && exit.changed().await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

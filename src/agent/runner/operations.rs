//! Operations: each is written down as begun before anything is done, and taken up again after a restart of the agent.

use std::sync::Arc;

use jiff::Timestamp;

use super::ServiceRunner;
use crate::{
    agent::{
        keep::{ServiceOperationRecord, StateError},
        plan,
        service::ServiceError,
    },
    host::{Action, Hold, HoldOwner, OperationRequest, Phase},
    telemetry::crash_point,
};

/// The hold that a Stop or Hold asks for.
pub fn hold_of(request: &OperationRequest, now: Timestamp) -> Hold {
    Hold { owner: owner_of(request), reason: request.reason.clone(), since: now, until: request.until }
}

fn owner_of(request: &OperationRequest) -> HoldOwner {
    request.owner.unwrap_or(HoldOwner::Person)
}

impl ServiceRunner {
    /// Does an operation of the book, unless it is done already.
    pub(super) async fn operate(&mut self, id: &str) {
        let Some(entry) = self.book.get(id).filter(|e| !e.status.phase.is_finished()) else {
            return;
        };
        if self.service.leaving.is_cancelled() {
            tracing::info!(service = %self.service.spec.name, id, "the agent ends for good; the operation is done at its next start");
            return;
        }
        let name = self.service.spec.name.clone();
        self.service.settle().await;
        let entry = match self.begin(entry) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::error!(service = %name, id, %error, "cannot record the start of the operation; will retry");
                return;
            }
        };
        crash_point("agent.operation-begun");
        self.service.live().operation = Some(id.to_owned());
        self.service.changes.tell();
        let result = self.perform(&entry).await;
        self.service.live().operation = None;
        self.service.changes.tell();
        if matches!(result, Err(ServiceError::Interrupted)) {
            tracing::info!(service = %name, id, "the agent is stopping; the operation continues at its next start");
            return;
        }
        let (action, outcome) = (entry.status.action.as_str(), if result.is_ok() { "Succeeded" } else { "Failed" });
        self.metrics.agent.operation(&self.pace.agent, &name, action, outcome);
        crash_point("agent.operation-done-before-record");
        self.book.end(&entry, &result.map(str::to_owned));
    }

    /// Writes down that the operation runs, and which process it found.
    fn begin(&self, mut entry: ServiceOperationRecord) -> Result<ServiceOperationRecord, StateError> {
        if entry.status.phase == Phase::Accepted {
            entry.status.phase = Phase::Running;
            entry.status.started_at = Some(Timestamp::now());
            entry.before = match self.service.instance() {
                Ok(instance) => instance,
                Err(ServiceError::State(error)) => return Err(error),
                // The operation itself will say what is wrong.
                Err(_) => None,
            };
            let begun = entry.clone();
            self.book.change(&entry.status.id, |e| *e = begun)?;
        }
        Ok(entry)
    }

    async fn perform(&mut self, entry: &ServiceOperationRecord) -> Result<&'static str, ServiceError> {
        let request = &entry.request;
        let service = Arc::clone(&self.service);
        let keeper = &service.keeper;
        match request.action {
            Action::Hold => {
                keeper.change(|m| m.hold(hold_of(request, Timestamp::now())))?;
                Ok("held")
            }
            Action::Release => {
                keeper.change(|m| m.release(owner_of(request)))?;
                Ok("released")
            }
            Action::Stop => {
                keeper.change(|m| m.hold(hold_of(request, Timestamp::now())))?;
                self.half_done = None;
                let stopped = self.service.stop().await;
                if let Err(error) = stopped.as_ref().map_err(ToString::to_string) {
                    self.service.note_failure(&error);
                }
                stopped
            }
            Action::Start => {
                keeper.change(|m| {
                    m.release(owner_of(request));
                    m.failed_starts_in_row = 0;
                })?;
                let started = self.service.start(&self.patience()).await;
                self.count(started)
            }
            Action::Restart => {
                let now = Timestamp::now();
                let memory = keeper.get();
                let mut holds = plan::active(&memory.holds, now);
                if let Some(hold) = holds.find(|h| h.owner.binds_controllers()) {
                    return Err(ServiceError::Held { owner: hold.owner.as_str(), reason: hold.reason.clone() });
                }
                keeper.change(|m| m.failed_starts_in_row = 0)?;
                let restarted = self.restart(entry).await;
                self.after_restart(&restarted);
                self.count(restarted)
            }
        }
    }

    /// An agent that died after it had started the new process must not stop that one, too.
    async fn restart(&self, entry: &ServiceOperationRecord) -> Result<&'static str, ServiceError> {
        let now = self.service.instance()?;
        if now.is_some() && now != entry.before {
            self.service.start(&self.patience()).await?;
            return Ok("restarted");
        }
        self.service.restart(&self.patience()).await
    }

    /// Counts failed starts in a row, and keeps why the last one failed.
    pub(super) fn count<T>(&self, result: Result<T, ServiceError>) -> Result<T, ServiceError> {
        let keeper = &self.service.keeper;
        if let Err(error) = &result
            && error.is_failure()
            // How it ended was noted when it did, and says more.
            && !error.exited_early()
        {
            self.service.note_failure(&error.to_string());
        }
        match &result {
            Ok(_) => keeper.change(|m| {
                m.failed_starts_in_row = 0;
                let ended = m.start.as_ref().is_some_and(|start| m.has_ended(start.instance.as_ref()));
                if !ended {
                    m.last_failure = None;
                }
            })?,
            Err(e) if e.counts_as_failed_start() => {
                keeper.change(|m| m.failed_starts_in_row = m.failed_starts_in_row.saturating_add(1))?;
            }
            Err(_) => {}
        }
        result
    }
}

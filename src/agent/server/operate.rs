//! Operations as they are asked for: judged, written down, then handed to the service's runner.

use std::sync::Arc;

use axum::http::HeaderMap;
use jiff::Timestamp;

use super::{
    admit::{on_disk, text},
    app::App,
};
use crate::{
    agent::{
        callers,
        gate::Refused,
        keep::ServiceRecord,
        plan,
        runner::{RunnerCommand, hold_of},
    },
    host::{Action, AgentRefusal, MAX_REASON_CHARS, OperationRequest, OperationStatus, header},
    telemetry::crash_point,
};

/// An installation's late leader is refused; what it may leave out is only a person's wish.
pub async fn check_caller(app: &Arc<App>, headers: &HeaderMap, may_omit: bool) -> Result<(), Refused> {
    match callers::caller(text(headers, header::INSTALLATION), text(headers, header::EPOCH))? {
        Some(caller) => on_disk(app, move |app| app.replay_guard.take_epoch(caller, Timestamp::now())).await,
        None if may_omit => Ok(()),
        None => Err(Refused::new(
            AgentRefusal::LowerEpoch,
            "send Ostler-Installation and Ostler-Epoch: without a leader's epoch only a person may ask (owner: Person)",
        )),
    }
}

/// The `Idempotency-Key`, if there is one of sensible length.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    match text(headers, header::IDEMPOTENCY_KEY) {
        None => Ok(None),
        Some(key) if (1..=256).contains(&key.len()) => Ok(Some(key.to_owned())),
        Some(_) => Err(Refused::new(AgentRefusal::BadRequest, "an Idempotency-Key has 1 to 256 ASCII characters")),
    }
}

/// Accepts an operation: when this returns, it will be done, whatever happens to the agent.
pub async fn accept(
    app: &Arc<App>,
    request: OperationRequest,
    key: Option<String>,
) -> Result<OperationStatus, Refused> {
    on_disk(app, move |app| accept_now(app, request, key)).await
}

fn accept_now(app: &App, request: OperationRequest, key: Option<String>) -> Result<OperationStatus, Refused> {
    let runs = app.service(&request.service)?;
    check_reason(&request.reason)?;
    let now = Timestamp::now();
    let (entry, is_new) = app.book.accept(request, key, now, |request| match request.action {
        Action::Restart => refuse_held(&runs.service.keeper.get(), &request.service, now),
        _ => Ok(()),
    })?;
    if !is_new {
        return Ok(entry.status);
    }
    crash_point("agent.operation-recorded");
    let request = &entry.request;
    if matches!(request.action, Action::Stop | Action::Hold) {
        // At once: an operation that runs may take its time, and nothing may be started meanwhile.
        let hold = hold_of(request, now);
        let held = runs.service.keeper.change(|m| m.hold(hold));
        held.map_err(|error| Refused::new(AgentRefusal::NotRecorded, error.to_string()))?;
    }
    tracing::info!(service = %request.service, action = request.action.as_str(), id = %entry.status.id,
        reason = %request.reason, "operation accepted");
    if runs.commands.send(RunnerCommand::Operate(entry.status.id.clone())).is_err() {
        tracing::warn!(id = %entry.status.id, "the agent is stopping; the operation starts at its next start");
    }
    Ok(entry.status)
}

/// It is kept, logged and shown: a longer one is refused where it enters.
pub fn check_reason(reason: &str) -> Result<(), Refused> {
    match reason.chars().count() {
        0..=MAX_REASON_CHARS => Ok(()),
        n => Err(Refused::new(
            AgentRefusal::BadRequest,
            format!("reason has {n} characters: {MAX_REASON_CHARS} at most"),
        )),
    }
}

fn refuse_held(record: &ServiceRecord, service: &str, now: Timestamp) -> Result<(), Refused> {
    match plan::active(&record.holds, now).find(|h| h.owner.binds_controllers()) {
        None => Ok(()),
        Some(hold) => Err(Refused::new(
            AgentRefusal::Held,
            format!("{} holds {service} since {}: {}", hold.owner.as_str(), hold.since, hold.reason),
        )),
    }
}

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
        gate::{self, Refused},
        keep::{Accepted, StateError},
        plan,
        runner::{Command, hold_of},
    },
    host::{Action, MAX_REASON_CHARS, OperationRequest, OperationStatus, Refusal, header},
    telemetry::crash_point,
};

/// An installation's late leader is refused; what it may leave out is only a person's wish.
pub async fn check_caller(app: &Arc<App>, headers: &HeaderMap, may_omit: bool) -> Result<(), Refused> {
    match gate::caller(text(headers, header::INSTALLATION), text(headers, header::EPOCH))? {
        Some(caller) => on_disk(app, move |app| app.door.take_epoch(caller, Timestamp::now())).await,
        None if may_omit => Ok(()),
        None => Err(Refused::new(
            Refusal::LowerEpoch,
            "send Ostler-Installation and Ostler-Epoch: without a leader's epoch only a person may ask (owner: Person)",
        )),
    }
}

/// The `Idempotency-Key`, if there is one of sensible length.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    match text(headers, header::IDEMPOTENCY_KEY) {
        None => Ok(None),
        Some(key) if (1..=256).contains(&key.len()) => Ok(Some(key.to_owned())),
        Some(_) => Err(Refused::new(Refusal::BadRequest, "an Idempotency-Key has 1 to 256 ASCII characters")),
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
    let not_recorded = |e: StateError| Refused::new(Refusal::NotRecorded, e.to_string());
    let runs = app.service(&request.service)?;
    check_reason(&request.reason)?;
    let now = Timestamp::now();
    let known = key.as_deref().is_some_and(|k| app.book.of_key(k).is_some());
    if !known && request.action == Action::Restart {
        refuse_held(&runs.service.keeper.get(), &request.service, now)?;
    }
    let entry = match app.book.accept(request, key, now).map_err(not_recorded)? {
        Accepted::New(entry) => entry,
        Accepted::Known(entry) => return Ok(entry.status),
        Accepted::KeyReused(entry) => return Err(Refused::key_reused(&entry.status.id)),
    };
    crash_point("agent.operation-recorded");
    let request = &entry.request;
    if matches!(request.action, Action::Stop | Action::Hold) {
        // At once: an operation that runs may take its time, and nothing may be started meanwhile.
        let hold = hold_of(request, now);
        runs.service.keeper.change(|m| m.hold(hold)).map_err(not_recorded)?;
    }
    tracing::info!(service = %request.service, action = request.action.as_str(), id = %entry.status.id,
        reason = %request.reason, "operation accepted");
    if runs.commands.send(Command::Operate(entry.status.id.clone())).is_err() {
        tracing::warn!(id = %entry.status.id, "the agent ends; the operation is done at its next start");
    }
    Ok(entry.status)
}

/// It is kept, logged and shown: a longer one is refused where it enters.
pub fn check_reason(reason: &str) -> Result<(), Refused> {
    match reason.chars().count() {
        0..=MAX_REASON_CHARS => Ok(()),
        n => Err(Refused::new(Refusal::BadRequest, format!("reason has {n} characters: {MAX_REASON_CHARS} at most"))),
    }
}

fn refuse_held(memory: &crate::agent::keep::Memory, service: &str, now: Timestamp) -> Result<(), Refused> {
    match plan::active(&memory.holds, now).find(|h| h.owner.binds_controllers()) {
        None => Ok(()),
        Some(hold) => Err(Refused::new(
            Refusal::Held,
            format!("{} holds {service} since {}: {}", hold.owner.as_str(), hold.since, hold.reason),
        )),
    }
}

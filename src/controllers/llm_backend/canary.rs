//! When a canary may be sent, and how: politely.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{CanaryWhen, Engine, LLMBackendSpec},
    engines::{KeepAlive, LoadedModel, MLX_DEFAULT_MODEL, SendableModel, model_to_send, normalize},
};

use super::{engine_kind, judge::DEMAND_WINDOW, seen::Seen, session::Session};

/// A model that leaves memory sooner than this is not touched.
const TOO_SOON: SignedDuration = SignedDuration::from_secs(30);
/// Ollama's own default: what a model that we had to load is kept for.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(300);
/// An expiry this far away means for ever (Ollama writes the year 2318).
const FOR_EVER: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
/// Between two tries of a proof that failed.
const PROOF_RETRY: SignedDuration = SignedDuration::from_secs(5);

/// What to send now, or why nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryPlan {
    Send { model: SendableModel, keep_alive: Option<KeepAlive>, loads: bool },
    Skip(Skip),
}

/// Why no canary is sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Suspended, or `when: Never`.
    NotWanted,
    /// Probes fail: the listing decides.
    NotAnswering,
    NotDue,
    CallInFlight,
    /// A real call just succeeded.
    JustServed,
    NoDemand,
    /// It would have to load a model that nobody waits for.
    NotLoaded,
    /// The loaded model leaves memory in less than 30 seconds.
    LeavesSoon,
    /// Somebody else uses the model: `keep_alive` would stick for their calls.
    OthersSession,
    /// There is no model that may be asked.
    NoModel,
}

/// Decides. Rules: docs/backends.md, "The canary is polite".
pub fn plan_canary(spec: &LLMBackendSpec, seen: &Seen, session: &Session, now: Timestamp) -> CanaryPlan {
    if let Some(skip) = skip(spec, seen, session, now) {
        return CanaryPlan::Skip(skip);
    }
    choose(spec, seen, session, now)
}

fn skip(spec: &LLMBackendSpec, seen: &Seen, session: &Session, now: Timestamp) -> Option<Skip> {
    let canary = &spec.canary;
    if seen.will.suspended || canary.when == CanaryWhen::Never || seen.misdeclared.is_some() {
        return Some(Skip::NotWanted);
    }
    if seen.probes.last.as_ref().is_none_or(|p| p.verdict.is_failure()) || seen.probes.answering == Some(false) {
        return Some(Skip::NotAnswering);
    }
    if seen.load.in_flight > 0 {
        return Some(Skip::CallInFlight);
    }
    let failed = seen.canary.failures_in_row > 0;
    let gap =
        if session.prove || failed { PROOF_RETRY } else { SignedDuration::from_secs(canary.period_seconds.into()) };
    let since_last = seen.canary.last.as_ref().map(|c| c.ended_at + gap);
    if since_last.is_some_and(|due| now < due) || session.not_before.is_some_and(|at| now < at) {
        return Some(Skip::NotDue);
    }
    if session.prove || failed {
        return None;
    }
    let period = SignedDuration::from_secs(canary.period_seconds.into());
    if seen.canary.served_at().is_some_and(|at| now < at + period) {
        return Some(Skip::JustServed);
    }
    // A paid server is asked only after failures.
    if spec.engine == Engine::OpenAI && spec.auth_secret_ref.is_some() {
        return Some(Skip::NotWanted);
    }
    let recent = seen.load.last_call_at.is_some_and(|at| now < at + DEMAND_WINDOW);
    if canary.when == CanaryWhen::Demand && seen.load.waiting == 0 && !recent {
        return Some(Skip::NoDemand);
    }
    None
}

fn choose(spec: &LLMBackendSpec, seen: &Seen, session: &Session, now: Timestamp) -> CanaryPlan {
    let Some(loaded) = &seen.loaded else { return choose_blind(spec, seen) };
    let kind = engine_kind(spec.engine);
    let same = |a: &str, b: &str| normalize(kind, a) == normalize(kind, b);
    let wanted = expected(spec, seen);
    let expected_loaded = wanted.iter().find_map(|name| loaded.iter().find(|l| same(&l.name, name)));
    // Any model in memory proves that the server infers, without loading another.
    let Some(model) = expected_loaded.or_else(|| loaded.first()) else {
        let Some(name) = wanted.first() else { return CanaryPlan::Skip(Skip::NoModel) };
        if !session.prove && seen.load.waiting == 0 {
            return CanaryPlan::Skip(Skip::NotLoaded);
        }
        let keep_alive = match spec.models.iter().find(|m| same(&m.name, name)) {
            Some(m) if m.preload => KeepAlive::Forever,
            _ => KeepAlive::For(DEFAULT_KEEP_ALIVE),
        };
        return send(spec, seen, name, Some(keep_alive), true);
    };
    let keep_alive = remaining(model, session.prove, now);
    // For a pinned model `keep_alive` says what holds already: it changes nothing for others' calls.
    let sticks = keep_alive != Some(KeepAlive::Forever);
    if !session.prove && sticks && session.others_use(&model.name) {
        return CanaryPlan::Skip(Skip::OthersSession);
    }
    match keep_alive {
        None => CanaryPlan::Skip(Skip::LeavesSoon),
        Some(_) => send(spec, seen, &model.name, keep_alive, false),
    }
}

/// `expires_at − now`, so that the model leaves memory when it would have; `None` below 30 seconds. One that should have
/// left already is held by something that hangs: it may be asked when a proof is wanted.
fn remaining(model: &LoadedModel, prove: bool, now: Timestamp) -> Option<KeepAlive> {
    let Some(expires_at) = model.expires_at else { return Some(KeepAlive::Forever) };
    let left = expires_at.duration_since(now);
    if left > FOR_EVER {
        return Some(KeepAlive::Forever);
    }
    if left <= SignedDuration::ZERO && prove {
        return Duration::try_from(TOO_SOON).ok().map(KeepAlive::For);
    }
    if left < TOO_SOON {
        return None;
    }
    Duration::try_from(left).ok().map(KeepAlive::For)
}

fn choose_blind(spec: &LLMBackendSpec, seen: &Seen) -> CanaryPlan {
    match expected(spec, seen).first() {
        Some(name) => send(spec, seen, name, None, false),
        None if spec.engine == Engine::MLX => send(spec, seen, MLX_DEFAULT_MODEL, None, false),
        None => CanaryPlan::Skip(Skip::NoModel),
    }
}

/// Models that may be asked: the canary's own, the expected ones, else what the server lists.
fn expected(spec: &LLMBackendSpec, seen: &Seen) -> Vec<String> {
    let listed = seen.probes.listed().unwrap_or_default();
    let declared = spec.canary.model.iter().chain(spec.models.iter().map(|m| &m.name));
    let mut names: Vec<String> = declared.cloned().collect();
    if spec.engine == Engine::MLX && seen.probes.listed().is_none() {
        // Unlisted names evict its model: only the default may be asked.
        names.clear();
    }
    if names.is_empty() {
        names.extend(listed.first().cloned());
    }
    names
}

fn send(spec: &LLMBackendSpec, seen: &Seen, name: &str, keep_alive: Option<KeepAlive>, loads: bool) -> CanaryPlan {
    match model_to_send(engine_kind(spec.engine), name, seen.probes.listed()) {
        Ok(model) => CanaryPlan::Send { model, keep_alive, loads },
        Err(_) => CanaryPlan::Skip(Skip::NoModel),
    }
}

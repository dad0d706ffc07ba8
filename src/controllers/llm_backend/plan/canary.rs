//! When a canary is sent, and to which model: politely, unless a proof is demanded. The prober obeys.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{CanaryWhen, EngineKind, LLMBackendSpec},
    engines::{KeepAlive, LoadedModel, MLX_DEFAULT_MODEL, SendableModel, model_to_send, same_model},
};

use super::super::{
    facts::{BackendFacts, CanaryResult},
    judge::{DEMAND_WINDOW, SILENT_FOR_AT_LEAST},
    proof,
};

/// A model that leaves memory sooner than this is not touched.
const TOO_SOON: SignedDuration = SignedDuration::from_secs(30);
/// Ollama's own default: what a model that we had to load is kept for.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(300);
/// An expiry this far away means for ever (Ollama writes the year 2318).
const FOR_EVER: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
/// Between two tries of a proof that failed: doubles from the first to the last.
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(5);
const LAST_RETRY: SignedDuration = SignedDuration::from_mins(5);
/// A canary that got no slot is tried again after this.
const NO_SLOT_RETRY: SignedDuration = SignedDuration::from_secs(2);

/// An inference that the prober is to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryOrder {
    pub model: SendableModel,
    pub keep_alive: Option<KeepAlive>,
    /// The model may have to be loaded first.
    pub loads: bool,
    /// The longest silence, and the longest time in all.
    pub timeout: Duration,
    pub longest: Duration,
    /// How many canaries had ended when this was decided: an order is carried out once.
    pub after: u64,
}

/// What to send now, or why nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryPlan {
    Send(CanaryOrder),
    Skip(Skip),
    /// Not yet.
    Later(Timestamp),
}

/// Why no canary is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Suspended, or `when: Never`.
    NotWanted,
    /// Probes are refused: there is nobody to ask.
    NotAnswering,
    Running,
    CallInFlight,
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

/// Decides. `prove` overrules politeness; canaries from before `fresh_after` asked another process. Rules: docs/backends.md, "The canary is polite".
pub fn plan_canary(
    spec: &LLMBackendSpec,
    seen: &BackendFacts,
    prove: bool,
    fresh_after: Option<Timestamp>,
    is_loaded: impl Fn(&str) -> bool,
    now: Timestamp,
) -> CanaryPlan {
    let failures = seen.canary.failures_after(fresh_after);
    let planned =
        unwanted(spec, seen, prove, failures).or_else(|| not_due(spec, seen, prove, (failures, fresh_after), now));
    planned.unwrap_or_else(|| choose(spec, seen, prove, is_loaded, now))
}

fn unwanted(spec: &LLMBackendSpec, seen: &BackendFacts, prove: bool, failures: usize) -> Option<CanaryPlan> {
    let canary = &spec.canary;
    let refused = |seen: &BackendFacts| seen.probes.last.as_ref().is_none_or(|probed| probed.verdict.is_refusal());
    let skip = if seen.will.suspended || canary.when == CanaryWhen::Never || seen.misdeclared.is_some() {
        Skip::NotWanted
    } else if refused(seen) || !prove && seen.probes.answering == Some(false) {
        Skip::NotAnswering
    } else if seen.canary.running_since.is_some() {
        Skip::Running
    } else if seen.load.in_flight > 0 && (!prove || !seen.load.open.is_empty()) {
        // Slots that only count on after their calls keep no proof back.
        Skip::CallInFlight
    } else if !prove && spec.engine == EngineKind::OpenAi && spec.auth_secret_ref.is_some() && failures == 0 {
        // A paid server is asked only after failures.
        Skip::NotWanted
    } else {
        return None;
    };
    Some(CanaryPlan::Skip(skip))
}

fn not_due(
    spec: &LLMBackendSpec,
    seen: &BackendFacts,
    prove: bool,
    (failures, fresh_after): (usize, Option<Timestamp>),
    now: Timestamp,
) -> Option<CanaryPlan> {
    let period = SignedDuration::from_secs(spec.canary.period_seconds.into());
    let last = seen.canary.last.as_ref();
    let (_, silent_since) = seen.canary.silent_after(fresh_after);
    let wait = match silent_since {
        // Not long enough to call it hung: it is asked again soon, however often that was.
        Some(since) if last.is_some_and(|last| last.ended_at < since + SILENT_FOR_AT_LEAST) => FIRST_RETRY,
        _ => retry(spec, failures),
    };
    // What loaded its model, or had too much to do, is asked as soon as its listing says that it is over.
    let is_over = |last: &&CanaryResult| seen.probes.full_until.is_some_and(|at| at > last.ended_at);
    let after_failure = last.filter(|last| failures > 0 && !is_over(last)).map(|last| last.ended_at + wait);
    let no_slot = seen.canary.no_slot_at.map(|at| at + NO_SLOT_RETRY);
    let mut due = after_failure.max(no_slot).max(seen.canary.not_before);
    if !prove && failures == 0 {
        let recent = seen.load.last_call_at.is_some_and(|at| now < at + DEMAND_WINDOW);
        if spec.canary.when == CanaryWhen::Demand && seen.load.waiting == 0 && !recent {
            return Some(CanaryPlan::Skip(Skip::NoDemand));
        }
        // A real call is as good as a canary.
        let served = seen.evidence.last_served_by_anyone().map(|call| call.ended_at);
        due = due.max(served.max(last.map(|last| last.ended_at)).map(|at| at + period));
    } else if failures == 0 {
        let in_vain = |last: &&CanaryResult| last.result.is_ok() && Some(last.started_at) > fresh_after;
        due = due.max(last.filter(in_vain).map(|last| last.ended_at + FIRST_RETRY));
    }
    due.filter(|due| now < *due).map(CanaryPlan::Later)
}

/// Doubles with each failure. Where calls of a day are counted, canaries keep within that number too.
fn retry(spec: &LLMBackendSpec, failures: usize) -> SignedDuration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(10).min(10);
    let wait = (FIRST_RETRY * 2_i32.pow(doublings)).min(LAST_RETRY);
    match spec.concurrency.max_calls_per_day {
        Some(most) if failures > 3 => wait.max(SignedDuration::from_secs(86_400 / i64::from(most.max(1)))),
        _ => wait,
    }
}

fn choose(
    spec: &LLMBackendSpec,
    seen: &BackendFacts,
    prove: bool,
    is_loaded: impl Fn(&str) -> bool,
    now: Timestamp,
) -> CanaryPlan {
    let kind = spec.engine;
    let wanted = declared(spec, seen);
    let Some(first) = wanted.first() else { return CanaryPlan::Skip(Skip::NoModel) };
    let Some(loaded) = &seen.loaded else {
        let loads = !is_loaded(first);
        return send(spec, seen, first, None, loads);
    };
    // A declared model that is in memory proves the server without loading another.
    let in_memory = wanted.iter().find_map(|name| loaded.iter().find(|l| same_model(kind, &l.name, name)));
    let Some(model) = in_memory else {
        if !prove && seen.load.waiting == 0 {
            return CanaryPlan::Skip(Skip::NotLoaded);
        }
        let keep_alive = match spec.models.iter().find(|m| same_model(kind, &m.own_name(kind), first)) {
            Some(m) if m.preload => KeepAlive::Forever,
            _ => KeepAlive::For(DEFAULT_KEEP_ALIVE),
        };
        return send(spec, seen, first, Some(keep_alive), true);
    };
    let Some(keep_alive) = remaining(model, prove, now) else { return CanaryPlan::Skip(Skip::LeavesSoon) };
    // For a pinned model `keep_alive` says what holds already; where our own workers call, they name it with each call.
    let ours = seen.load.waiting > 0 || seen.load.last_call_at.is_some_and(|at| now < at + DEMAND_WINDOW);
    let others = seen.used_by_others.contains(&model.name);
    if !prove && !ours && others && keep_alive != KeepAlive::Forever {
        return CanaryPlan::Skip(Skip::OthersSession);
    }
    send(spec, seen, &model.name, Some(keep_alive), false)
}

/// `expires_at − now`, so that the model leaves memory when it would have; `None` below 30 seconds, except for a proof. One
/// that should have left already is held by a call, or by something that hangs: it is asked.
fn remaining(model: &LoadedModel, prove: bool, now: Timestamp) -> Option<KeepAlive> {
    let Some(expires_at) = model.expires_at else { return Some(KeepAlive::Forever) };
    let left = expires_at.duration_since(now);
    if left > FOR_EVER {
        return Some(KeepAlive::Forever);
    }
    if left < TOO_SOON && (prove || left <= SignedDuration::ZERO) {
        return Duration::try_from(TOO_SOON).ok().map(KeepAlive::For);
    }
    Duration::try_from(left).ok().filter(|_| left >= TOO_SOON).map(KeepAlive::For)
}

/// Models that may be asked, best first: the canary's own, the declared ones that are listed, else what the server lists and runs itself.
fn declared(spec: &LLMBackendSpec, seen: &BackendFacts) -> Vec<String> {
    let kind = spec.engine;
    let listed = seen.probes.listed();
    let mut names = proof::asked(spec);
    if spec.engine == EngineKind::Mlx {
        // An unlisted name evicts its model: only the default may be asked then.
        let is_listed = |name: &String| listed.is_some_and(|all| all.iter().any(|l| same_model(kind, l, name)));
        let any = !names.is_empty();
        names.retain(|name| name == MLX_DEFAULT_MODEL || is_listed(name));
        if names.is_empty() && (listed.is_none() || !any) {
            names.push(MLX_DEFAULT_MODEL.to_owned());
        }
    }
    if let Some(listing) = seen.probes.listing() {
        let remote = |name: &String| listing.remote.iter().any(|r| same_model(kind, r, name));
        if names.is_empty() && spec.models.is_empty() && spec.canary.model.is_none() {
            names.extend(listing.models.iter().find(|name| !remote(name)).or(listing.models.first()).cloned());
        }
        // A model that runs elsewhere costs money, and says nothing of this server.
        names.sort_by_key(remote);
    }
    names
}

fn send(
    spec: &LLMBackendSpec,
    seen: &BackendFacts,
    name: &str,
    keep_alive: Option<KeepAlive>,
    loads: bool,
) -> CanaryPlan {
    let Ok(model) = model_to_send(spec.engine, name, seen.probes.listed()) else {
        return CanaryPlan::Skip(Skip::NoModel);
    };
    let seconds = |seconds: i32| Duration::from_secs(seconds.unsigned_abs().into());
    let silence = seconds(spec.canary.timeout_seconds);
    let longest = seconds(spec.probe.startup_seconds).max(silence);
    let timeout = if loads { longest } else { silence };
    CanaryPlan::Send(CanaryOrder { model, keep_alive, loads, timeout, longest, after: seen.canary.finished })
}

//! One line for each resource: how bad it is, and the why in words.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    api::{
        BackendState, Condition, ConditionStatus, ContainerHealthCheckState, ContainerHealthCheckStatus,
        HostAgentStatus, Kind, LLMBackendStatus, condition,
    },
    base::age,
    http::types::Item,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Level {
    /// As declared.
    Ok,
    /// Somebody should know; nothing is broken.
    Warning,
    /// Not as declared.
    Bad,
}

/// A backend on the screen.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendLine {
    pub namespace: String,
    pub name: String,
    pub level: Level,
    /// Ready, or left alone on purpose.
    pub healthy: bool,
    /// `status.state`; `New` before the first pass.
    pub state: String,
    pub slots_in_use: Option<i64>,
    pub limit: Option<i32>,
    pub detail: String,
}

/// A host agent, a check of containers, an expert, a pool or a schedule on the screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceLine {
    pub namespace: String,
    pub name: String,
    pub level: Level,
    /// Ready, or left alone on purpose.
    pub healthy: bool,
    /// `status.state`; `New` before the first pass.
    pub state: String,
    pub detail: String,
}

impl BackendLine {
    pub(super) fn of(item: &Item, now: Timestamp) -> Self {
        let status: LLMBackendStatus = read_status(item);
        let live = &item.live;
        let ready = condition(&status.base.conditions, "Ready");
        let is_ready = ready.is_some_and(|c| c.status == ConditionStatus::True);
        let suspended = is_suspended(item) || status.base.state == Some(BackendState::Suspended);
        Self {
            namespace: item.namespace().to_owned(),
            name: item.name().to_owned(),
            level: match level(status.base.state, suspended) {
                // It serves, but not all of its models.
                Level::Ok if !all_models(&status) => Level::Warning,
                level => level,
            },
            healthy: (is_ready && is_current(item)) || suspended,
            state: word(item, suspended),
            slots_in_use: live.slots_in_use,
            limit: live.limit.or(status.effective_limit),
            detail: if is_ready {
                serving_detail(item, &status, now)
            } else {
                failing_detail(item, &status, ready, now)
            },
        }
    }
}

impl ResourceLine {
    pub(super) fn of_agent(item: &Item) -> Self {
        let status: HostAgentStatus = read_status(item);
        let ready = condition(&status.base.conditions, "Ready");
        let is_ready = ready.is_some_and(|c| c.status == ConditionStatus::True);
        let suspended = is_suspended(item);
        let held = !status.held_services.is_empty();
        Self {
            namespace: item.namespace().to_owned(),
            name: item.name().to_owned(),
            level: match (is_ready, suspended || held || ready.is_none()) {
                (true, false) => Level::Ok,
                (false, false) => Level::Bad,
                (_, true) => Level::Warning,
            },
            healthy: (is_ready && is_current(item)) || suspended,
            state: word(item, suspended),
            detail: if is_ready { services(&status) } else { message(ready) },
        }
    }

    pub(super) fn of_check(item: &Item, now: Timestamp) -> Self {
        use ContainerHealthCheckState as S;
        let status: ContainerHealthCheckStatus = read_status(item);
        let ready = condition(&status.base.conditions, "Ready");
        let is_ready = ready.is_some_and(|c| c.status == ConditionStatus::True);
        let suspended = is_suspended(item);
        let since = ready.map(|c| format!(" (for {})", age(seconds_between(c.last_transition_time.0, now))));
        Self {
            namespace: item.namespace().to_owned(),
            name: item.name().to_owned(),
            level: match status.base.state.filter(|_| !suspended) {
                Some(S::Healthy) => Level::Ok,
                None | Some(S::Proving | S::HeldByPerson | S::Unknown | S::Suspended) => Level::Warning,
                Some(S::OutOfMemory) if is_ready => Level::Warning,
                Some(_) => Level::Bad,
            },
            // What a person stopped is as that person wants it.
            healthy: (is_ready && is_current(item)) || suspended || status.base.state == Some(S::HeldByPerson),
            state: word(item, suspended),
            detail: match status.base.state {
                Some(S::Healthy) => format!("{} {}", status.total.unwrap_or_default(), message(ready)),
                _ => format!("{}{}", message(ready), since.unwrap_or_default()),
            },
        }
    }
}

/// What the status of every kind has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conditions {
    conditions: Vec<Condition>,
    next_run_time: Option<Timestamp>,
}

impl ResourceLine {
    /// An expert, a queue, a pool or a schedule.
    pub(super) fn of_declared(item: &Item, now: Timestamp) -> Self {
        let status: Conditions = read_status(item);
        let ready = condition(&status.conditions, "Ready");
        let is_ready = ready.is_some_and(|c| c.status == ConditionStatus::True) && is_current(item);
        let suspended = is_suspended(item);
        let state = word(item, suspended);
        let level = match state.as_str() {
            _ if is_ready && !suspended => Level::Ok,
            // A person wants it so, or it is well without anybody's help once what it waits for has come.
            _ if suspended || ready.is_none() || !is_current(item) => Level::Warning,
            "Held" | "Scaling" | "Waiting" => Level::Warning,
            _ => Level::Bad,
        };
        let since = ready.map(|c| format!(" (for {})", age(seconds_between(c.last_transition_time.0, now))));
        let detail = match status.next_run_time.filter(|at| *at > now) {
            _ if !is_current(item) => "changed; not looked at yet".to_owned(),
            Some(at) if is_ready => format!("next run in {}", age(seconds_between(now, at))),
            _ if is_ready => message(ready),
            _ => format!("{}{}", message(ready), since.unwrap_or_default()),
        };
        Self {
            namespace: item.namespace().to_owned(),
            name: item.name().to_owned(),
            level,
            healthy: is_ready || suspended,
            state,
            detail,
        }
    }
}

/// Whether its status is of its spec as it is now.
fn is_current(item: &Item) -> bool {
    let generation = item.metadata.get("generation").and_then(Value::as_i64);
    let observed = item.status.as_ref().and_then(|s| s.get("observedGeneration")).and_then(Value::as_i64);
    match (generation, observed) {
        (Some(generation), Some(observed)) => observed >= generation,
        _ => true,
    }
}

fn all_models(status: &LLMBackendStatus) -> bool {
    condition(&status.base.conditions, "ModelsReady").is_none_or(|c| c.status != ConditionStatus::False)
}

/// The table of docs/backends.md, by what a person would want to be woken for.
fn level(state: Option<BackendState>, suspended: bool) -> Level {
    use BackendState as S;
    let Some(state) = state.filter(|_| !suspended) else { return Level::Warning };
    match state {
        S::Serving | S::Idle | S::Busy | S::Shared => Level::Ok,
        S::Proving | S::RateLimited | S::Unknown | S::Suspended => Level::Warning,
        S::Unauthorized
        | S::ModelsMissing
        | S::WrongUser
        | S::LoopbackURL
        | S::DuplicateServer
        | S::HostAgentMissing
        | S::SecretMissing
        | S::WorkloadMissing
        | S::InvalidSpec
        | S::Down
        | S::Unreachable
        | S::Misconfigured
        | S::Hung
        | S::Recovering
        | S::Deferred => Level::Bad,
    }
}

/// A status that can't be read is as good as none: the screen must not fail because of one resource.
fn read_status<T: Default + for<'a> Deserialize<'a>>(item: &Item) -> T {
    item.status.clone().and_then(|status| serde_json::from_value(Value::Object(status)).ok()).unwrap_or_default()
}

/// By the manifest, unless a person said otherwise.
pub(super) fn is_suspended(item: &Item) -> bool {
    match &item.live.suspension {
        Some(person) => person.suspended,
        None => item.spec.get("suspend").and_then(Value::as_bool).unwrap_or(false),
    }
}

fn word(item: &Item, suspended: bool) -> String {
    let state = item.status.as_ref().and_then(|s| s.get("state")).and_then(Value::as_str);
    if suspended { "Suspended" } else { state.unwrap_or("New") }.to_owned()
}

fn message(ready: Option<&Condition>) -> String {
    match ready {
        Some(ready) if ready.message.is_empty() => ready.reason.clone(),
        Some(ready) => ready.message.clone(),
        None => "not looked at yet".to_owned(),
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

/// Why it is not ready and since when; when the next attempt comes, and what a person can do.
fn failing_detail(item: &Item, status: &LLMBackendStatus, ready: Option<&Condition>, now: Timestamp) -> String {
    let mut detail = message(ready);
    if let Some(ready) = ready {
        detail = format!("{detail} (for {})", age(seconds_between(ready.last_transition_time.0, now)));
    }
    let next = status.recovery.as_ref().and_then(|r| r.next_attempt_time.as_ref());
    if let Some(wait) = next.map(|at| seconds_between(now, at.0)).filter(|wait| *wait > 0) {
        detail = format!("{detail}; next attempt in {}", age(wait));
    }
    let Some(next) = ready.and_then(|c| Kind::LLMBackend.remedy(item.namespace(), item.name(), &c.reason)) else {
        return detail;
    };
    let service = item.spec.get("recovery").and_then(|r| r.get("service")).and_then(Value::as_str);
    let log = service.map_or_else(String::new, |service| format!("; `ostler logs {service}` shows its log"));
    format!("{detail}; {next}{log}")
}

/// What a well server last did, with the ages that status does not have.
fn serving_detail(item: &Item, status: &LLMBackendStatus, now: Timestamp) -> String {
    let live = &item.live;
    let mut parts = Vec::new();
    if !all_models(status) {
        parts.push(message(condition(&status.base.conditions, "ModelsReady")));
    }
    let recorded = live.last_served.as_ref().map(|served| served.at);
    let served =
        [live.last_byte_at, recorded, status.last_served_time.as_ref().map(|t| t.0)].into_iter().flatten().max();
    if let Some(at) = served {
        parts.push(format!("last answer {} ago", age(seconds_between(at, now))));
    }
    for (name, check) in [("canary", &live.last_canary), ("probe", &live.last_probe)] {
        if let Some(check) = check {
            let took = check.millis.map_or_else(|| check.verdict.clone(), |ms| format!("{ms} ms"));
            parts.push(format!("{name} {took}, {} ago", age(seconds_between(check.at, now))));
        }
    }
    for model in status.models.iter().filter(|m| !m.present) {
        parts.push(match model.pull_percent {
            Some(percent) => format!("pulling {}: {percent} %", model.name),
            None => format!("{} is missing", model.name),
        });
    }
    if let (Some(limit), Some(why)) = (status.effective_limit, &status.limited_by) {
        parts.push(format!("at most {limit} at once: {why}"));
    }
    if parts.is_empty() { message(condition(&status.base.conditions, "Ready")) } else { parts.join(" · ") }
}

/// `mlx Running · ollama Stopped, held (Person: by ada)`
fn services(status: &HostAgentStatus) -> String {
    let services: Vec<String> = status
        .services
        .iter()
        .map(|service| {
            let holds: Vec<String> = status
                .held_services
                .iter()
                .filter(|hold| hold.name == service.name)
                .map(|hold| {
                    if hold.reason.is_empty() { hold.owner.clone() } else { format!("{}: {}", hold.owner, hold.reason) }
                })
                .collect();
            let held = if holds.is_empty() { String::new() } else { format!(", held ({})", holds.join("; ")) };
            format!("{} {}{held}", service.name, service.state)
        })
        .collect();
    if services.is_empty() { "lists no services".to_owned() } else { services.join(" · ") }
}

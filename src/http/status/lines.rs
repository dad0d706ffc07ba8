//! One line for each resource: how bad it is, and the why in words.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::LineText;
use crate::{
    api::{
        BackendState, Condition, ConditionStatus, ContainerHealthCheckState, ContainerHealthCheckStatus,
        HostAgentStatus, Kind, LLMBackendStatus, condition,
    },
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
    /// The same, for pages.
    #[serde(skip)]
    pub(in crate::http) text: LineText,
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
    /// The same, for pages.
    #[serde(skip)]
    pub(in crate::http) text: LineText,
}

impl BackendLine {
    pub(in crate::http) fn of(item: &Item, now: Timestamp) -> Self {
        let status: LLMBackendStatus = read_status(item);
        let live = &item.live;
        let ready = condition(&status.base.conditions, "Ready");
        let is_ready = ready.is_some_and(|c| c.status == ConditionStatus::True);
        let suspended = is_suspended(item) || status.base.state == Some(BackendState::Suspended);
        let text = if is_ready { serving_text(item, &status) } else { failing_text(item, &status, ready, now) };
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
            detail: text.in_words(now),
            text,
        }
    }
}

impl ResourceLine {
    pub(in crate::http) fn of_agent(item: &Item) -> Self {
        let status: HostAgentStatus = read_status(item);
        let ready = condition(&status.base.conditions, "Ready");
        let is_ready = ready.is_some_and(|c| c.status == ConditionStatus::True);
        let suspended = is_suspended(item);
        let held = !status.held_services.is_empty();
        let detail = if is_ready { services(&status) } else { message(ready) };
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
            text: LineText::new(detail.clone()),
            detail,
        }
    }

    pub(in crate::http) fn of_check(item: &Item, now: Timestamp) -> Self {
        use ContainerHealthCheckState as S;
        let status: ContainerHealthCheckStatus = read_status(item);
        let ready = condition(&status.base.conditions, "Ready");
        let is_ready = ready.is_some_and(|c| c.status == ConditionStatus::True);
        let suspended = is_suspended(item);
        let text = match status.base.state {
            Some(S::Healthy) => LineText::new(format!("{} {}", status.total.unwrap_or_default(), message(ready))),
            _ => LineText::new(message(ready)).lasting(since(ready)),
        };
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
            detail: text.in_words(now),
            text,
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
    pub(in crate::http) fn of_declared(item: &Item, now: Timestamp) -> Self {
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
        let text = match status.next_run_time.filter(|at| *at > now) {
            _ if !is_current(item) => LineText::new("changed; not looked at yet"),
            Some(at) if is_ready => LineText::new("next run in ").until(at),
            _ if is_ready => LineText::new(message(ready)),
            _ => LineText::new(message(ready)).lasting(since(ready)),
        };
        Self {
            namespace: item.namespace().to_owned(),
            name: item.name().to_owned(),
            level,
            healthy: is_ready || suspended,
            state,
            detail: text.in_words(now),
            text,
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

fn since(ready: Option<&Condition>) -> Option<Timestamp> {
    ready.map(|ready| ready.last_transition_time.0)
}

/// Why it is not ready and since when; when the next attempt comes, and what a person can do.
fn failing_text(item: &Item, status: &LLMBackendStatus, ready: Option<&Condition>, now: Timestamp) -> LineText {
    let mut text = LineText::new(message(ready)).lasting(since(ready));
    let next = status.recovery.as_ref().and_then(|r| r.next_attempt_time.as_ref());
    if let Some(at) = next.map(|at| at.0).filter(|at| at.duration_since(now).as_secs() > 0) {
        text = text.words("; next attempt in ").until(at);
    }
    let Some(next) = ready.and_then(|c| Kind::LLMBackend.remedy(item.namespace(), item.name(), &c.reason)) else {
        return text;
    };
    let service = item.spec.get("recovery").and_then(|r| r.get("service")).and_then(Value::as_str);
    let log = service.map_or_else(String::new, |service| format!("; `ostler logs {service}` shows its log"));
    text.words(format!("; {next}{log}"))
}

/// What a well server last did, with the ages that status does not have.
fn serving_text(item: &Item, status: &LLMBackendStatus) -> LineText {
    let live = &item.live;
    let mut parts = Vec::new();
    if !all_models(status) {
        parts.push(LineText::new(message(condition(&status.base.conditions, "ModelsReady"))));
    }
    let recorded = live.last_served.as_ref().map(|served| served.at);
    let served =
        [live.last_byte_at, recorded, status.last_served_time.as_ref().map(|t| t.0)].into_iter().flatten().max();
    if let Some(at) = served {
        parts.push(LineText::new("last answer ").since(at).words(" ago"));
    }
    for (name, check) in [("canary", &live.last_canary), ("probe", &live.last_probe)] {
        if let Some(check) = check {
            let took = check.millis.map_or_else(|| check.verdict.clone(), |ms| format!("{ms} ms"));
            parts.push(LineText::new(format!("{name} {took}, ")).since(check.at).words(" ago"));
        }
    }
    for model in status.models.iter().filter(|m| !m.present) {
        parts.push(LineText::new(match model.pull_percent {
            Some(percent) => format!("pulling {}: {percent} %", model.name),
            None => format!("{} is missing", model.name),
        }));
    }
    if let (Some(limit), Some(why)) = (status.effective_limit, &status.limited_by) {
        parts.push(LineText::new(format!("at most {limit} at once: {why}")));
    }
    match parts.is_empty() {
        true => LineText::new(message(condition(&status.base.conditions, "Ready"))),
        false => LineText::joined(parts, " · "),
    }
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

//! What is done about a container now, and how attempts are spread and bounded.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{
    api::{ContainerHealthCheckSpec, MemoryPolicy},
    tasks::retry,
};

use super::{
    super::{
        judge::{ContainerVerdict, Need},
        memory::{CheckMemory, ContainerMemory, ContainerStep, LastAction},
    },
    CheckInput, ContainerAct, ContainerAssessment,
};

/// Attempts are forgotten after it has been well for long enough.
pub fn reset(spec: &ContainerHealthCheckSpec, verdict: &ContainerVerdict, one: &mut ContainerMemory, now: Timestamp) {
    if verdict.is_unhealthy() {
        one.healthy_since = None;
        return;
    }
    let since = *one.healthy_since.get_or_insert(now);
    if now >= since + SignedDuration::from_secs(spec.restart.reset_after_seconds.into()) {
        (one.attempts, one.last_attempt_at) = (0, None);
    }
}

/// When the next attempt is due: at once the first time, then after a backoff that doubles.
pub fn due(spec: &ContainerHealthCheckSpec, one: &ContainerMemory) -> Option<Timestamp> {
    Some(one.last_attempt_at? + backoff(spec, one.attempts))
}

pub fn storm(
    spec: &ContainerHealthCheckSpec,
    unhealthy: usize,
    all: usize,
    memory: &mut CheckMemory,
    now: Timestamp,
) -> bool {
    let over = spec.max_unhealthy.as_ref().is_some_and(|most| unhealthy > allowed(most, all));
    if over {
        memory.cooling_until = Some(now + SignedDuration::from_secs(spec.storm_cooldown_seconds.into()));
    }
    if memory.cooling_until.is_some_and(|until| now >= until) {
        memory.cooling_until = None;
    }
    memory.cooling_until.is_some()
}

/// As Kubernetes reads it: percentages are rounded down.
fn allowed(most: &IntOrString, all: usize) -> usize {
    match most {
        IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
        IntOrString::String(percent) => {
            let percent: usize = percent.trim_end_matches('%').parse().unwrap_or(100);
            all * percent / 100
        }
    }
}

/// What is done about one now.
pub fn act(
    facts: &CheckInput<'_>,
    entry: &ContainerAssessment,
    memory: &CheckMemory,
    now: Timestamp,
) -> Option<ContainerAct> {
    let container = &entry.container;
    let one = memory.containers.get(&container.name);
    if container.under_operation || one.and_then(|one| one.last_action.as_ref()).is_some_and(LastAction::is_open) {
        return None;
    }
    let act = |todo: ContainerStep, reason: String| {
        Some(ContainerAct { container: container.name.clone(), instance: container.instance.clone(), todo, reason })
    };
    // First the memory: what starts with too little dies again.
    if let Some(limit) = entry.proposed.filter(|_| !container.instance.is_empty() && !entry.awaits_run) {
        let todo = match facts.spec.out_of_memory.policy {
            MemoryPolicy::Propose => None,
            MemoryPolicy::Resize => Some(ContainerStep::Resize(limit)),
            MemoryPolicy::PatchWorkload if !facts.contested && memory.written.get(&container.alike) != Some(&limit) => {
                Some(ContainerStep::Patch(limit))
            }
            MemoryPolicy::PatchWorkload => None,
        };
        if let Some(todo) = todo.filter(|todo| !just_tried(facts.spec, one, *todo, now)) {
            let alive = one.and_then(|one| one.last_oom_at).is_some_and(|at| container.outlived_out_of_memory(at));
            let why = if alive { "a process in it ran out of memory" } else { "it ran out of memory" };
            return act(todo, why.into());
        }
    }
    let todo = match entry.verdict.need {
        Need::Nothing => return None,
        Need::Up => ContainerStep::Up,
        Need::Restart => ContainerStep::Restart,
        Need::Stop => ContainerStep::Stop,
    };
    // Whoever only suffers from something else is left alone.
    if todo != ContainerStep::Stop && facts.waits_for.is_some() {
        return None;
    }
    if todo == ContainerStep::Up && entry.awaits.is_some() {
        return None;
    }
    if entry.next.is_some_and(|at| now < at) {
        return None;
    }
    act(todo, entry.verdict.message.clone())
}

/// A limit that was refused is not tried again and again, and one that was accepted takes a while to be seen.
fn just_tried(
    spec: &ContainerHealthCheckSpec,
    one: Option<&ContainerMemory>,
    todo: ContainerStep,
    now: Timestamp,
) -> bool {
    let last = one.and_then(|one| one.last_action.as_ref()).filter(|did| did.todo == todo);
    last.is_some_and(|did| {
        let pause = if did.is_done() { backoff(spec, i32::MAX) } else { backoff(spec, did.tries) };
        now < did.at + pause
    })
}

/// The wait after so many attempts in a row.
fn backoff(spec: &ContainerHealthCheckSpec, attempts: i32) -> Duration {
    let seconds = |number: i32| Duration::from_secs(number.unsigned_abs().into());
    retry::doubled(seconds(spec.restart.backoff_seconds), seconds(spec.restart.max_backoff_seconds), attempts)
}

/// Written down before it is done.
pub fn begin(one: &mut ContainerMemory, act: &ContainerAct, now: Timestamp) {
    if !matches!(act.todo, ContainerStep::Resize(_) | ContainerStep::Patch(_)) {
        one.attempts += 1;
        one.last_attempt_at = Some(now);
    }
    let key = format!("{}/{now}", act.container);
    let again = one.last_action.as_ref().filter(|did| did.todo == act.todo && !did.is_done());
    let tries = again.map_or(0, |did| did.tries).saturating_add(1);
    one.last_action = Some(LastAction { todo: act.todo, at: now, key, operation: None, outcome: None, tries });
}

//! What is to be done about the containers of a check: a pure function.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{
    api::{ContainerHealthCheckSpec, ContainerWord, MemoryPolicy, Mode},
    host::{DependencyCondition, ServiceDependency},
    tasks::retry,
};

use super::{
    judge::{ContainerVerdict, Need, judge},
    limit::{Raised, raised},
    memory::{ActionOutcome, CheckMemory, ContainerMemory, ContainerStep, LastAction},
    seen::{Container, ContainerLife, ProbeHealth},
};

/// Actions of one pass: what is left waits for the next.
const AT_ONCE: usize = 8;
/// An operation whose end nobody told of is taken for failed.
const LOST: SignedDuration = SignedDuration::from_mins(10);

/// Runs of a pod's container that are waited for, to raise its limit while it runs.
const MISSED: u32 = 3;
/// How soon is looked whether it runs.
const SOON: Duration = Duration::from_millis(500);

/// After its limit was raised for a process in it, a container that lived on gets no more for so long: its first process starts
/// what was killed again at once, and each of these dies in turn until the limit is in force.
const RAISED_ALIVE: SignedDuration = SignedDuration::from_mins(5);

/// So long a person is told that it has all the memory that it may have.
const TOLD: SignedDuration = SignedDuration::from_hours(24);

/// What a pass looked at.
#[derive(Clone, Debug)]
pub struct CheckInput<'a> {
    pub spec: &'a ContainerHealthCheckSpec,
    pub containers: &'a [Container],
    /// Why nothing may be done now, beside the manifest: `pause`, a process that only observes, a suspended check.
    pub hands_off: bool,
    /// Of what they depend on, what is not ready.
    pub waits_for: Option<&'a str>,
    /// When a person last resumed the check.
    pub resumed_at: Option<Timestamp>,
    /// Whether what ends is started by its own runtime (a pod's kubelet).
    pub starts_by_itself: bool,
    /// Somebody took back a limit that was written into the workload.
    pub contested: bool,
    pub memory: &'a CheckMemory,
}

/// One container, judged, with what is done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerAssessment {
    pub container: Container,
    pub verdict: ContainerVerdict,
    /// When it may be tried again.
    pub next: Option<Timestamp>,
    /// The limit that it should have, in bytes, and does not.
    pub proposed: Option<i64>,
    /// That limit is set as soon as it runs.
    pub awaits_run: bool,
    /// It has all the memory that it may have.
    pub at_max: bool,
    /// The service of its compose project that must come before it is started.
    pub awaits: Option<String>,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerAct {
    pub container: String,
    pub instance: String,
    pub todo: ContainerStep,
    pub reason: String,
}

/// What a pass decided.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckPlan {
    pub entries: Vec<ContainerAssessment>,
    pub unhealthy: usize,
    /// More are unhealthy than may be, or were so lately.
    pub storm: bool,
    pub acts: Vec<ContainerAct>,
    /// What would be done, if the check, or the process, did not only observe.
    pub withheld: Vec<ContainerAct>,
    /// With the attempts in it: committed before the acts.
    pub memory: CheckMemory,
    /// When something becomes due.
    pub again: Option<Duration>,
}

/// Decides. Rules: docs/containers.md.
pub fn decide(facts: &CheckInput<'_>, now: Timestamp) -> CheckPlan {
    let mut memory = facts.memory.clone();
    let known: BTreeSet<&str> = facts.containers.iter().map(|one| one.name.as_str()).collect();
    if facts.starts_by_itself {
        inherit(facts, &mut memory, &known);
    }
    let mut entries: Vec<ContainerAssessment> =
        facts.containers.iter().map(|one| entry(facts, one, &mut memory, now)).collect();
    order(&mut entries);
    let unhealthy = entries.iter().filter(|entry| entry.verdict.is_unhealthy()).count();
    let storm = storm(facts.spec, unhealthy, entries.len(), &mut memory, now);
    let mut planned = Vec::new();
    for entry in entries.iter().filter(|_| !storm && !facts.spec.suspend) {
        if planned.len() == AT_ONCE {
            break;
        }
        planned.extend(act(facts, entry, &memory, now));
    }
    let may = !facts.hands_off && facts.spec.mode == Mode::Enforce;
    let (acts, withheld) = if may { (planned, Vec::new()) } else { (Vec::new(), planned) };
    let kept = |name: &str, one: &ContainerMemory| {
        known.contains(name) || (facts.starts_by_itself && is_awaited(facts.spec, one, now))
    };
    memory.containers.retain(|name, one| !one.is_blank() && kept(name, one));
    for act in &acts {
        begin(memory.containers.entry(act.container.clone()).or_default(), act, now);
    }
    let again = entries.iter().filter_map(|entry| entry.next).chain(memory.cooling_until).filter(|at| *at > now).min();
    let again = again.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    let between_runs = |entry: &ContainerAssessment| {
        matches!(entry.container.life, ContainerLife::Restarting(_) | ContainerLife::Ended(_))
    };
    let soon = entries.iter().any(|entry| entry.awaits_run && between_runs(entry)).then_some(SOON);
    let again = again.into_iter().chain(soon).min();
    CheckPlan { entries, unhealthy, storm, acts, withheld, memory, again }
}

/// A pod that was deleted lives on under another name: its attempts count there too, or its backoff would never grow.
fn inherit(facts: &CheckInput<'_>, memory: &mut CheckMemory, known: &BTreeSet<&str>) {
    for heir in facts.containers.iter().filter(|one| !one.instance.is_empty()) {
        let all = &memory.containers;
        let of_alike = |name: &str| name.rsplit('/').next() == Some(heir.alike.as_str());
        let gone = all.keys().find(|name| !known.contains(name.as_str()) && of_alike(name)).cloned();
        if let Some(gone) = gone.filter(|_| !all.contains_key(&heir.name))
            && let Some(one) = memory.containers.remove(&gone)
        {
            memory.containers.insert(heir.name.clone(), one);
        }
    }
}

/// Whether a pod that is gone was deleted so lately that its successor may still come.
fn is_awaited(spec: &ContainerHealthCheckSpec, one: &ContainerMemory, now: Timestamp) -> bool {
    let reset = SignedDuration::from_secs(spec.restart.reset_after_seconds.into());
    one.last_attempt_at.is_some_and(|at| now < at + reset)
}

/// Judges one, and takes in what is remembered of it.
fn entry(
    facts: &CheckInput<'_>,
    container: &Container,
    memory: &mut CheckMemory,
    now: Timestamp,
) -> ContainerAssessment {
    let spec = facts.spec;
    let CheckMemory { containers, limits, .. } = memory;
    let one = containers.entry(container.name.clone()).or_default();
    match &container.life {
        ContainerLife::Ended(_) => one.resumed_at = facts.resumed_at.max(one.resumed_at),
        // That end is history.
        _ => one.resumed_at = None,
    }
    // A pod's is over when the pass is that did it. What was cut short there may be done again without harm.
    let lost = if facts.starts_by_itself { SignedDuration::ZERO } else { LOST };
    if let Some(did) = one.last_action.as_mut().filter(|did| did.is_open() && now > did.at + lost) {
        did.outcome = Some(ActionOutcome::Lost("nobody told what came of it".into()));
    }
    let raised = take_memory(facts, container, one, limits, now);
    let mut verdict = judge(spec, container, Some(one), now);
    if facts.starts_by_itself && verdict.need == Need::Up {
        verdict.need = Need::Nothing;
    }
    reset(spec, &verdict, one, now);
    let next = (one.attempts > 0 && verdict.need != Need::Nothing).then(|| due(spec, one)).flatten();
    let wanted = limits.get(&container.alike).copied();
    let proposed = wanted.filter(|limit| container.memory_limit.is_some_and(|has| has < *limit));
    let awaits_run = proposed.is_some() && awaits_run(facts, container, one.missed);
    ContainerAssessment {
        container: container.clone(),
        verdict,
        next,
        proposed,
        awaits_run,
        at_max: raised == Some(Raised::AtMax),
        awaits: None,
    }
}

/// Holds back what would be started before the services of its project that it depends on, as compose itself would.
fn order(entries: &mut [ContainerAssessment]) {
    let awaits: Vec<Option<String>> = entries
        .iter()
        .map(|entry| {
            let mut dependencies = entry.container.depends_on.iter().filter(|_| entry.verdict.need == Need::Up);
            let unmet = dependencies.find(|dependency| entries.iter().any(|other| is_unmet(dependency, other)));
            unmet.map(|dependency| dependency.service.clone())
        })
        .collect();
    for (entry, awaits) in entries.iter_mut().zip(awaits) {
        if let Some(service) = &awaits {
            entry.verdict.message = format!("{}; it waits for {service}, which it depends on", entry.verdict.message);
        }
        entry.awaits = awaits;
    }
}

/// Whether this container is the one that is depended on, and is not as it must be.
fn is_unmet(dependency: &ServiceDependency, other: &ContainerAssessment) -> bool {
    let container = &other.container;
    container.name == dependency.service
        && match dependency.condition {
            DependencyCondition::Completed => other.verdict.word != ContainerWord::Completed,
            DependencyCondition::Healthy => {
                container.life != ContainerLife::Running
                    || matches!(container.health, ProbeHealth::Starting | ProbeHealth::Failing(_))
            }
            DependencyCondition::Started => {
                let ran = [ContainerWord::Completed, ContainerWord::Failed].contains(&other.verdict.word);
                container.life != ContainerLife::Running && !ran
            }
        }
}

/// A kubelet gives what it starts its new limit, but leaves the pod as a whole where it was, so that it dies again under that;
/// only for what runs it raises both (kubernetes/kubernetes#138760). What never runs long enough is not waited for without end.
fn awaits_run(facts: &CheckInput<'_>, container: &Container, missed: u32) -> bool {
    let in_place = facts.spec.out_of_memory.policy == MemoryPolicy::Resize;
    in_place && facts.starts_by_itself && container.life != ContainerLife::Running && missed < MISSED
}

/// Counts what ran out of memory since the last look, and decides the limit that it should have.
fn take_memory(
    facts: &CheckInput<'_>,
    container: &Container,
    one: &mut ContainerMemory,
    limits: &mut BTreeMap<String, i64>,
    now: Timestamp,
) -> Option<Raised> {
    let policy = &facts.spec.out_of_memory;
    if !container.instance.is_empty() && one.instance != container.instance {
        (one.instance, one.oom_seen, one.enough_since, one.missed) = (container.instance.clone(), 0, None, 0);
    }
    let next = raised(policy, container.memory_limit);
    let has = container.memory_limit.unwrap_or(i64::MAX);
    let enough = limits.get(&container.alike).map(|limit| has >= *limit);
    if container.oom_count > one.oom_seen {
        // A kubelet tells of the last end only, whatever came before it.
        one.oom_total += if facts.starts_by_itself { 1 } else { container.oom_count - one.oom_seen };
        one.oom_seen = container.oom_count;
        one.missed = if enough == Some(false) { one.missed.saturating_add(1) } else { 0 };
        one.last_oom_at = container.last_oom_at.or(Some(now));
        one.peak = one.peak.max(container.memory_peak);
        // A raised limit is told before or after what died under the old one: what has it is only raised for an end that came
        // after it was seen to have it.
        let under_this = one.enough_since.zip(one.last_oom_at).is_some_and(|(since, at)| since < at);
        let alive = one.last_oom_at.is_some_and(|at| container.outlived_out_of_memory(at));
        let paused = alive && one.raised_alive_at.is_some_and(|at| now < at + RAISED_ALIVE);
        if let Some(Raised::To(limit)) = next.filter(|_| !paused && (enough != Some(true) || under_this)) {
            limits.insert(container.alike.clone(), limit);
            one.raised_alive_at = alive.then_some(now);
        }
    }
    one.enough_since = one.enough_since.filter(|_| enough != Some(false)).or_else(|| enough?.then_some(now));
    // What a person raised as far is no proposal any more.
    if policy.policy == MemoryPolicy::Propose && limits.get(&container.alike).is_some_and(|limit| has >= *limit) {
        limits.remove(&container.alike);
    }
    let lately = one.last_oom_at.is_some_and(|at| now < at + TOLD);
    next.filter(|next| *next == Raised::AtMax && lately)
}

/// Attempts are forgotten after it has been well for long enough.
fn reset(spec: &ContainerHealthCheckSpec, verdict: &ContainerVerdict, one: &mut ContainerMemory, now: Timestamp) {
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
fn due(spec: &ContainerHealthCheckSpec, one: &ContainerMemory) -> Option<Timestamp> {
    Some(one.last_attempt_at? + backoff(spec, one.attempts))
}

fn storm(
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
fn act(
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
fn begin(one: &mut ContainerMemory, act: &ContainerAct, now: Timestamp) {
    if !matches!(act.todo, ContainerStep::Resize(_) | ContainerStep::Patch(_)) {
        one.attempts += 1;
        one.last_attempt_at = Some(now);
    }
    let key = format!("{}/{now}", act.container);
    let again = one.last_action.as_ref().filter(|did| did.todo == act.todo && !did.is_done());
    let tries = again.map_or(0, |did| did.tries).saturating_add(1);
    one.last_action = Some(LastAction { todo: act.todo, at: now, key, operation: None, outcome: None, tries });
}

#[cfg(test)]
mod tests;

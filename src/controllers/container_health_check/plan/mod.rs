//! What is to be done about the containers of a check: a pure function.

mod attempts;
mod dependencies;
mod limits;

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::api::{ContainerHealthCheckSpec, Mode};

use super::{
    container::{Container, ContainerLife},
    judge::{ContainerVerdict, Need, judge},
    memory::{ActionOutcome, CheckMemory, ContainerMemory, ContainerStep},
};

use attempts::{act, begin, due, reset, storm};
use limits::{Raised, awaits_run, take_memory};

pub use dependencies::cycle;

/// Actions of one pass: what is left waits for the next.
const AT_ONCE: usize = 8;
/// An operation whose end nobody told of is taken for failed.
const LOST: SignedDuration = SignedDuration::from_mins(10);

/// How soon is looked whether it runs.
const SOON: Duration = Duration::from_millis(500);

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
    dependencies::order(&mut entries);
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

#[cfg(test)]
mod tests;

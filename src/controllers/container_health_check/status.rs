//! What status says of a check's containers: a pure function.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{
    ContainerHealthCheckSpec, ContainerHealthCheckState as State, ContainerHealthCheckStatus, ContainerProbe,
    ContainerStatusEntry, ContainerWord, MemoryPolicy, quantity::shown,
};

use super::{
    super::declared::DeclaredPlan,
    CheckAssessment, Looked, SHOWN,
    container::ContainerLife,
    memory::ContainerStep,
    observe::{Blind, LogExcerpt},
    plan::ContainerAssessment,
};

/// Of the longest texts, in characters.
const LONGEST: usize = 2_000;

/// The state of a check, its message, and its containers one by one.
pub fn assessed(
    spec: &ContainerHealthCheckSpec,
    facts: CheckAssessment,
) -> DeclaredPlan<ContainerHealthCheckStatus, CheckAssessment> {
    let (state, message) = state(spec, &facts);
    let ready = match state {
        State::Healthy => true,
        // It runs, and a person should raise the limit.
        State::OutOfMemory => facts.looked.as_ref().is_some_and(|looked| looked.decision.unhealthy == 0),
        _ => false,
    };
    let stalled = matches!(
        state,
        State::HeldByPerson
            | State::OutOfMemory
            | State::TooManyUnhealthy
            | State::Refused
            | State::DependencyCycle
            | State::FieldContested
            | State::Failed
    );
    let status = facts.looked.as_ref().map(|looked| listed(spec, looked)).unwrap_or_default();
    let (again, undecided) = (Some(again(spec, &facts)), matches!(facts.blind, Some(Blind::Unheard(_))));
    let plan = DeclaredPlan::new(state, ready, stalled && !ready, message, status).with_action(facts);
    DeclaredPlan { again, undecided, ..plan }
}

/// How soon the next pass looks, while something goes on and while nothing does.
fn again(spec: &ContainerHealthCheckSpec, facts: &CheckAssessment) -> Duration {
    let Some(looked) = &facts.looked else { return Duration::from_secs(5) };
    let decision = &looked.decision;
    let open = decision.memory.containers.values().filter_map(|one| one.last_action.as_ref()).any(|did| did.is_open());
    let quiet = Duration::from_secs(if spec.target.kubernetes.is_some() { 10 } else { 2 });
    let period = |probe: &ContainerProbe| Duration::from_secs(probe.period_seconds.unsigned_abs().into());
    let quiet = spec.probe.as_ref().map_or(quiet, |probe| quiet.min(period(probe)));
    let busy = Duration::from_millis(if open || !decision.acts.is_empty() { 500 } else { 60_000 });
    quiet.min(busy).min(decision.again.unwrap_or(quiet)).max(Duration::from_millis(200))
}

fn state(spec: &ContainerHealthCheckSpec, facts: &CheckAssessment) -> (State, String) {
    if facts.suspended {
        return (State::Suspended, "suspended: its containers are not looked at".into());
    }
    if let Some(way) = &facts.cycle {
        return (State::DependencyCycle, format!("it depends on itself ({way}): remove one of these from dependsOn"));
    }
    match &facts.blind {
        Some(Blind::Unknown(why) | Blind::Unheard(why)) => {
            return (State::Unknown, format!("{why}; nothing is done meanwhile"));
        }
        Some(Blind::Refused(why)) => return (State::Refused, why.clone()),
        None => {}
    }
    let Some(looked) = &facts.looked else { return (State::Proving, "not looked at yet".into()) };
    of_containers(spec, facts, looked)
}

fn of_containers(spec: &ContainerHealthCheckSpec, facts: &CheckAssessment, looked: &Looked) -> (State, String) {
    let decision = &looked.decision;
    if decision.entries.is_empty() {
        return (State::NothingSelected, "nothing matches target: correct it, or start what it should match".into());
    }
    let worst = worst(&decision.entries);
    let told = told(&worst, decision.unhealthy);
    if decision.storm {
        let (count, all) = (decision.unhealthy, decision.entries.len());
        let seconds = spec.storm_cooldown_seconds;
        let message = format!(
            "{count} of {all} unhealthy, more than maxUnhealthy or so lately: nothing is done until that is over for {seconds} s; {told}"
        );
        return (State::TooManyUnhealthy, message);
    }
    if let Some(container) = &facts.contested {
        let message = format!(
            "somebody took back the limit of memory that was written for container {container}: raise it where it is declared"
        );
        return (State::FieldContested, message);
    }
    if decision.unhealthy > 0 {
        if let Some(whom) = &facts.waits_for {
            return (State::WaitingForDependency, format!("{told}; it {whom}"));
        }
        if let Some(entry) = worst.iter().find(|entry| is_out_of_memory(spec, entry)) {
            return (State::OutOfMemory, format!("{told}; {}", mend(spec, entry, looked)));
        }
        if worst[0].verdict.word == ContainerWord::CrashLooping {
            return (State::CrashLooping, told);
        }
        // What waits for one that failed waits for the same person.
        let failed = worst.iter().find(|entry| entry.verdict.word == ContainerWord::Failed);
        let settled =
            |entry: &&ContainerAssessment| entry.verdict.word == ContainerWord::Failed || entry.awaits.is_some();
        if let Some(failed) = failed
            && worst.iter().filter(|entry| entry.verdict.is_unhealthy()).all(settled)
        {
            return (State::Failed, cut(&format!("{}: {}", failed.container.name, failed.verdict.message), LONGEST));
        }
        return (State::Degraded, told);
    }
    if worst.iter().any(|entry| entry.verdict.word == ContainerWord::HeldByPerson) {
        return (State::HeldByPerson, told);
    }
    if worst.iter().any(|entry| entry.verdict.word == ContainerWord::Starting) {
        return (State::Proving, told);
    }
    let raising = |entry: &&ContainerAssessment| {
        entry.at_max || (entry.proposed.is_some() && (is_proposed(spec) || refused(entry, looked).is_some()))
    };
    if let Some(entry) = decision.entries.iter().find(raising) {
        return (State::OutOfMemory, format!("{}; {}", survived(entry, looked), mend(spec, entry, looked)));
    }
    let how = match spec.desired_state {
        crate::api::DesiredState::Running if completed(&decision.entries) => "all run, or ran to their end",
        crate::api::DesiredState::Running => "all run",
        crate::api::DesiredState::Stopped => "all are stopped",
    };
    (State::Healthy, how.into())
}

fn completed(entries: &[ContainerAssessment]) -> bool {
    entries.iter().any(|entry| entry.verdict.word == ContainerWord::Completed)
}

/// A person must raise the limit: it is only proposed, or all that may be given is given.
fn is_out_of_memory(spec: &ContainerHealthCheckSpec, entry: &ContainerAssessment) -> bool {
    let hurt = entry.verdict.word == ContainerWord::OutOfMemory;
    hurt && (entry.at_max || is_proposed(spec))
}

fn is_proposed(spec: &ContainerHealthCheckSpec) -> bool {
    spec.out_of_memory.policy == MemoryPolicy::Propose
}

/// Why its limit was not raised, if that was tried and not done.
fn refused<'a>(entry: &ContainerAssessment, looked: &'a Looked) -> Option<&'a str> {
    let did = looked.decision.memory.containers.get(&entry.container.name)?.last_action.as_ref()?;
    did.failure().filter(|_| matches!(did.todo, ContainerStep::Resize(_) | ContainerStep::Patch(_)))
}

/// How one that runs ran out of memory: whether it ended for that.
fn survived(entry: &ContainerAssessment, looked: &Looked) -> String {
    let name = &entry.container.name;
    let at = looked.decision.memory.containers.get(name).and_then(|known| known.last_oom_at);
    if at.is_some_and(|at| entry.container.outlived_out_of_memory(at)) {
        return format!("a process in {name} ran out of memory and was killed; the container itself ran on");
    }
    format!("{name} ran out of memory, and runs again")
}

fn mend(spec: &ContainerHealthCheckSpec, entry: &ContainerAssessment, looked: &Looked) -> String {
    match refused(entry, looked) {
        _ if is_proposed(spec) => "raise its limit: status.proposal is a patch to paste".into(),
        Some(why) if !entry.at_max => format!("its limit was not raised: {why}"),
        _ => "it has all that outOfMemory.max allows: raise that, or find what uses it".into(),
    }
}

/// Those that are not well, the worst first.
fn worst(entries: &[ContainerAssessment]) -> Vec<&ContainerAssessment> {
    let mut all: Vec<&ContainerAssessment> = entries.iter().collect();
    all.sort_by(|a, b| b.verdict.word.cmp(&a.verdict.word).then_with(|| a.container.name.cmp(&b.container.name)));
    all
}

fn told(worst: &[&ContainerAssessment], unhealthy: usize) -> String {
    let Some(first) = worst.first() else { return String::new() };
    let more = match unhealthy.saturating_sub(1) {
        0 => String::new(),
        more => format!("; {more} more"),
    };
    cut(&format!("{}: {}{more}", first.container.name, first.verdict.message), LONGEST)
}

/// The containers that are not as declared, or something was done about.
fn listed(spec: &ContainerHealthCheckSpec, looked: &Looked) -> ContainerHealthCheckStatus {
    let decision = &looked.decision;
    let notable = |entry: &&ContainerAssessment| {
        !matches!(entry.verdict.word, ContainerWord::Healthy | ContainerWord::Completed)
            || entry.proposed.is_some()
            || entry.container.drift.is_some()
            || decision.withheld.iter().any(|act| act.container == entry.container.name)
            || decision.memory.containers.contains_key(&entry.container.name)
    };
    let shown = worst(&decision.entries).into_iter().filter(notable).take(SHOWN);
    ContainerHealthCheckStatus {
        total: i32::try_from(decision.entries.len()).ok(),
        unhealthy: i32::try_from(decision.unhealthy).ok(),
        containers: shown.map(|entry| line(entry, looked)).collect(),
        proposal: proposal(spec, &decision.entries),
        ..ContainerHealthCheckStatus::default()
    }
}

fn line(entry: &ContainerAssessment, looked: &Looked) -> ContainerStatusEntry {
    let container = &entry.container;
    let known = looked.decision.memory.containers.get(&container.name);
    let would = looked.decision.withheld.iter().find(|act| act.container == container.name);
    let would = would.map(|act| format!("would {}, but is paused or only observes", act.todo.told()));
    let raised = entry.proposed.filter(|_| entry.awaits_run);
    let raised = raised.map(|limit| format!("its limit is raised to {} as soon as it runs", shown(limit)));
    let said: Vec<&str> =
        [Some(entry.verdict.message.as_str()), raised.as_deref(), would.as_deref(), container.drift.as_deref()]
            .into_iter()
            .flatten()
            .collect();
    let message = said.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    let mut entry = ContainerStatusEntry {
        name: shown_name(&container.name),
        state: entry.verdict.word,
        message: cut(&message, LONGEST),
        exit_code: match &container.life {
            ContainerLife::Ended(end) | ContainerLife::Restarting(end) => end.exit_code,
            _ => None,
        },
        out_of_memory_count: known.map(|known| known.oom_total).filter(|n| *n > 0).and_then(|n| i32::try_from(n).ok()),
        memory_limit: container.memory_limit.map(shown),
        memory_peak: known.and_then(|known| known.peak).map(shown),
        proposed_memory_limit: entry.proposed.map(shown),
        attempts: known.map(|known| known.attempts).filter(|attempts| *attempts > 0),
        next_attempt_time: entry.next.map(Time),
        last_action: known.and_then(|known| known.last_action.as_ref()).map(|did| cut(&did.told(), 1_000)),
        log_head: None,
        log_tail: None,
    };
    if let Some(log) = looked.logs.get(&container.name) {
        show_log(&mut entry, log);
    }
    entry
}

pub fn shown_name(container: &str) -> String {
    cut(container, 500)
}

pub fn show_log(entry: &mut ContainerStatusEntry, (head, tail): &LogExcerpt) {
    let text = |text: &str, most| (!text.is_empty()).then(|| cut(text, most));
    (entry.log_head, entry.log_tail) = (text(head, 1_000), text(tail, 4_000));
}

/// A patch to paste: whoever owns the manifest owns its limits.
fn proposal(spec: &ContainerHealthCheckSpec, entries: &[ContainerAssessment]) -> Option<String> {
    if spec.out_of_memory.policy != MemoryPolicy::Propose {
        return None;
    }
    let mut limits: Vec<(&str, i64)> =
        entries.iter().filter_map(|entry| Some((entry.container.alike.as_str(), entry.proposed?))).collect();
    limits.sort_unstable();
    limits.dedup_by_key(|(name, _)| *name);
    let (name, _) = *limits.first()?;
    let target = &spec.target;
    let text = match (&target.kubernetes, &target.docker) {
        (Some(_), _) => {
            let line = |(name, bytes): &(&str, i64)| {
                format!("        - name: {name}\n          resources: {{limits: {{memory: {}}}}}\n", shown(*bytes))
            };
            let lines: String = limits.iter().map(line).collect();
            format!("spec:\n  template:\n    spec:\n      containers:\n{lines}")
        }
        (None, Some(docker)) if docker.compose.is_some() => {
            let line = |(name, bytes): &(&str, i64)| format!("  {name}:\n    mem_limit: {bytes}\n");
            let lines: String = limits.iter().map(line).collect();
            format!("services:\n{lines}")
        }
        _ => {
            let bytes = limits[0].1;
            format!("docker update --memory {bytes} --memory-swap {bytes} {name}\n")
        }
    };
    Some(cut(&text, 4_000))
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

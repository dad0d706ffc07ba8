//! What the clock does about a schedule now: data, from its timer and what was observed. Pure.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{ConcurrencyPolicy, ExpertSpec, TaskScheduleSpec, number_of},
    store::DeclaredRow,
    tasks::{Message, NewTask, Payload},
};

use super::{
    runs::RunWait,
    timer::{ScheduleDue, ScheduleTimer},
};

/// Label of the tasks of a schedule: its name.
pub const SCHEDULE: &str = "ostler.dev/schedule";
/// Label of the tasks of a run: the time that was due.
pub const RUN: &str = "ostler.dev/run";

/// What the clock reads of a schedule before it plans.
#[derive(Clone, Debug)]
pub struct ScheduleObserved {
    /// All but how many tasks the run would insert.
    pub run: RunObserved,
    /// Every projected Expert, where a run is due or requested.
    pub experts: Vec<DeclaredRow>,
    /// A run that a person requested and that was not dealt with yet.
    pub request: Option<String>,
    /// The last requested run that was recorded.
    pub last_requested: Option<Timestamp>,
}

/// What makes a run due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOrigin {
    Schedule,
    Request,
}

impl RunOrigin {
    /// What runs of this origin are recorded under.
    pub fn key(self, uid: &str) -> String {
        match self {
            Self::Schedule => uid.to_owned(),
            Self::Request => format!("{uid}/run"),
        }
    }

    pub fn told(self) -> &'static str {
        match self {
            Self::Schedule => "by its schedule",
            Self::Request => "by hand",
        }
    }
}

/// What is done about a run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunAction {
    Fire {
        run: Timestamp,
        tasks: Vec<NewTask>,
        replace: bool,
    },
    LeaveOut {
        run: Timestamp,
        reason: &'static str,
        message: String,
    },
    /// The request can't be read.
    Refuse {
        message: String,
    },
    /// The request was recorded before.
    Acknowledge,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleStep {
    pub origin: RunOrigin,
    pub action: RunAction,
}

/// What is done about a schedule now, in this order, and what waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulePlan {
    pub steps: Vec<ScheduleStep>,
    pub waits: Option<RunWait>,
}

/// Decides about the run that is due, and about the one that a person requested.
pub fn plan(timer: &ScheduleTimer, observed: &ScheduleObserved, now: Timestamp) -> SchedulePlan {
    let mut plan = SchedulePlan::default();
    match timer.due(now) {
        ScheduleDue::Wait { .. } => {}
        ScheduleDue::Missed(run) => {
            let message = format!("the run of {run} was missed for longer than missedRunDeadlineSeconds");
            plan.push(RunOrigin::Schedule, RunAction::LeaveOut { run, reason: "RunMissed", message });
        }
        ScheduleDue::Run(run) => plan.add(RunOrigin::Schedule, run, timer, observed, now),
    }
    let Some(request) = &observed.request else { return plan };
    match wanted(request, now) {
        None => {
            let message =
                format!("run-requested-at {request:?} is no time: write one as RFC 3339 has it, not ahead of now");
            plan.push(RunOrigin::Request, RunAction::Refuse { message });
        }
        Some(at) if observed.last_requested.is_some_and(|last| last >= at) => {
            plan.push(RunOrigin::Request, RunAction::Acknowledge);
        }
        Some(at) => plan.add(RunOrigin::Request, at, timer, observed, now),
    }
    plan
}

impl SchedulePlan {
    fn add(
        &mut self,
        origin: RunOrigin,
        run: Timestamp,
        timer: &ScheduleTimer,
        observed: &ScheduleObserved,
        now: Timestamp,
    ) {
        let tasks = tasks(&timer.row, &timer.spec, &observed.experts, run, now);
        let seen = RunObserved { tasks: tasks.len(), ..observed.run.clone() };
        let (policy, seen) = match origin {
            RunOrigin::Schedule => (timer.spec.concurrency_policy, seen),
            // Whatever the time, and although the schedule is suspended; not past its gate.
            RunOrigin::Request => {
                (ConcurrencyPolicy::Allow, RunObserved { suspended: false, still_running: false, ..seen })
            }
        };
        match decide(policy, run, &seen) {
            RunPlan::Hold { reason, message } => _ = self.waits.get_or_insert(RunWait { reason, message }),
            RunPlan::LeaveOut { reason, message } => self.push(origin, RunAction::LeaveOut { run, reason, message }),
            RunPlan::Fire { replace } => self.push(origin, RunAction::Fire { run, tasks, replace }),
        }
    }

    fn push(&mut self, origin: RunOrigin, action: RunAction) {
        self.steps.push(ScheduleStep { origin, action });
    }
}

/// What stands for or against a run that is due.
#[derive(Clone, Debug, Default)]
pub struct RunObserved {
    pub suspended: bool,
    /// mode: Observe, or the whole process only observes.
    pub observes: bool,
    pub queue_missing: bool,
    /// Its gate.
    pub held: Option<String>,
    /// How many tasks the run would insert.
    pub tasks: usize,
    /// Whether tasks of an earlier run live. Asked only with `Forbid`.
    pub still_running: bool,
}

/// What becomes of a run that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RunPlan {
    /// Its tasks are inserted; with `replace` those of earlier runs are cancelled.
    Fire { replace: bool },
    /// It is recorded as done without any task.
    LeaveOut { reason: &'static str, message: String },
    /// It stays due.
    Hold { reason: &'static str, message: String },
}

/// Decides about a run that is due.
fn decide(policy: ConcurrencyPolicy, run: Timestamp, seen: &RunObserved) -> RunPlan {
    let hold = |reason, message: String| RunPlan::Hold { reason, message };
    let run = second(run);
    if seen.suspended {
        return RunPlan::LeaveOut { reason: "Suspended", message: format!("the run of {run} is left out: suspended") };
    }
    if seen.queue_missing {
        return hold("QueueMissing", format!("the run of {run} waits for its queue"));
    }
    if let Some(held) = &seen.held {
        return hold("Held", format!("the run of {run} {held}"));
    }
    if seen.tasks == 0 {
        return hold("ExpertMissing", format!("the run of {run} waits: forEachExpert selects no expert"));
    }
    if seen.still_running && policy == ConcurrencyPolicy::Forbid {
        let message =
            format!("the run of {run} is left out: tasks of an earlier one have not ended (concurrencyPolicy: Forbid)");
        return RunPlan::LeaveOut { reason: "StillRunning", message };
    }
    if seen.observes {
        let message = format!("would insert {} for the run of {run}", number_of(seen.tasks, "task"));
        return RunPlan::LeaveOut { reason: "WouldFire", message };
    }
    RunPlan::Fire { replace: policy == ConcurrencyPolicy::Replace }
}

/// The second in which a run is due: one that a person requested begins within it.
pub fn second(run: Timestamp) -> Timestamp {
    Timestamp::from_second(run.as_second()).unwrap_or(run)
}

/// The tasks of a run: one, or one for each expert that is selected and not suspended.
fn tasks(
    schedule: &DeclaredRow,
    spec: &TaskScheduleSpec,
    experts: &[DeclaredRow],
    run: Timestamp,
    now: Timestamp,
) -> Vec<NewTask> {
    let one = |expert: Option<&str>, domain: Option<String>| new_task(schedule, spec, expert, domain, run, now);
    let Some(selector) = &spec.for_each_expert else {
        return vec![one(spec.task.expert.as_deref(), None)];
    };
    let mut selected: Vec<&DeclaredRow> = experts
        .iter()
        .filter(|expert| expert.namespace == schedule.namespace && !expert.suspended)
        .filter(|expert| selector.matches(&expert.labels))
        .collect();
    selected.sort_by(|a, b| a.name.cmp(&b.name));
    let first_domain = |expert: &DeclaredRow| {
        let spec: Option<ExpertSpec> = serde_json::from_value(expert.spec.clone()).ok();
        spec.and_then(|spec| spec.domains.into_iter().next())
    };
    selected.into_iter().map(|expert| one(Some(&expert.name), first_domain(expert))).collect()
}

fn new_task(
    schedule: &DeclaredRow,
    spec: &TaskScheduleSpec,
    expert: Option<&str>,
    expert_domain: Option<String>,
    run: Timestamp,
    now: Timestamp,
) -> NewTask {
    let task = &spec.task;
    let mut labels: BTreeMap<String, String> = task.labels.clone();
    labels.insert(SCHEDULE.to_owned(), schedule.name.clone());
    labels.insert(RUN.to_owned(), run.to_string());
    let messages = task.messages.as_ref().map(|messages| {
        messages.iter().map(|m| Message { role: m.role.clone(), content: m.content.clone() }).collect()
    });
    NewTask {
        namespace: schedule.namespace.clone(),
        queue: spec.queue_ref.name.clone(),
        domain: task.domain.clone().or(expert_domain).unwrap_or_default(),
        role: task.role.clone().unwrap_or_default(),
        payload: Payload {
            prompt: task.prompt.clone(),
            messages,
            input: task.input.clone(),
            data: task.data.clone().map(Into::into),
            schema: task.schema.clone().map(Into::into),
            max_tokens: task.max_tokens,
        },
        model: task.model.clone(),
        priority: task.priority,
        deadline: task.deadline_seconds.and_then(|s| now.checked_add(SignedDuration::from_secs(s.into())).ok()),
        labels,
        expert: expert.map(str::to_owned),
        ..NewTask::default()
    }
}

/// When a person wants a run: a time as RFC 3339 has it, or seconds since 1970. One that is far ahead is none.
fn wanted(token: &str, now: Timestamp) -> Option<Timestamp> {
    const AHEAD: SignedDuration = SignedDuration::from_mins(5);
    let seconds = || token.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let at: Timestamp = token.parse().ok().or_else(seconds)?;
    (at.duration_since(now) <= AHEAD).then_some(at)
}

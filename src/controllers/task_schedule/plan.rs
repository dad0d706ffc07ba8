//! What the clock does about a schedule now: data, from its timer and what was observed. Pure.

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn said(plan: &SchedulePlan) -> Vec<String> {
        let step = |step: &ScheduleStep| match &step.action {
            RunAction::Fire { run, tasks, replace } => format!("Fire {run} {} {replace}", tasks.len()),
            RunAction::LeaveOut { run, reason, .. } => format!("LeaveOut {run} {reason}"),
            RunAction::Refuse { .. } => "Refuse".to_owned(),
            RunAction::Acknowledge => "Acknowledge".to_owned(),
        };
        let waits = plan.waits.iter().map(|waits| format!("waits {}", waits.reason));
        plan.steps.iter().map(|of| format!("{:?} {}", of.origin, step(of))).chain(waits).collect()
    }

    #[test]
    fn a_request_runs_beside_the_schedule_and_each_once() {
        let spec = json!({
            "queueRef": {"name": "q"}, "schedule": "0 3 * * *", "task": {"prompt": "x"}, "concurrencyPolicy": "Forbid",
        });
        let now = at("2026-01-02T03:00:05Z");
        let created = Some(at("2026-01-01T12:00:00Z"));
        let timer = ScheduleTimer::new(row("TaskSchedule", "nightly", &[], spec), created, None, now).unwrap();
        let asked = "2026-01-02T03:00:04Z";
        let (due, by_hand) =
            ("Schedule Fire 2026-01-02T03:00:00Z 1 false", "Request Fire 2026-01-02T03:00:04Z 1 false");
        let well = RunObserved::default;
        let against = || RunObserved { suspended: true, still_running: true, ..well() };
        let held = || RunObserved { held: Some("waits for x".into()), ..well() };
        for (what, run, request, last, expected) in [
            ("due alone", well(), None, None, vec![due]),
            ("both", well(), Some(asked), None, vec![due, by_hand]),
            (
                "a suspension and an earlier run hold only the schedule's",
                against(),
                Some(asked),
                Some("2026-01-01T00:00:00Z"),
                vec!["Schedule LeaveOut 2026-01-02T03:00:00Z Suspended", by_hand],
            ),
            ("a gate holds both", held(), Some(asked), None, vec!["waits Held"]),
            ("recorded before", well(), Some(asked), Some(asked), vec![due, "Request Acknowledge"]),
            ("no time", well(), Some("soon"), None, vec![due, "Request Refuse"]),
        ] {
            let request = request.map(str::to_owned);
            let observed = ScheduleObserved { run, experts: Vec::new(), request, last_requested: last.map(at) };
            assert_eq!(said(&plan(&timer, &observed, now)), expected, "{what}");
        }
        let nothing = ScheduleObserved { run: well(), experts: Vec::new(), request: None, last_requested: None };
        let late = at("2026-01-02T19:00:00Z");
        assert_eq!(said(&plan(&timer, &nothing, late)), ["Schedule LeaveOut 2026-01-02T03:00:00Z RunMissed"]);
    }

    #[test]
    fn a_run_is_fired_unless_something_stands_against_it() {
        use ConcurrencyPolicy::{Allow, Forbid, Replace};
        let well = || RunObserved { tasks: 2, ..RunObserved::default() };
        let running = || RunObserved { still_running: true, ..well() };
        let run = at("2026-01-02T03:00:00Z");
        for (what, policy, seen, expected) in [
            ("all well", Allow, well(), "Fire false"),
            ("allowed beside", Allow, running(), "Fire false"),
            ("forbidden beside", Forbid, running(), "LeaveOut StillRunning"),
            ("forbidden, and alone", Forbid, well(), "Fire false"),
            ("replaced", Replace, running(), "Fire true"),
            ("replaced, as far as is known then", Replace, well(), "Fire true"),
            ("suspended", Allow, RunObserved { suspended: true, ..well() }, "LeaveOut Suspended"),
            ("held", Allow, RunObserved { held: Some("waits for x".into()), ..well() }, "Hold Held"),
            ("no queue", Allow, RunObserved { queue_missing: true, ..well() }, "Hold QueueMissing"),
            ("no expert", Allow, RunObserved { tasks: 0, ..well() }, "Hold ExpertMissing"),
            ("observing", Allow, RunObserved { observes: true, ..well() }, "LeaveOut WouldFire"),
        ] {
            let said = match decide(policy, run, &seen) {
                RunPlan::Fire { replace } => format!("Fire {replace}"),
                RunPlan::LeaveOut { reason, .. } => format!("LeaveOut {reason}"),
                RunPlan::Hold { reason, .. } => format!("Hold {reason}"),
            };
            assert_eq!(said, expected, "{what}");
        }
    }

    fn row(kind: &str, name: &str, labels: &[(&str, &str)], spec: serde_json::Value) -> DeclaredRow {
        DeclaredRow {
            uid: name.into(),
            kind: kind.into(),
            namespace: "team".into(),
            name: name.into(),
            generation: 1,
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            spec,
            suspended: false,
            held: None,
        }
    }

    #[test]
    fn each_selected_expert_gets_a_task_in_its_first_domain() {
        let expert = |name: &str, team: &str| {
            row("Expert", name, &[("team", team)], json!({"model": "m", "domains": [name, "x"]}))
        };
        let mut idle = expert("idle", "a");
        idle.suspended = true;
        let elsewhere = DeclaredRow { namespace: "others".into(), ..expert("elsewhere", "a") };
        let experts = [expert("zoe", "a"), expert("igor", "a"), expert("bob", "b"), idle, elsewhere];
        let made = |task: serde_json::Value, selector: serde_json::Value| {
            let mut spec = json!({"queueRef": {"name": "default"}, "schedule": "@daily", "task": task});
            if !selector.is_null() {
                spec["forEachExpert"] = selector;
            }
            let schedule = row("TaskSchedule", "nightly", &[], spec.clone());
            let spec: TaskScheduleSpec = serde_json::from_value(spec).unwrap();
            tasks(&schedule, &spec, &experts, at("2026-01-02T03:00:00Z"), at("2026-01-02T03:00:07Z"))
        };
        let names = |tasks: &[NewTask]| -> Vec<(Option<String>, String)> {
            tasks.iter().map(|t| (t.expert.clone(), t.domain.clone())).collect()
        };
        let who = |name: &str, domain: &str| (Some(name.to_owned()), domain.to_owned());
        let all = made(json!({"prompt": "Learn.", "deadlineSeconds": 60}), json!({}));
        assert_eq!(names(&all), [who("bob", "bob"), who("igor", "igor"), who("zoe", "zoe")]);
        assert_eq!(all[0].labels[SCHEDULE], "nightly");
        assert_eq!(all[0].labels[RUN], "2026-01-02T03:00:00Z");
        assert_eq!(all[0].deadline, Some(at("2026-01-02T03:01:07Z")));
        let team = made(json!({"prompt": "x", "domain": "news"}), json!({"matchLabels": {"team": "a"}}));
        assert_eq!(names(&team), [who("igor", "news"), who("zoe", "news")]);
        assert!(made(json!({"prompt": "x"}), json!({"matchLabels": {"team": "c"}})).is_empty());
        let single = made(json!({"prompt": "x", "role": "r"}), serde_json::Value::Null);
        assert_eq!(names(&single), [(None, String::new())]);
    }

    #[test]
    fn a_wish_is_a_time_that_is_not_far_ahead() {
        let now = at("2026-01-02T03:00:00Z");
        assert_eq!(wanted("2026-01-02T02:59:59.5Z", now), Some(at("2026-01-02T02:59:59.5Z")));
        assert_eq!(wanted("1767322800", now), Some(at("2026-01-02T03:00:00Z")));
        for bad in ["", "now", "2026-01-02T03:06:00Z", "99999999999999999999"] {
            assert_eq!(wanted(bad, now), None, "{bad}");
        }
    }
}

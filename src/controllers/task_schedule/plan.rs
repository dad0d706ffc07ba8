//! What to do about a schedule now: data, from its spec, when it last ran, and what was seen.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    api::{ConcurrencyPolicy, ExpertSpec, TaskScheduleSpec, number_of},
    store::DeclaredRow,
    tasks::{Message, NewTask, Payload},
};

use super::calendar::Calendar;

/// Label of the tasks of a schedule: its name.
pub const SCHEDULE: &str = "ostler.dev/schedule";
/// Label of the tasks of a run: the time that was due.
pub const RUN: &str = "ostler.dev/run";

/// Field of a projected schedule, beside its spec: since when its time has been as it is.
const BEGINS: &str = "begins";

/// Since when a schedule's time has been as it is: it makes up for nothing before that. `known` is what was projected of it before, by
/// this leader or an earlier one.
pub fn begins(
    known: Option<&Value>,
    spec: &TaskScheduleSpec,
    created_at: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    let created_at = created_at.unwrap_or(now).min(now);
    match known {
        None => created_at,
        Some(known) if known["schedule"] != spec.schedule || known["timeZone"] != spec.time_zone => now,
        Some(known) => begun(known).unwrap_or(created_at),
    }
}

/// A spec as it is projected, with [`begins`].
pub fn projected(mut spec: Value, begins: Timestamp) -> Value {
    spec[BEGINS] = begins.to_string().into();
    spec
}

/// [`begins`] of a projected spec.
pub fn begun(spec: &Value) -> Option<Timestamp> {
    spec[BEGINS].as_str()?.parse().ok()
}

/// Where a schedule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleDue {
    /// Not before then; `None`: never again.
    Wait { until: Option<Timestamp> },
    /// This run is due; earlier ones that were missed are made up for by it.
    Run(Timestamp),
    /// It was missed for too long.
    Missed(Timestamp),
}

/// What is due after `base`, the last run that was fired or left out.
pub fn due(calendar: &Calendar, base: Timestamp, missed_for: SignedDuration, now: Timestamp) -> ScheduleDue {
    let Some(first) = calendar.after(base) else { return ScheduleDue::Wait { until: None } };
    if first > now {
        return ScheduleDue::Wait { until: Some(first) };
    }
    let run = calendar.last_until(first, now);
    if now.duration_since(run) > missed_for { ScheduleDue::Missed(run) } else { ScheduleDue::Run(run) }
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
pub enum RunPlan {
    /// Its tasks are inserted; with `replace` those of earlier runs are cancelled.
    Fire { replace: bool },
    /// It is recorded as done without any task.
    LeaveOut { reason: &'static str, message: String },
    /// It stays due.
    Hold { reason: &'static str, message: String },
}

/// Decides about a run that is due.
pub fn decide(policy: ConcurrencyPolicy, run: Timestamp, seen: &RunObserved) -> RunPlan {
    let hold = |reason, message: String| RunPlan::Hold { reason, message };
    // One that a person asked for begins within a second.
    let run = Timestamp::from_second(run.as_second()).unwrap_or(run);
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

/// The tasks of a run: one, or one for each expert that is selected and not suspended.
pub fn tasks(
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
pub fn wanted(token: &str, now: Timestamp) -> Option<Timestamp> {
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

    #[test]
    fn missed_runs_are_made_up_for_by_one_unless_too_long_ago() {
        let daily = Calendar::parse("0 3 * * *", "UTC").unwrap();
        let deadline = SignedDuration::from_hours(12);
        for (what, base, now, expected) in [
            (
                "before its time",
                "2026-01-01T03:00:00Z",
                "2026-01-02T02:59:59Z",
                ScheduleDue::Wait { until: Some(at("2026-01-02T03:00:00Z")) },
            ),
            (
                "at its time",
                "2026-01-01T03:00:00Z",
                "2026-01-02T03:00:00Z",
                ScheduleDue::Run(at("2026-01-02T03:00:00Z")),
            ),
            (
                "a little late",
                "2026-01-01T03:00:00Z",
                "2026-01-02T08:00:00Z",
                ScheduleDue::Run(at("2026-01-02T03:00:00Z")),
            ),
            (
                "a week late: the last one",
                "2026-01-01T03:00:00Z",
                "2026-01-08T03:30:00Z",
                ScheduleDue::Run(at("2026-01-08T03:00:00Z")),
            ),
            (
                "at the deadline",
                "2026-01-01T03:00:00Z",
                "2026-01-02T15:00:00Z",
                ScheduleDue::Run(at("2026-01-02T03:00:00Z")),
            ),
            (
                "past it",
                "2026-01-01T03:00:00Z",
                "2026-01-02T15:00:01Z",
                ScheduleDue::Missed(at("2026-01-02T03:00:00Z")),
            ),
            (
                "the clock went back",
                "2026-01-03T03:00:00Z",
                "2026-01-02T15:00:01Z",
                ScheduleDue::Wait { until: Some(at("2026-01-04T03:00:00Z")) },
            ),
        ] {
            assert_eq!(due(&daily, at(base), deadline, at(now)), expected, "{what}");
        }
    }

    #[test]
    fn a_schedule_s_time_begins_with_itself_or_with_its_last_change_whoever_leads() {
        let spec = |schedule: &str, zone: &str| -> TaskScheduleSpec {
            let spec =
                json!({"queueRef": {"name": "q"}, "schedule": schedule, "timeZone": zone, "task": {"prompt": "x"}});
            serde_json::from_value(spec).unwrap()
        };
        let daily = spec("0 3 * * *", "Europe/Berlin");
        let (created, changed, now) =
            (at("2026-01-01T00:00:00Z"), at("2026-01-05T00:00:00Z"), at("2026-01-09T00:00:00Z"));
        let of = |spec: &TaskScheduleSpec| serde_json::to_value(spec).unwrap();
        for (what, known, expected) in [
            ("a new one", None, created),
            ("as before", Some(projected(of(&daily), changed)), changed),
            ("by an earlier release", Some(of(&daily)), created),
            ("another time", Some(projected(of(&spec("0 4 * * *", "Europe/Berlin")), changed)), now),
            ("another zone", Some(projected(of(&spec("0 3 * * *", "UTC")), changed)), now),
        ] {
            assert_eq!(begins(known.as_ref(), &daily, Some(created), now), expected, "{what}");
        }
        assert_eq!(begins(None, &daily, Some(at("2027-01-01T00:00:00Z")), now), now, "clocks differ");
        assert_eq!(begun(&projected(of(&daily), changed)), Some(changed));
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

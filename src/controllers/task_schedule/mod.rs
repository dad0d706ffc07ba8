//! TaskSchedule: tasks that come by the clock.
//!
//! `calendar` and `plan` are pure; `fire` runs from the projections, so schedules go on while the API server is away; the
//! controller judges, projects, and tells what `fire` did.

mod calendar;
mod fire;
mod plan;
mod told;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::{
    RUN_CONTROL, RUN_REQUESTED_AT, TaskSchedule, TaskScheduleSpec, TaskScheduleState, TaskScheduleStatus,
};
use crate::tasks::schema;

use super::{
    declared::{ControlPlane, Declaration, DeclaredAssessment, DeclaredObserved, Declares, projected},
    error::StepError,
    shared::NamespacedName,
};

use calendar::Calendar;
use told::{RunWait, ScheduleReport};

pub use calendar::check_schedule;
pub use fire::watch_clock;
pub use told::ScheduleRuns;

/// The kind's own part.
pub struct TaskSchedules {
    pub world: Arc<ControlPlane>,
    pub runs: ScheduleRuns,
}

/// What is looked at beside the object.
#[derive(Clone, Debug, Default)]
pub struct TaskScheduleObserved {
    pub queue_missing: bool,
    /// `task.expert` names nobody, or forEachExpert selects nobody.
    pub expert_missing: Option<String>,
    /// What was projected of it before.
    pub known: Option<serde_json::Value>,
    pub created_at: Option<Timestamp>,
    /// What the clock did with it.
    told: ScheduleReport,
}

#[async_trait]
impl Declares for TaskSchedules {
    type Object = TaskSchedule;
    type Status = TaskScheduleStatus;
    type Facts = TaskScheduleObserved;

    const KIND: &'static str = "TaskSchedule";

    fn parts(object: &TaskSchedule) -> Declaration<'_, TaskScheduleStatus> {
        let TaskScheduleSpec { suspend, requires, .. } = &object.spec;
        Declaration { suspend: *suspend, requires, status: object.status.as_ref(), spec: projected(&object.spec) }
    }

    async fn facts(&self, object: &TaskSchedule, key: &NamespacedName) -> Result<TaskScheduleObserved, StepError> {
        let uid = object.uid().unwrap_or_default();
        let (spec, feeds) = (&object.spec, &self.world.feeds);
        let queue = |q: &crate::api::TaskQueue| {
            NamespacedName::of(q) == NamespacedName::new(&key.namespace, &spec.queue_ref.name)
        };
        // Who is told of runs must know the object first: its age is where its runs begin, and its wishes are annotations.
        let wish = self.world.shared.wishes.requested_at(object, RUN_REQUESTED_AT, RUN_CONTROL, key);
        let created_at = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        self.runs.known(&uid, created_at, wish);
        Ok(TaskScheduleObserved {
            known: self.known(&uid).await?,
            created_at,
            queue_missing: feeds.queues.objects.state_filter(queue).is_empty(),
            expert_missing: self.expert_missing(spec, key),
            told: self.runs.told(&uid),
        })
    }

    fn judge(
        object: &TaskSchedule,
        seen: &DeclaredObserved<TaskScheduleObserved>,
        now: Timestamp,
    ) -> DeclaredAssessment<TaskScheduleStatus> {
        judge(&object.spec, object.status.as_ref(), seen, now)
    }
}

impl TaskSchedules {
    async fn known(&self, uid: &str) -> Result<Option<serde_json::Value>, StepError> {
        let row = if self.world.book.is_loaded() {
            self.world.book.row(uid)
        } else {
            self.world.parts.store.declared(Self::KIND).await?.into_iter().find(|row| row.uid == uid)
        };
        Ok(row.map(|row| row.spec))
    }

    fn expert_missing(&self, spec: &TaskScheduleSpec, key: &NamespacedName) -> Option<String> {
        let experts = &self.world.feeds.experts.objects;
        let here = |e: &crate::api::Expert| e.metadata.namespace.as_deref() == Some(&key.namespace);
        if let Some(selector) = &spec.for_each_expert {
            let selected = experts.state_filter(|e| here(e) && selector.matches(e.labels()));
            return selected.is_empty().then(|| "forEachExpert selects no Expert of this namespace".to_owned());
        }
        let name = spec.task.expert.as_ref()?;
        let named = experts.state_filter(|e| here(e) && e.name_any() == *name);
        named.is_empty().then(|| format!("task.expert: there is no Expert {name} in this namespace"))
    }
}

fn judge(
    spec: &TaskScheduleSpec,
    old: Option<&TaskScheduleStatus>,
    seen: &DeclaredObserved<TaskScheduleObserved>,
    now: Timestamp,
) -> DeclaredAssessment<TaskScheduleStatus> {
    let told = &seen.facts.told;
    let calendar = Calendar::parse(&spec.schedule, &spec.time_zone);
    let next = calendar.as_ref().ok().and_then(|calendar| calendar.after(now)).filter(|_| !seen.suspended);
    let status = TaskScheduleStatus {
        last_handled_run_at: told.handled_wish.clone().or_else(|| old?.last_handled_run_at.clone()),
        last_run_time: told.last_run.map(|(at, _)| Time(at)).or_else(|| old?.last_run_time.clone()),
        last_run_tasks: told.last_run.map(|(_, tasks)| tasks).or_else(|| old?.last_run_tasks),
        next_run_time: next.map(Time),
        ..TaskScheduleStatus::default()
    };
    let of = |state, ready, stalled, message: String| {
        DeclaredAssessment::new(state, ready, stalled, message, status.clone())
    };
    let mut judged = if let Err(why) = &calendar {
        of(TaskScheduleState::InvalidSchedule, false, true, why.clone())
    } else if let Some(why) = unusable_schema(spec) {
        of(TaskScheduleState::InvalidSchedule, false, true, why)
    } else if seen.suspended {
        of(TaskScheduleState::Suspended, false, false, "suspended: it does not fire, and makes up for nothing".into())
    } else if seen.facts.queue_missing {
        let message = format!("queueRef: there is no TaskQueue {} in this namespace", spec.queue_ref.name);
        of(TaskScheduleState::QueueMissing, false, true, message)
    } else if let Some(why) = &seen.facts.expert_missing {
        of(TaskScheduleState::ExpertMissing, false, true, why.clone())
    } else if let Some(RunWait { message, .. }) = &told.waits {
        of(TaskScheduleState::Held, false, false, message.clone())
    } else {
        let message = format!("fires at {:?} in {}", spec.schedule, spec.time_zone);
        of(TaskScheduleState::Scheduled, true, false, message)
    };
    let begins = plan::begins(seen.facts.known.as_ref(), spec, seen.facts.created_at, now);
    judged.spec = Some(plan::projected(projected(spec), begins));
    judged.notes.clone_from(&told.notes);
    judged.again = seen.gate.opens_at.and_then(|at| std::time::Duration::try_from(at.duration_since(now)).ok());
    judged
}

/// Why no answer to its tasks could be checked.
fn unusable_schema(spec: &TaskScheduleSpec) -> Option<String> {
    let schema = serde_json::Value::Object(spec.task.schema.clone()?);
    schema::check(&schema).err().map(|schema::Unusable { field, why }| format!("task.schema{field}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::declared::Gate;
    use serde_json::json;

    fn judged(schedule: &str, suspended: bool, facts: TaskScheduleObserved) -> DeclaredAssessment<TaskScheduleStatus> {
        judged_of(json!({"queueRef": {"name": "q"}, "schedule": schedule, "task": {"prompt": "x"}}), suspended, facts)
    }

    fn judged_of(
        spec: serde_json::Value,
        suspended: bool,
        facts: TaskScheduleObserved,
    ) -> DeclaredAssessment<TaskScheduleStatus> {
        let spec: TaskScheduleSpec = serde_json::from_value(spec).unwrap();
        let seen = DeclaredObserved {
            key: NamespacedName::new("team", "nightly"),
            uid: "u".into(),
            suspended,
            gate: Gate::default(),
            handled_reconcile: None,
            facts,
        };
        let old: TaskScheduleStatus = serde_json::from_value(json!({"lastRunTasks": 7})).unwrap();
        judge(&spec, Some(&old), &seen, "2026-01-01T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_schema_that_can_not_be_used_is_told_before_anything_fires() {
        let schema = json!({"properties": {"a": {"pattern": "(?=b)"}}});
        let spec =
            json!({"queueRef": {"name": "q"}, "schedule": "0 3 * * *", "task": {"prompt": "x", "schema": schema}});
        let judged = judged_of(spec, false, TaskScheduleObserved::default());
        assert_eq!((judged.state, judged.ready, judged.stalled), (TaskScheduleState::InvalidSchedule, false, true));
        assert!(judged.message.starts_with("task.schema.properties.a.pattern: is \"(?=b)\""), "{}", judged.message);
    }

    #[test]
    fn a_schedule_says_when_it_fires_or_why_it_does_not() {
        let waits = || TaskScheduleObserved {
            told: ScheduleReport {
                waits: Some(RunWait { reason: "Held", message: "waits for ollama".into() }),
                ..ScheduleReport::default()
            },
            ..TaskScheduleObserved::default()
        };
        let no_queue = || TaskScheduleObserved { queue_missing: true, ..TaskScheduleObserved::default() };
        for (what, schedule, suspended, facts, state, ready, stalled, next) in [
            (
                "well",
                "0 3 * * *",
                false,
                TaskScheduleObserved::default(),
                TaskScheduleState::Scheduled,
                true,
                false,
                true,
            ),
            (
                "unreadable",
                "61 * * * *",
                false,
                TaskScheduleObserved::default(),
                TaskScheduleState::InvalidSchedule,
                false,
                true,
                false,
            ),
            ("suspended", "0 3 * * *", true, no_queue(), TaskScheduleState::Suspended, false, false, false),
            ("no queue", "0 3 * * *", false, no_queue(), TaskScheduleState::QueueMissing, false, true, true),
            ("held", "0 3 * * *", false, waits(), TaskScheduleState::Held, false, false, true),
        ] {
            let judged = judged(schedule, suspended, facts);
            assert_eq!((judged.state, judged.ready, judged.stalled), (state, ready, stalled), "{what}");
            assert_eq!(judged.status.next_run_time.is_some(), next, "{what}");
            assert_eq!(judged.status.last_run_tasks, Some(7), "{what}: the last run is remembered");
        }
    }
}

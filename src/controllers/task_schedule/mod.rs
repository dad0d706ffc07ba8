//! TaskSchedule: tasks that come by the clock.
//!
//! The clock runs from the projections, so schedules go on while the API server is away; the controller judges, projects, and
//! tells what the clock did. `calendar`, `timer` and `plan` are pure.

mod calendar;
mod clock;
mod plan;
mod runs;
mod timer;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::{
    Kind, RUN_CONTROL, RUN_REQUESTED_AT, Requirement, TaskSchedule, TaskScheduleSpec, TaskScheduleState,
    TaskScheduleStatus,
};
use crate::tasks::schema;

use super::{
    declared::{ControlPlane, DeclaredObserved, DeclaredPlan, Declares, Gate, PlanOf, projected},
    error::StepError,
    shared::NamespacedName,
};

use calendar::Calendar;
use runs::{RunWait, ScheduleReport};

pub use calendar::check_schedule;
pub use clock::watch_clock;
pub use runs::ScheduleRuns;

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
    /// The last run that was requested.
    pub request: Option<String>,
    /// What the clock did with it.
    report: ScheduleReport,
}

#[async_trait]
impl Declares for TaskSchedules {
    type Object = TaskSchedule;
    type Observed = TaskScheduleObserved;
    type Action = ();

    const KIND: Kind = Kind::TaskSchedule;

    fn declared(spec: &TaskScheduleSpec) -> (bool, &[Requirement]) {
        (spec.suspend, &spec.requires)
    }

    async fn observe(&self, object: &TaskSchedule, base: &DeclaredObserved) -> Result<TaskScheduleObserved, StepError> {
        let (spec, key, feeds) = (&object.spec, &base.key, &self.world.feeds);
        let queue = |q: &crate::api::TaskQueue| {
            NamespacedName::of(q) == NamespacedName::new(&key.namespace, &spec.queue_ref.name)
        };
        Ok(TaskScheduleObserved {
            known: self.known(&base.uid).await?,
            created_at: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            request: self.world.shared.wishes.requested_at(object, RUN_REQUESTED_AT, RUN_CONTROL, key),
            queue_missing: feeds.queues.objects.state_filter(queue).is_empty(),
            expert_missing: self.expert_missing(spec, key),
            report: self.runs.report(&base.uid),
        })
    }

    fn plan(
        object: &TaskSchedule,
        observed: &DeclaredObserved<TaskScheduleObserved>,
        _: &Gate,
        now: Timestamp,
    ) -> PlanOf<Self> {
        assess(&object.spec, object.status.as_ref(), observed, now)
    }

    /// The clock learns of the object: its age is where its runs begin, and its requests are annotations.
    async fn apply(
        &self,
        _: &TaskSchedule,
        observed: &DeclaredObserved<TaskScheduleObserved>,
        _: &mut PlanOf<Self>,
    ) -> Result<(), StepError> {
        let TaskScheduleObserved { created_at, request, report, .. } = &observed.facts;
        self.runs.known(&observed.uid, *created_at, request.clone());
        self.runs.published(&observed.uid, report.notes.len());
        Ok(())
    }
}

impl TaskSchedules {
    async fn known(&self, uid: &str) -> Result<Option<serde_json::Value>, StepError> {
        let row = if self.world.book.is_loaded() {
            self.world.book.row(uid)
        } else {
            self.world.parts.store.declared(Self::KIND.as_str()).await?.into_iter().find(|row| row.uid == uid)
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

fn assess(
    spec: &TaskScheduleSpec,
    old: Option<&TaskScheduleStatus>,
    observed: &DeclaredObserved<TaskScheduleObserved>,
    now: Timestamp,
) -> DeclaredPlan<TaskScheduleStatus> {
    let TaskScheduleObserved { report, known, created_at, .. } = &observed.facts;
    let calendar = Calendar::parse(&spec.schedule, &spec.time_zone);
    let next = calendar.as_ref().ok().and_then(|calendar| calendar.after(now)).filter(|_| !observed.suspended);
    let status = TaskScheduleStatus {
        last_handled_run_at: report.handled_request.clone().or_else(|| old?.last_handled_run_at.clone()),
        last_run_time: report.last_run.map(|(at, _)| Time(at)).or_else(|| old?.last_run_time.clone()),
        last_run_tasks: report.last_run.map(|(_, tasks)| tasks).or_else(|| old?.last_run_tasks),
        next_run_time: next.map(Time),
        ..TaskScheduleStatus::default()
    };
    let of = |state, ready, stalled, message: String| DeclaredPlan::new(state, ready, stalled, message, status.clone());
    let plan = if let Err(why) = &calendar {
        of(TaskScheduleState::InvalidSchedule, false, true, why.clone())
    } else if let Some(why) = unusable_schema(spec) {
        of(TaskScheduleState::InvalidSchedule, false, true, why)
    } else if observed.suspended {
        of(TaskScheduleState::Suspended, false, false, "suspended: it does not fire, and makes up for nothing".into())
    } else if observed.facts.queue_missing {
        let message = format!("queueRef: there is no TaskQueue {} in this namespace", spec.queue_ref.name);
        of(TaskScheduleState::QueueMissing, false, true, message)
    } else if let Some(why) = &observed.facts.expert_missing {
        of(TaskScheduleState::ExpertMissing, false, true, why.clone())
    } else if let Some(RunWait { message, .. }) = &report.waits {
        of(TaskScheduleState::Held, false, false, message.clone())
    } else {
        let message = format!("fires at {:?} in {}", spec.schedule, spec.time_zone);
        of(TaskScheduleState::Scheduled, true, false, message)
    };
    let begins = timer::begins(known.as_ref(), spec, *created_at, now);
    let spec = Some(timer::projected(projected(spec), begins));
    DeclaredPlan { spec, notes: report.notes.clone(), ..plan }
}

/// Why no answer to its tasks could be checked.
fn unusable_schema(spec: &TaskScheduleSpec) -> Option<String> {
    let schema = serde_json::Value::Object(spec.task.schema.clone()?);
    schema::check(&schema).err().map(|schema::Unusable { field, why }| format!("task.schema{field}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(schedule: &str, suspended: bool, facts: TaskScheduleObserved) -> DeclaredPlan<TaskScheduleStatus> {
        judged_of(json!({"queueRef": {"name": "q"}, "schedule": schedule, "task": {"prompt": "x"}}), suspended, facts)
    }

    fn judged_of(
        spec: serde_json::Value,
        suspended: bool,
        facts: TaskScheduleObserved,
    ) -> DeclaredPlan<TaskScheduleStatus> {
        let spec: TaskScheduleSpec = serde_json::from_value(spec).unwrap();
        let observed = DeclaredObserved {
            key: NamespacedName::new("team", "nightly"),
            uid: "u".into(),
            suspended,
            requirements: Vec::new(),
            handled_reconcile: None,
            facts,
        };
        let old: TaskScheduleStatus = serde_json::from_value(json!({"lastRunTasks": 7})).unwrap();
        assess(&spec, Some(&old), &observed, "2026-01-01T12:00:00Z".parse().unwrap())
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
            report: ScheduleReport {
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

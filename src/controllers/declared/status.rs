//! What the status of every such kind is made of.

use std::{fmt::Debug, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use crate::{
    api::{
        Condition, ConditionStatus, ContainerHealthCheckState, ContainerHealthCheckStatus, ExpertState, ExpertStatus,
        TaskQueueState, TaskQueueStatus, TaskScheduleState, TaskScheduleStatus, WorkerPoolState, WorkerPoolStatus,
        condition, set_condition,
    },
    platform::Note,
};

use super::{
    super::driver::{NOT_STALLED, SETTLED, stored_alike},
    DeclaredObserved,
};

/// The fields that every status has.
pub struct Common<'a, S> {
    pub observed_generation: &'a mut i64,
    pub state: &'a mut Option<S>,
    pub conditions: &'a mut Vec<Condition>,
    pub last_handled_reconcile_at: &'a mut Option<String>,
}

/// A status with those fields.
pub trait CommonStatus: Clone + Default + PartialEq + Serialize + Send + Sync + 'static {
    type State: Copy + Debug + PartialEq + Send + Sync;
    fn common(&mut self) -> Common<'_, Self::State>;
    /// Blanks what changes by itself, and is written only along with another change.
    fn forget_counts(&mut self) {}
}

macro_rules! common_status {
    ($status:ty, $state:ty, |$it:ident| $forget:block) => {
        impl CommonStatus for $status {
            type State = $state;
            fn common(&mut self) -> Common<'_, $state> {
                Common {
                    observed_generation: &mut self.observed_generation,
                    state: &mut self.state,
                    conditions: &mut self.conditions,
                    last_handled_reconcile_at: &mut self.last_handled_reconcile_at,
                }
            }
            fn forget_counts(&mut self) {
                let $it = self;
                $forget
            }
        }
    };
}

common_status!(ContainerHealthCheckStatus, ContainerHealthCheckState, |_it| {});
common_status!(ExpertStatus, ExpertState, |_it| {});
common_status!(TaskQueueStatus, TaskQueueState, |it| {
    (it.pending, it.in_progress) = (None, None);
});
common_status!(WorkerPoolStatus, WorkerPoolState, |it| {
    (it.effective_concurrency, it.limited_by) = (None, None);
});
common_status!(TaskScheduleStatus, TaskScheduleState, |_it| {});

/// What a pass makes of an object.
pub struct DeclaredAssessment<S: CommonStatus> {
    pub state: S::State,
    pub ready: bool,
    /// Only a person can mend it (kstatus: failed). Neither ready nor stalled nor suspended: it will be by itself.
    pub stalled: bool,
    /// What a person should know; never an age.
    pub message: String,
    /// What is projected instead of the spec as it stands.
    pub spec: Option<serde_json::Value>,
    /// Why it holds what it has, beside its gate.
    pub held: Option<String>,
    /// The kind's own fields; the common ones are filled in.
    pub status: S,
    pub notes: Vec<Note>,
    pub again: Option<Duration>,
    /// This term has not seen enough yet: what an earlier one said of the same generation holds.
    pub undecided: bool,
}

impl<S: CommonStatus> DeclaredAssessment<S> {
    pub fn new(state: S::State, ready: bool, stalled: bool, message: impl Into<String>, status: S) -> Self {
        let message = message.into();
        let (notes, again, undecided) = (Vec::new(), None, false);
        Self { state, ready, stalled, message, spec: None, held: None, status, notes, again, undecided }
    }
}

/// The whole status of a pass.
pub fn status<S: CommonStatus, F>(
    old: Option<&S>,
    seen: &DeclaredObserved<F>,
    judged: &DeclaredAssessment<S>,
    generation: i64,
    now: Timestamp,
) -> S {
    let mut new = judged.status.clone();
    let mut conditions = old.cloned().map(|mut old| std::mem::take(old.common().conditions)).unwrap_or_default();
    let mut set = |type_: &str, yes: bool, reason: &str, message: &str| {
        let condition = Condition {
            type_: type_.into(),
            status: yes.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Time(now),
            observed_generation: generation,
        };
        set_condition(&mut conditions, condition);
    };
    let word = format!("{:?}", judged.state);
    set("Ready", judged.ready, &word, &judged.message);
    let reconciling = !judged.ready && !judged.stalled && !seen.suspended;
    if reconciling {
        set("Reconciling", true, &word, &judged.message);
    } else {
        set("Reconciling", false, "Settled", SETTLED);
    }
    if judged.stalled {
        set("Stalled", true, &word, &judged.message);
    } else {
        set("Stalled", false, "NotStalled", NOT_STALLED);
    }
    match &seen.gate.held {
        Some(held) => set("Held", true, "RequirementNotMet", held),
        None => conditions.retain(|c| c.type_ != "Held"),
    }
    let common = new.common();
    *common.observed_generation = generation;
    *common.state = Some(judged.state);
    *common.conditions = conditions;
    *common.last_handled_reconcile_at = seen.handled_reconcile.clone();
    new
}

/// Whether something was said of this generation.
pub fn is_judged<S: CommonStatus>(old: Option<&S>, generation: i64) -> bool {
    let Some(mut old) = old.cloned() else { return false };
    let common = old.common();
    *common.observed_generation == generation && common.state.is_some()
}

/// Whether a status is worth a write: counts and times aside.
pub fn differs<S: CommonStatus>(old: Option<&S>, new: &S) -> bool {
    let steady = |status: &S| {
        let mut status = status.clone();
        status.forget_counts();
        for condition in status.common().conditions {
            condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        }
        status
    };
    old.is_none_or(|old| !stored_alike(&steady(old), &steady(new)))
}

/// Events of a change.
pub fn changes<S: CommonStatus>(old: Option<&S>, new: &S) -> Vec<Note> {
    let mut new = new.clone();
    let mut old = old.cloned();
    let state = *new.common().state;
    if old.as_mut().is_some_and(|old| *old.common().state == state) {
        return Vec::new();
    }
    let Some(ready) = condition(new.common().conditions, "Ready").cloned() else { return Vec::new() };
    let was_judged = old.as_mut().is_some_and(|old| old.common().state.is_some());
    let is_ready = ready.status == ConditionStatus::True;
    if is_ready && !was_judged {
        // That a new thing is well needs no event.
        return Vec::new();
    }
    vec![Note {
        warning: !is_ready && !matches!(ready.reason.as_str(), "Suspended" | "Held" | "Scaling" | "Waiting"),
        reason: ready.reason.clone(),
        action: "Judge".into(),
        message: ready.message.chars().take(500).collect(),
    }]
}

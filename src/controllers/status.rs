//! The status of every kind: computed from a pass, written only when it differs in more than times, and told as an event.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use crate::{
    api::{Condition, ConditionStatus, ResourceStatus, StatusBase, condition, set_condition},
    platform::Note,
};

/// What conditions say that have nothing to tell.
const SETTLED: &str = "nothing is being changed";
pub const NOT_STALLED: &str = "nothing needs a person";
/// Not ready for these reasons is no warning: it ends by itself, or is as a person wants it.
const EXPECTED: [&str; 4] = ["Suspended", "Held", "Scaling", "Waiting"];
/// Of an event's message, in characters.
const MOST_MESSAGE_CHARS: usize = 500;

/// What `Ready`, `Reconciling` and `Stalled` are computed from, as kstatus reads them.
#[derive(Clone, Copy, Debug)]
pub struct Readiness<'a> {
    pub ready: bool,
    /// Only a person can heal it.
    pub stalled: bool,
    pub suspended: bool,
    pub reason: &'a str,
    pub message: &'a str,
}

/// The conditions of a new status: those of the old one, until they are set.
pub struct Conditions {
    all: Vec<Condition>,
    generation: i64,
    now: Timestamp,
}

impl Conditions {
    pub fn new<S: ResourceStatus>(old: Option<&S>, generation: i64, now: Timestamp) -> Self {
        Self { all: old.map(|old| old.base().conditions.clone()).unwrap_or_default(), generation, now }
    }

    pub fn set(&mut self, type_: &str, status: impl Into<ConditionStatus>, reason: &str, message: &str) {
        let new = Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Time(self.now),
            observed_generation: self.generation,
        };
        set_condition(&mut self.all, new);
    }

    pub fn set_readiness(&mut self, readiness: Readiness<'_>) {
        let Readiness { ready, stalled, suspended, reason, message } = readiness;
        self.set("Ready", ready, reason, message);
        match ready || stalled || suspended {
            true => self.set("Reconciling", false, "Settled", SETTLED),
            false => self.set("Reconciling", true, reason, message),
        }
        match stalled {
            true => self.set("Stalled", true, reason, message),
            false => self.set("Stalled", false, "NotStalled", NOT_STALLED),
        }
    }

    pub fn remove(&mut self, type_: &str) {
        self.all.retain(|condition| condition.type_ != type_);
    }

    /// The fields that every status has.
    pub fn base<S>(self, state: S, handled_reconcile: Option<String>) -> StatusBase<S> {
        StatusBase {
            observed_generation: self.generation,
            state: Some(state),
            conditions: self.all,
            last_handled_reconcile_at: handled_reconcile,
        }
    }
}

/// Whether the last status is about this generation.
pub fn is_judged<S: ResourceStatus>(old: Option<&S>, generation: i64) -> bool {
    old.map(ResourceStatus::base).is_some_and(|base| base.observed_generation == generation && base.state.is_some())
}

/// Whether a status is worth a write: it differs in more than counts and times.
pub fn differs<S: ResourceStatus>(old: Option<&S>, new: &S) -> bool {
    let steady = |status: &S| {
        let mut status = status.clone();
        status.forget_counts();
        for condition in &mut status.base_mut().conditions {
            condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        }
        status
    };
    old.is_none_or(|old| !stored_alike(&steady(old), &steady(new)))
}

/// Whether two statuses are the same once they are stored: an API server keeps whole seconds of what has nanoseconds here.
fn stored_alike<S: Serialize>(old: &S, new: &S) -> bool {
    match (serde_json::to_value(old), serde_json::to_value(new)) {
        (Ok(old), Ok(new)) => old == new,
        _ => false,
    }
}

/// The event of a change of state. That a new object is ready needs none.
pub fn change<S: ResourceStatus>(old: Option<&S>, new: &S) -> Option<Note> {
    let before = old.and_then(|old| old.base().state);
    let ready = condition(&new.base().conditions, "Ready")?;
    let is_ready = ready.status == ConditionStatus::True;
    if old.is_some() && before == new.base().state || is_ready && before.is_none() {
        return None;
    }
    Some(note(!is_ready && !EXPECTED.contains(&ready.reason.as_str()), "Judge", ready))
}

/// An event with what a condition says.
pub fn note(warning: bool, action: &str, about: &Condition) -> Note {
    let message = about.message.chars().take(MOST_MESSAGE_CHARS).collect();
    Note { warning, reason: about.reason.clone(), action: action.into(), message }
}

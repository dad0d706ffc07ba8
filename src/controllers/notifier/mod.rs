//! Notifier: whether it could be told now, and what came of what it was to be told.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{Kind, Notifier, NotifierSpec, NotifierState, NotifierStatus, Requirement, number_of},
    notify::{Courier, SendError},
};

use super::{
    causes::{NotifierBook, quiet_time},
    declared::{ControlPlane, DeclaredObserved, DeclaredPlan, Declares, Gate, PlanOf},
    error::StepError,
};

/// Secrets are not watched: a changed one counts after this.
const AGAIN: Duration = Duration::from_secs(60);

/// The kind's own part.
pub struct Notifiers {
    world: Arc<ControlPlane>,
    courier: Courier,
}

impl Notifiers {
    pub fn new(world: Arc<ControlPlane>) -> Self {
        let courier = Courier::new(world.shared.secrets.clone(), world.parts.http.clone());
        Self { world, courier }
    }
}

/// What is looked at beside the object.
#[derive(Clone, Debug, Default)]
pub struct NotifierObserved {
    /// What a person must mend before anything can be sent.
    pub setup: Option<String>,
    pub book: NotifierBook,
}

#[async_trait]
impl Declares for Notifiers {
    type Object = Notifier;
    type Observed = NotifierObserved;
    type Action = ();

    const KIND: Kind = Kind::Notifier;

    fn declared(spec: &NotifierSpec) -> (bool, &[Requirement]) {
        (spec.suspend, &[])
    }

    async fn observe(&self, object: &Notifier, base: &DeclaredObserved) -> Result<NotifierObserved, StepError> {
        let setup = match self.courier.check(&base.key.namespace, &object.spec).await {
            Ok(()) | Err(SendError::Failed { .. }) => None,
            Err(SendError::Setup(what) | SendError::Refused(what)) => Some(what),
        };
        Ok(NotifierObserved { setup, book: self.world.causes.of_notifier(&base.uid) })
    }

    fn plan(object: &Notifier, observed: &DeclaredObserved<NotifierObserved>, _: &Gate, _: Timestamp) -> PlanOf<Self> {
        plan(&object.spec, observed.suspended, &observed.facts)
    }
}

fn plan(spec: &NotifierSpec, suspended: bool, facts: &NotifierObserved) -> DeclaredPlan<NotifierStatus> {
    let NotifierObserved { setup, book } = facts;
    let count = |n: usize| i32::try_from(n).ok().map(|n| n.min(1_000_000));
    let status = NotifierStatus {
        told: count(book.told),
        held_back: count(book.held_back),
        last_error: book.error.clone(),
        failing_since: book.failing_since.map(Time),
        ..NotifierStatus::default()
    };
    let of = |state, ready, stalled, message: String| DeclaredPlan::new(state, ready, stalled, message, status.clone());
    let zone = spec.quiet_hours.as_ref().and_then(|hours| quiet_time(hours).err());
    let mut plan = match (suspended, setup, zone, &book.error) {
        (true, ..) => of(NotifierState::Suspended, false, false, "suspended: nothing is sent".into()),
        (_, Some(what), ..) => of(NotifierState::SecretMissing, false, true, what.clone()),
        (_, _, Some(what), _) => of(NotifierState::InvalidSpec, false, true, what),
        (_, _, _, Some(error)) if book.refused => of(NotifierState::AddressGone, false, true, error.clone()),
        (_, _, _, Some(error)) => of(NotifierState::Failing, false, false, error.clone()),
        (false, None, None, None) if book.held_back > 0 => {
            let message = format!("{} held back until its time", number_of(book.held_back, "message"));
            of(NotifierState::Active, true, false, message)
        }
        (false, None, None, None) => of(NotifierState::Active, true, false, "what is due goes out".into()),
    };
    plan.again = Some(AGAIN);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_it_from_being_told_is_said_the_worst_first() {
        let spec: NotifierSpec = serde_json::from_value(serde_json::json!({
            "type": "Slack", "secretRef": {"name": "s"}, "quietHours": {"from": "22:00", "to": "07:00", "timeZone": "Europe/Berlin"},
        }))
        .unwrap();
        let nowhere: NotifierSpec = serde_json::from_value(serde_json::json!({
            "type": "Slack", "secretRef": {"name": "s"}, "quietHours": {"from": "22:00", "to": "07:00", "timeZone": "Moon/Tycho"},
        }))
        .unwrap();
        let failing =
            |refused| NotifierBook { error: Some("HTTP 410".into()), refused, held_back: 1, ..NotifierBook::default() };
        let seen = |setup: Option<&str>, book| NotifierObserved { setup: setup.map(str::to_owned), book };
        for (what, spec, suspended, facts, state, ready, stalled) in [
            ("well", &spec, false, seen(None, NotifierBook::default()), NotifierState::Active, true, false),
            ("suspended", &spec, true, seen(Some("no Secret"), failing(true)), NotifierState::Suspended, false, false),
            (
                "no Secret",
                &spec,
                false,
                seen(Some("no Secret"), failing(true)),
                NotifierState::SecretMissing,
                false,
                true,
            ),
            (
                "no such zone",
                &nowhere,
                false,
                seen(None, NotifierBook::default()),
                NotifierState::InvalidSpec,
                false,
                true,
            ),
            ("gone", &spec, false, seen(None, failing(true)), NotifierState::AddressGone, false, true),
            ("failing", &spec, false, seen(None, failing(false)), NotifierState::Failing, false, false),
        ] {
            let plan = plan(spec, suspended, &facts);
            assert_eq!((plan.state, plan.ready, plan.stalled), (state, ready, stalled), "{what}");
        }
    }
}

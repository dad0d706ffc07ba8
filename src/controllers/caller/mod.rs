//! Caller: known by the hashes of its keys, which are projected; the keys themselves stay in their Secrets.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    api::{Caller, CallerSpec, CallerState, CallerStatus, Kind, LOCAL_CALLER, Requirement, number_of},
    calls::{CallerKey, KeyHash, ProjectedCaller},
    platform::SecretError,
    store::CallerDay,
};

use super::{
    declared::{ControlPlane, DeclaredObserved, DeclaredPlan, Declares, Gate, PlanOf, projected},
    error::StepError,
};

/// Secrets are not watched: a changed one counts after this, and after [`crate::platform::Secrets`] reads it again.
const AGAIN: Duration = Duration::from_secs(30);
/// The key of a Secret under which a caller's key is.
const FIELD: &str = "key";

/// The kind's own part.
pub struct Callers(pub Arc<ControlPlane>);

/// What is looked at beside the object.
#[derive(Clone, Debug, Default)]
pub struct CallerObserved {
    /// What each of its Secrets has, or why it has nothing.
    pub keys: Vec<Result<KeyHash, KeyProblem>>,
    /// Aliases of its namespace.
    pub served: BTreeSet<String>,
    pub used: Option<CallerDay>,
}

/// Why a Secret gives no key. It never repeats what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyProblem {
    Missing(String),
    /// It is no key: of a Secret that is for something else nothing is told.
    Invalid(String),
}

#[async_trait]
impl Declares for Callers {
    type Object = Caller;
    type Observed = CallerObserved;
    type Action = ();

    const KIND: Kind = Kind::Caller;

    fn declared(spec: &CallerSpec) -> (bool, &[Requirement]) {
        (spec.suspend, &[])
    }

    async fn observe(&self, object: &Caller, base: &DeclaredObserved) -> Result<CallerObserved, StepError> {
        let namespace = &base.key.namespace;
        let mut keys = Vec::new();
        for reference in &object.spec.secret_refs {
            keys.push(self.key(namespace, &reference.name).await?);
        }
        let backends = self.0.feeds.backends.objects.state();
        let served = backends
            .iter()
            .filter(|backend| backend.metadata.namespace.as_ref() == Some(namespace))
            .flat_map(|backend| backend.spec.models.iter().map(|model| model.asked_as().to_owned()));
        Ok(CallerObserved { keys, served: served.collect(), used: self.0.used_by(&base.key).await })
    }

    fn plan(object: &Caller, observed: &DeclaredObserved<CallerObserved>, _: &Gate, _: Timestamp) -> PlanOf<Self> {
        plan(&object.spec, observed)
    }
}

impl Callers {
    async fn key(&self, namespace: &str, name: &str) -> Result<Result<KeyHash, KeyProblem>, StepError> {
        match self.0.shared.secrets.text(namespace, name, FIELD).await {
            Ok(text) => Ok(CallerKey::parse(&text).map(|key| key.hash()).ok_or_else(|| {
                let why = format!(
                    "key {FIELD} of Secret {namespace}/{name} is no key of a gateway: make one with `ostler callers create`"
                );
                KeyProblem::Invalid(why)
            })),
            Err(SecretError::Missing(what)) => Ok(Err(KeyProblem::Missing(what))),
            Err(SecretError::Unavailable(error)) => Err(error.into()),
        }
    }
}

fn plan(spec: &CallerSpec, observed: &DeclaredObserved<CallerObserved>) -> DeclaredPlan<CallerStatus> {
    let CallerObserved { keys, served, used } = &observed.facts;
    let hashes: Vec<KeyHash> = keys.iter().filter_map(|key| key.as_ref().ok().cloned()).collect();
    let status = CallerStatus { keys: i32::try_from(hashes.len()).ok(), ..CallerStatus::default() };
    let status = match used {
        Some(used) => status.used(used.last_used_at, used.calls, used.tokens),
        None => status,
    };
    let named = spec.aliases.iter().map(|alias| &alias.alias).chain(&spec.models);
    let unserved: BTreeSet<&str> = named.filter(|alias| !served.contains(*alias)).map(String::as_str).collect();
    let of = |state, ready, stalled, message: String| DeclaredPlan::new(state, ready, stalled, message, status.clone());
    let is_local = observed.key.name == LOCAL_CALLER;
    let mut plan = if observed.suspended {
        of(CallerState::Suspended, false, false, "suspended: its calls are refused".into())
    } else if let Some(problem) = keys.iter().find_map(|key| key.as_ref().err()) {
        match problem {
            KeyProblem::Missing(why) => of(CallerState::KeyMissing, false, true, why.clone()),
            KeyProblem::Invalid(why) => of(CallerState::KeyInvalid, false, true, why.clone()),
        }
    } else if hashes.is_empty() && !is_local {
        let why = format!("it has no key: `ostler callers create {}` makes one", observed.key.name);
        of(CallerState::KeyMissing, false, true, why)
    } else if !unserved.is_empty() {
        let unserved = unserved.into_iter().collect::<Vec<_>>().join(", ");
        let why = format!("no LLMBackend of this namespace serves {unserved}: list it under models of one");
        of(CallerState::ModelMissing, false, false, why)
    } else if is_local {
        of(CallerState::Active, true, false, "programs beside the gateway need no key".into())
    } else {
        of(CallerState::Active, true, false, format!("known by {}", number_of(hashes.len(), "key")))
    };
    plan.spec = Some(projected(&ProjectedCaller { spec: spec.clone(), key_hashes: hashes }));
    plan.again = Some(AGAIN);
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::shared::NamespacedName;

    fn judged(
        name: &str,
        spec: serde_json::Value,
        suspended: bool,
        facts: CallerObserved,
    ) -> DeclaredPlan<CallerStatus> {
        let spec: CallerSpec = serde_json::from_value(spec).unwrap();
        let observed = DeclaredObserved {
            key: NamespacedName::new("team", name),
            uid: "u".into(),
            suspended,
            requirements: Vec::new(),
            handled_reconcile: None,
            facts,
        };
        plan(&spec, &observed)
    }

    fn keys(keys: Vec<Result<KeyHash, KeyProblem>>) -> CallerObserved {
        CallerObserved { keys, served: BTreeSet::from(["coder".to_owned()]), used: None }
    }

    #[test]
    fn a_caller_is_active_with_a_key_and_local_without_one() {
        let hash = || Ok(CallerKey::generate().hash());
        let missing = || Err(KeyProblem::Missing("Secret team/k is not there: create it".into()));
        let invalid = || Err(KeyProblem::Invalid("no key".into()));
        let aliases = |alias: &str| json!({"aliases": [{"match": "claude-*", "alias": alias}]});
        for (what, name, spec, suspended, facts, state, ready, stalled) in [
            ("a key", "editor", json!({}), false, keys(vec![hash()]), CallerState::Active, true, false),
            ("no key", "editor", json!({}), false, keys(vec![]), CallerState::KeyMissing, false, true),
            ("local", LOCAL_CALLER, json!({}), false, keys(vec![]), CallerState::Active, true, false),
            ("suspended", LOCAL_CALLER, json!({}), true, keys(vec![]), CallerState::Suspended, false, false),
            (
                "one of two",
                "editor",
                json!({}),
                false,
                keys(vec![hash(), missing()]),
                CallerState::KeyMissing,
                false,
                true,
            ),
            ("some Secret", "editor", json!({}), false, keys(vec![invalid()]), CallerState::KeyInvalid, false, true),
            ("served", "editor", aliases("coder"), false, keys(vec![hash()]), CallerState::Active, true, false),
            (
                "not served",
                "editor",
                aliases("big"),
                false,
                keys(vec![hash()]),
                CallerState::ModelMissing,
                false,
                false,
            ),
            (
                "not served",
                "editor",
                json!({"models": ["big"]}),
                false,
                keys(vec![hash()]),
                CallerState::ModelMissing,
                false,
                false,
            ),
        ] {
            let judged = judged(name, spec, suspended, facts);
            assert_eq!(
                (judged.state, judged.ready, judged.stalled),
                (state, ready, stalled),
                "{what}: {}",
                judged.message
            );
        }
    }

    #[test]
    fn the_good_keys_are_projected_as_hashes_and_nothing_else_of_a_secret() {
        let key = CallerKey::generate();
        let found = judged(
            "editor",
            json!({"weight": 20}),
            false,
            keys(vec![Ok(key.hash()), Err(KeyProblem::Missing("away".into()))]),
        );
        let spec = found.spec.expect("a projection");
        assert!(!spec.to_string().contains(&key.text()[..20]), "{spec}");
        let back: ProjectedCaller = serde_json::from_value(spec).expect("as it is read");
        assert_eq!(
            (back.spec.weight, back.key_hashes),
            (20, vec![key.hash()]),
            "one key goes on while the other is missing"
        );
    }

    #[test]
    fn what_was_used_is_told_to_the_hour() {
        let at: Timestamp = "2026-03-01T11:59:59Z".parse().unwrap();
        let used = Some(CallerDay { caller: "team/editor".into(), calls: 3, tokens: 4000, last_used_at: at });
        let status = judged(LOCAL_CALLER, json!({}), false, CallerObserved { used, ..keys(vec![]) }).status;
        let hour = status.last_used_time.map(|time| time.0.to_string());
        assert_eq!(
            (hour.as_deref(), status.calls_today, status.tokens_today),
            (Some("2026-03-01T11:00:00Z"), Some(3), Some(4000))
        );
    }
}

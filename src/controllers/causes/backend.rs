//! Backends, as they were last judged and projected.

use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use reqwest::Url;
use serde::Deserialize;

use crate::{
    api::{BackendState, ConditionStatus, Kind, LLMBackend, LLMBackendStatus, Mode, ObjectKey, condition},
    causes::{CauseClass, CauseFact, CauseHealth, CauseTrouble, WhoActs},
    host::HoldOwner,
    store::BackendRow,
};

use super::super::{
    declared::ControlPlane,
    llm_backend::service_of,
    shared::{NamespacedName, ServiceView},
};

/// Attempts that a message names.
const MOST_TRIED: usize = 4;

/// All of them. `changed`: something was projected since.
pub async fn facts(world: &ControlPlane, changed: bool, now: Timestamp) -> Vec<CauseFact> {
    if changed || world.backends().is_none() {
        world.read_backends().await;
    }
    let rows = world.backends().unwrap_or_default();
    rows.iter().filter_map(|row| fact(world, row, now)).collect()
}

fn fact(world: &ControlPlane, row: &BackendRow, now: Timestamp) -> Option<CauseFact> {
    let object = world.feeds.backends.objects.get(&ObjectRef::new(&row.name).within(&row.namespace))?;
    let state = BackendState::deserialize(&serde_json::Value::String(row.state.clone())).ok()?;
    let service = service_of(object.spec.recovery.as_ref(), &row.namespace);
    let is_held = service.as_ref().is_some_and(|(agent, service)| match world.shared.agents.service(agent, service) {
        ServiceView::Service { report, .. } => report.holds.iter().any(|hold| hold.owner == HoldOwner::Person),
        _ => false,
    });
    let observed = world.parts.observe || object.spec.mode == Mode::Observe || world.shared.wishes.is_paused(now);
    let mut fact = CauseFact::new(
        ObjectKey::new(Kind::LLMBackend, &*row.namespace, &*row.name),
        health(row, state, &object, is_held, observed),
    );
    fact.host = Url::parse(&row.url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let agent = service.map(|(NamespacedName { namespace, name }, _)| ObjectKey::new(Kind::HostAgent, namespace, name));
    fact.points_to = agent.into_iter().collect();
    Some(fact)
}

fn health(row: &BackendRow, state: BackendState, object: &LLMBackend, is_held: bool, observed: bool) -> CauseHealth {
    use BackendState as S;
    if row.ready {
        return CauseHealth::Well;
    }
    let status = object.status.clone().unwrap_or_default();
    let is_stalled =
        condition(&status.base.conditions, "Stalled").is_some_and(|stalled| stalled.status == ConditionStatus::True);
    let (class, acts) = match state {
        S::Proving | S::Unknown => return CauseHealth::Unknown,
        S::Suspended => return CauseHealth::Wished,
        _ if is_held => return CauseHealth::Wished,
        S::ModelsMissing if !is_stalled => (CauseClass::Config, WhoActs::Healing),
        S::Unauthorized
        | S::ModelsMissing
        | S::WrongUser
        | S::LoopbackURL
        | S::DuplicateServer
        | S::HostAgentMissing
        | S::WorkloadMissing
        | S::SecretMissing
        | S::InvalidSpec
        | S::Misconfigured => (CauseClass::Config, WhoActs::Person),
        S::Deferred => (CauseClass::Down, WhoActs::Person),
        S::Recovering | S::RateLimited => (CauseClass::Down, WhoActs::Healing),
        S::Down | S::Unreachable | S::Hung | S::Shared | S::Serving | S::Idle | S::Busy => {
            let acts = if object.spec.recovery.is_some() { WhoActs::Healing } else { WhoActs::Nobody };
            (CauseClass::Down, acts)
        }
    };
    let cause = status.recovery.as_ref().and_then(|recovery| recovery.cause.as_deref()).unwrap_or_default();
    let class = if class == CauseClass::Down && cause == "OutOfMemory" { CauseClass::Memory } else { class };
    let ready = condition(&status.base.conditions, "Ready");
    CauseHealth::Unwell(CauseTrouble {
        class,
        acts: if observed { WhoActs::Wished } else { acts },
        since: row.ready_since,
        reason: row.reason.clone(),
        message: match ready.filter(|ready| ready.reason == row.reason) {
            Some(ready) => ready.message.clone(),
            None => row.reason.clone(),
        },
        tried: tried(&status, row.ready_since),
        next: Kind::LLMBackend.remedy(&row.namespace, &object.name_any(), &row.reason).unwrap_or_default(),
        silent: class == CauseClass::Down && !matches!(cause, "ServerError" | "Hung") && state != S::Hung,
    })
}

/// What was done since then and what came of it, oldest first.
fn tried(status: &LLMBackendStatus, since: Option<Timestamp>) -> Vec<String> {
    let Some(recovery) = &status.recovery else { return Vec::new() };
    let tried = recovery.history.iter().filter(|record| since.is_none_or(|since| record.time.0 >= since));
    let words: Vec<String> = tried
        .map(|record| {
            let how = match record.outcome.as_str() {
                "Running" => "is running",
                "Helped" => "helped",
                "DidNotHelp" => "did not help",
                "WouldDo" => "would be done (mode: Observe)",
                _ => "nobody knows whether it helped",
            };
            format!("{} because of {}: {how}; {}", record.step, record.cause, record.evidence)
        })
        .collect();
    words[words.len().saturating_sub(MOST_TRIED)..].to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(state: &str, ready: bool, recovery: serde_json::Value, cause: &str) -> CauseHealth {
        let mut spec = json!({"engine": "Ollama", "url": "http://h:1"});
        if recovery != json!(null) {
            spec["recovery"] = recovery;
        }
        let object: LLMBackend = serde_json::from_value(json!({
            "apiVersion": "ostler.dev/v1alpha1", "kind": "LLMBackend", "metadata": {"name": "mlx", "namespace": "team"}, "spec": spec,
            "status": {"recovery": {"cause": cause}},
        }))
        .unwrap();
        let row = BackendRow {
            uid: "u".into(),
            namespace: "team".into(),
            name: "mlx".into(),
            generation: 1,
            engine: "Ollama".into(),
            url: "http://h:1".into(),
            server_url: "http://h:1".into(),
            priority: 0,
            spec: json!({}),
            state: state.into(),
            reason: state.into(),
            ready,
            ready_since: None,
        };
        let state = BackendState::deserialize(&json!(state)).unwrap();
        health(&row, state, &object, false, false)
    }

    #[test]
    fn each_state_is_somebodys_to_mend() {
        let agent = || json!({"hostAgentRef": {"name": "mac"}, "service": "mlx"});
        for (state, recovery, cause, class, acts, silent) in [
            ("Down", agent(), "Refused", CauseClass::Down, WhoActs::Healing, true),
            ("Down", json!(null), "Refused", CauseClass::Down, WhoActs::Nobody, true),
            ("Recovering", agent(), "OutOfMemory", CauseClass::Memory, WhoActs::Healing, false),
            ("Hung", agent(), "Hung", CauseClass::Down, WhoActs::Healing, false),
            ("Deferred", agent(), "Refused", CauseClass::Down, WhoActs::Person, true),
            ("SecretMissing", agent(), "", CauseClass::Config, WhoActs::Person, false),
            ("ModelsMissing", agent(), "", CauseClass::Config, WhoActs::Healing, false),
        ] {
            let CauseHealth::Unwell(trouble) = judged(state, false, recovery, cause) else {
                panic!("{state} is unwell")
            };
            assert_eq!((trouble.class, trouble.acts, trouble.silent), (class, acts, silent), "{state}");
        }
        assert_eq!(judged("Idle", true, json!(null), ""), CauseHealth::Well);
        assert_eq!(judged("Proving", false, json!(null), ""), CauseHealth::Unknown);
        assert_eq!(judged("Suspended", false, json!(null), ""), CauseHealth::Wished);
    }
}

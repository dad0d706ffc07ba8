//! What workers need to know of a backend, in the database: its row, and that of its server.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    api::{ConditionStatus, LLMBackend, LLMBackendSpec, condition},
    engines::same_model,
    store::{BackendRow, Fence, ServerRow, StoreError},
};

use super::{
    super::shared::NamespacedName,
    Backends,
    facts::{BackendFacts, Misdeclared},
    judge::BackendAssessment,
    observe::BackendObserved,
    plan::BackendPlan,
    status::BackendShown,
};

impl Backends {
    /// Workers need the database alone: what they need to know of this backend goes there.
    pub(super) async fn project(
        &self,
        object: &LLMBackend,
        observed: &BackendObserved,
        (judged, plan, shown): (&BackendAssessment, &BackendPlan, &BackendShown),
        fence: &Fence,
    ) -> Result<(), StoreError> {
        let server = ServerRow {
            url: observed.server_url.clone(),
            limit: plan.limit,
            admission: shown.admission,
            instance: observed.seen.agent.instance(),
            calls_per_day: object.spec.concurrency.max_calls_per_day,
        };
        let backend = BackendRow {
            uid: observed.uid.clone(),
            namespace: observed.key.namespace.clone(),
            name: observed.key.name.clone(),
            generation: observed.seen.generation,
            engine: object.spec.engine.as_str().into(),
            url: object.spec.url.clone(),
            server_url: observed.server_url.clone(),
            priority: object.spec.priority,
            spec: serde_json::to_value(projected_spec(object, &observed.seen)).unwrap_or_default(),
            state: shown.state.as_str().into(),
            reason: shown.reason.into(),
            ready: shown.ready,
            ready_since: match shown.ready {
                true => plan.memory.healthy_since,
                false => Some(self.not_ready_since(object, &observed.uid)),
            },
        };
        if observed.is_undecided(object, judged) || self.projected.is_known(&observed.uid, &backend, &server) {
            return Ok(());
        }
        // A duplicate must not speak for the server that the older one has.
        if observed.seen.misdeclared.as_ref().is_none_or(Misdeclared::leaves_the_server) {
            let running_for = observed.seen.agent.running_for(Timestamp::now());
            self.parts.store.put_server_running(fence, &server, running_for).await?;
        }
        self.parts.store.project_backend(fence, &backend).await?;
        self.projected.put(&observed.uid, backend, server);
        Ok(())
    }

    /// Backends of other namespaces that share a server are as this one finds it.
    pub(super) fn look_at_sharers(&self, server_url: &str, judge: &NamespacedName) {
        for other in self.of_server(server_url) {
            if other.namespace != judge.namespace {
                self.probers.look_at(&other);
            }
        }
    }

    /// As it was projected or told before; else since now.
    fn not_ready_since(&self, object: &LLMBackend, uid: &str) -> Timestamp {
        let projected = self.projected.last(uid);
        let told = || {
            let ready = condition(&object.status.as_ref()?.base.conditions, "Ready")?;
            (ready.status == ConditionStatus::False).then_some(ready.last_transition_time.0)
        };
        match projected {
            // Its status may tell of a time before it was ready.
            Some((true, _)) => Timestamp::now(),
            Some((false, Some(since))) => since,
            Some((false, None)) | None => told().unwrap_or_else(Timestamp::now),
        }
    }
}

/// As workers read it. An outage must not send private prompts to somebody else's servers: a model that runs elsewhere takes no
/// spill unless that is declared.
fn projected_spec(object: &LLMBackend, seen: &BackendFacts) -> LLMBackendSpec {
    let mut spec = object.spec.clone();
    let remote = seen.probes.listing().is_some_and(|listing| {
        spec.models.iter().any(|m| listing.remote.iter().any(|r| same_model(spec.engine, r, &m.name)))
    });
    if remote && spec.concurrency.accept_spill.is_none() {
        spec.concurrency.accept_spill = Some(false);
    }
    spec
}

/// What was projected last in this term, so that a steady backend costs no statement.
#[derive(Default)]
pub struct Projected {
    rows: Mutex<HashMap<String, (BackendRow, ServerRow)>>,
}

impl Projected {
    fn is_known(&self, uid: &str, backend: &BackendRow, server: &ServerRow) -> bool {
        self.rows.lock().get(uid).is_some_and(|(b, s)| b == backend && s == server)
    }

    /// Whether it was ready, and since when so.
    pub(super) fn last(&self, uid: &str) -> Option<(bool, Option<Timestamp>)> {
        self.rows.lock().get(uid).map(|(backend, _)| (backend.ready, backend.ready_since))
    }

    fn put(&self, uid: &str, backend: BackendRow, server: ServerRow) {
        self.rows.lock().insert(uid.to_owned(), (backend, server));
    }
}

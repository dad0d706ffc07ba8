//! Carries out what was planned, and nothing else: memory first, then the act, then what came of it.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::{
    api::{ConditionStatus, Kind, LLMBackend, Recovery, Webhook, condition},
    engines::engine,
    host::{Action, Caller, HostError, HttpHost, OperationRequest, OperationStatus, Phase, SigningSecret, sign},
    net::redirected,
    store::{ENGINE_LINGER, Fence, StoreError, Term},
    telemetry::crash_point,
};

use super::{
    super::{error::StepError, shared::NamespacedName},
    Backends,
    judge::BackendAssessment,
    memory::{BackendMemory, PodId, RecoveryCause},
    observe::BackendObserved,
    plan::{BackendPlan, CanaryPlan, HoldChange, PlanNote, RecoveryAct, RecoveryOutcome, record},
    prober::ProberOrder,
    status::{BackendShown, shown},
};

/// Unloading answers at once, unless a call just came for a runner that hangs: Ollama first asks that one for 10 s whether it lives.
const UNLOAD: Duration = Duration::from_secs(15);
/// A webhook that does not answer has failed.
const WEBHOOK: Duration = Duration::from_secs(10);

/// What a pass did.
pub struct BackendOutcome {
    pub judged: BackendAssessment,
    pub plan: BackendPlan,
    /// That it is down is shown first: what is done about it may take as long as an agent needs to answer.
    pub act_follows: bool,
}

impl Backends {
    pub(super) async fn carry_out(
        &self,
        object: &LLMBackend,
        observed: &BackendObserved,
        (judged, mut plan): (BackendAssessment, BackendPlan),
        term: &Term,
    ) -> Result<BackendOutcome, StepError> {
        if plan.act.as_ref().is_some_and(RecoveryAct::changes_something) && self.shared.wishes.read().await? {
            return Err(StepError::Overtaken);
        }
        self.commit(observed, &plan.memory, term.fence()).await?;
        let shown = shown(&judged, &plan, &observed.seen);
        let was_ready = self.projected.last(&observed.uid).map(|(ready, _)| ready);
        self.project(object, observed, (&judged, &plan, &shown), term.fence()).await?;
        if was_ready != Some(shown.ready) {
            self.look_at_sharers(&observed.server_url, &observed.key);
        }
        let act_follows = was_ready == Some(true) && plan.act.as_ref().is_some_and(RecoveryAct::changes_something);
        if let Some(act) = plan.act.clone().filter(|_| !act_follows && term.still_leads()) {
            crash_point("recovery.committed");
            let outcome = self.act(object, observed, &act, term).await?;
            crash_point("recovery.sent");
            plan.notes.extend(record(&mut plan.memory, &outcome, Timestamp::now()));
            if let RecoveryOutcome::Unclear { why } = &outcome {
                tracing::warn!(backend = %observed.key, why, "could not tell whether an operation arrived; sending it again with the same key");
            }
            self.commit(observed, &plan.memory, term.fence()).await?;
            crash_point("recovery.recorded");
        }
        if plan.free_lapsed && term.still_leads() {
            self.free_lapsed(observed, term.fence()).await?;
        }
        self.change_holds(observed, &plan.holds, term).await;
        self.probers.direct(&observed.key, &observed.uid, wish(object, observed, &judged, &plan));
        self.count(object, observed, &plan, &shown);
        Ok(BackendOutcome { judged, plan, act_follows })
    }

    async fn free_lapsed(&self, observed: &BackendObserved, fence: &Fence) -> Result<(), StoreError> {
        let slots = self.parts.store.free_lapsed_slots(fence, &observed.server_url, ENGINE_LINGER).await?;
        if slots > 0 {
            let backend = &observed.key;
            tracing::info!(%backend, slots, "freed slots that nobody renews: the server computes nothing");
        }
        Ok(())
    }

    /// What cannot be recorded is not done.
    async fn commit(&self, observed: &BackendObserved, memory: &BackendMemory, fence: &Fence) -> Result<(), StepError> {
        let store = &*self.parts.store;
        self.memories.commit(store, fence, &observed.uid, &observed.key, memory).await.map(drop)
    }

    async fn act(
        &self,
        object: &LLMBackend,
        observed: &BackendObserved,
        act: &RecoveryAct,
        term: &Term,
    ) -> Result<RecoveryOutcome, StepError> {
        Ok(match act {
            RecoveryAct::Unload { .. } => self.unload(object, observed, term.fence()).await?,
            RecoveryAct::Restart { key, attempt, cause, evidence } => {
                let recovery = object.spec.recovery.as_ref();
                match (&observed.service, recovery) {
                    (Some((agent, service)), _) => self.restart_service(agent, service, key, evidence, term).await,
                    (None, Some(Recovery { workload_ref: Some(workload), .. })) => {
                        self.pods_to_replace(&observed.key.namespace, workload).await
                    }
                    (None, Some(Recovery { webhook: Some(webhook), .. })) => {
                        self.call_webhook(observed, webhook, (key, *attempt, *cause, evidence)).await
                    }
                    (None, _) => RecoveryOutcome::Failed {
                        why: "nothing that could restart it is declared under recovery".into(),
                    },
                }
            }
            RecoveryAct::Follow { operation } => {
                match observed.service.as_ref().and_then(|(agent, _)| self.shared.agents.api(agent)) {
                    Some(api) => follow(&api, operation).await,
                    None => RecoveryOutcome::Unclear { why: "its host agent is not there".into() },
                }
            }
            RecoveryAct::DeletePod { pod } => self.delete_pod(&observed.key.namespace, pod).await,
        })
    }

    /// An unload waits for open calls, so their slots are marked aborted first and workers close their connections.
    async fn unload(
        &self,
        object: &LLMBackend,
        observed: &BackendObserved,
        fence: &Fence,
    ) -> Result<RecoveryOutcome, StepError> {
        let Some(endpoint) = &observed.endpoint else {
            return Ok(RecoveryOutcome::Failed { why: "no endpoint".into() });
        };
        self.parts.store.abort_slots(fence, &observed.server_url).await?;
        let engine = engine(object.spec.engine);
        let loaded = match engine.loaded(endpoint, UNLOAD).await {
            Ok(loaded) => loaded.unwrap_or_default(),
            Err(error) => return Ok(RecoveryOutcome::Failed { why: error.to_string() }),
        };
        if loaded.is_empty() {
            return Ok(RecoveryOutcome::Failed { why: "no model is loaded".into() });
        }
        for model in loaded {
            if let Err(error) = engine.unload(endpoint, &model.name, UNLOAD).await {
                return Ok(RecoveryOutcome::Failed { why: error.to_string() });
            }
        }
        Ok(RecoveryOutcome::Done)
    }

    async fn restart_service(
        &self,
        agent: &NamespacedName,
        service: &str,
        key: &str,
        evidence: &str,
        term: &Term,
    ) -> RecoveryOutcome {
        let Some(api) = self.shared.agents.api(agent) else {
            return RecoveryOutcome::Unclear { why: format!("host agent {agent} is not there") };
        };
        let request = OperationRequest::new(service, Action::Restart, evidence);
        match api.operate(&request, key, self.caller(term)).await {
            Ok(operation) => of_operation(&operation),
            Err(error) => of_error(&error),
        }
    }

    async fn pods_to_replace(&self, namespace: &str, workload: &crate::api::WorkloadRef) -> RecoveryOutcome {
        match self.parts.workloads.pods(namespace, workload).await {
            Ok(seen) => {
                let mut pods: Vec<_> = seen.pods.into_iter().filter(|p| !p.deleting).collect();
                // Those that are not ready first: they can't get worse.
                pods.sort_by(|a, b| (a.ready, &a.name).cmp(&(b.ready, &b.name)));
                if pods.is_empty() {
                    let why =
                        format!("{} {} has no pods: is it scaled to zero?", workload.kind.as_str(), workload.name);
                    return RecoveryOutcome::Failed { why };
                }
                RecoveryOutcome::Pods(pods.into_iter().map(|p| PodId { name: p.name, uid: p.uid }).collect())
            }
            Err(error) => RecoveryOutcome::Failed { why: error.to_string() },
        }
    }

    async fn delete_pod(&self, namespace: &str, pod: &PodId) -> RecoveryOutcome {
        match self.parts.workloads.delete_pod(namespace, &pod.name, &pod.uid).await {
            Ok(()) => RecoveryOutcome::PodDeleted,
            Err(error) if error.is_gone() => RecoveryOutcome::PodDeleted,
            Err(error) => RecoveryOutcome::Failed { why: error.to_string() },
        }
    }

    /// A 2xx is only a beginning: an inference proves it.
    async fn call_webhook(
        &self,
        observed: &BackendObserved,
        webhook: &Webhook,
        (key, attempt, cause, evidence): (&str, i32, RecoveryCause, &str),
    ) -> RecoveryOutcome {
        let body = json!({
            "backend": observed.key.name, "namespace": observed.key.namespace, "cause": cause.as_str(),
            "evidence": evidence, "attempt": attempt, "idempotencyKey": key,
        })
        .to_string();
        let http = &self.parts.http;
        let mut request = http.post(&webhook.url).header("content-type", "application/json");
        request = request.header(crate::host::header::IDEMPOTENCY_KEY, key);
        if let Some(reference) = &webhook.secret_ref {
            let secret = NamespacedName::new(&observed.key.namespace, &reference.name);
            let text = match self.shared.secrets.text(&secret.namespace, &secret.name, "signingSecret").await {
                Ok(text) => text,
                Err(error) => return RecoveryOutcome::Failed { why: error.to_string() },
            };
            match SigningSecret::parse(&text) {
                Ok(secret) => {
                    for (name, value) in sign::sign(&secret, body.as_bytes(), Timestamp::now()).headers() {
                        request = request.header(name, value);
                    }
                }
                Err(error) => return RecoveryOutcome::Failed { why: format!("Secret {secret}: {error}") },
            }
        }
        // Nothing of the answer but its status: it may be anybody's.
        match http.send_within(request.body(body), WEBHOOK).await {
            Ok(reply) if reply.status().is_success() => RecoveryOutcome::Done,
            Ok(reply) => RecoveryOutcome::Failed {
                why: match redirected(reply.status(), reply.headers()) {
                    Some(redirect) => format!("the webhook: {redirect}"),
                    None => format!("the webhook answered {}", reply.status()),
                },
            },
            Err(broken) => RecoveryOutcome::Failed { why: format!("the webhook was not reached: {broken}") },
        }
    }

    async fn change_holds(&self, observed: &BackendObserved, changes: &[HoldChange], term: &Term) {
        let Some((agent, service)) = observed.service.as_ref().filter(|_| !changes.is_empty()) else { return };
        let Some(api) = self.shared.agents.api(agent) else { return };
        for change in changes {
            let action = if change.set { Action::Hold } else { Action::Release };
            let request =
                OperationRequest::new(service, action, format!("LLMBackend {}", observed.key)).owned_by(change.owner);
            let key = uuid::Uuid::now_v7().to_string();
            if let Err(error) = api.operate(&request, &key, self.caller(term)).await {
                tracing::warn!(backend = %observed.key, %error, "could not change a hold at the host agent; will retry");
            }
        }
        // The next pass must see what this one did, and not do it again; and there must be one: the poller finds nothing new.
        if self.shared.agents.heard(agent, api.report().await, Timestamp::now()) {
            self.triggers.one(Kind::HostAgent, agent);
            for backend in self.of_agent(agent) {
                self.probers.look_at(&backend);
            }
        }
    }

    fn caller(&self, term: &Term) -> Caller {
        Caller { installation: self.parts.installation, epoch: term.fence().epoch }
    }

    fn count(&self, object: &LLMBackend, observed: &BackendObserved, plan: &BackendPlan, shown: &BackendShown) {
        let (namespace, name) = (&observed.key.namespace, &observed.key.name);
        let metrics = &self.parts.metrics.backends;
        metrics.state(namespace, name, shown.state.as_str(), shown.ready);
        metrics.limit(namespace, name, plan.limit);
        metrics.slots_in_use(namespace, name, observed.seen.load.in_flight);
        let known = object.status.as_ref().and_then(|s| condition(&s.base.conditions, "DeferredToHuman"));
        let since = known
            .filter(|c| c.status == ConditionStatus::True)
            .map_or_else(Timestamp::now, |c| c.last_transition_time.0);
        metrics.deferred(namespace, name, shown.for_human.then_some(since));
        for note in &plan.notes {
            match note {
                PlanNote::Helped { step, cause, .. } => {
                    metrics.recovery(namespace, name, cause.as_str(), step.as_str(), "Helped");
                }
                PlanNote::Inconclusive { step, cause, .. } => {
                    metrics.recovery(namespace, name, cause.as_str(), step.as_str(), "Inconclusive");
                }
                PlanNote::DidNotHelp { step, cause, .. } => {
                    metrics.recovery(namespace, name, cause.as_str(), step.as_str(), "DidNotHelp");
                }
                _ => {}
            }
        }
    }
}

fn wish(
    object: &LLMBackend,
    observed: &BackendObserved,
    judged: &BackendAssessment,
    plan: &BackendPlan,
) -> ProberOrder {
    let under_way = plan.memory.episode.as_ref().is_some_and(|e| e.running.is_some());
    ProberOrder {
        spec: object.spec.clone(),
        generation: observed.seen.generation,
        endpoint: observed.endpoint.clone(),
        server_url: observed.server_url.clone(),
        service: observed.service.clone(),
        misdeclared: observed.seen.misdeclared.clone(),
        canary: match &plan.canary {
            CanaryPlan::Send(order) => Some(order.clone()),
            CanaryPlan::Skip(_) | CanaryPlan::Later(_) => None,
        },
        sample_cpu: plan.sample_cpu,
        hurry: under_way || judged.needs_proof && !judged.for_human || judged.reason == "Starting",
        pull: plan.pull.clone(),
        preload: plan.preload.clone(),
    }
}

async fn follow(api: &HttpHost, operation: &str) -> RecoveryOutcome {
    match api.operation(operation).await {
        Ok(operation) => of_operation(&operation),
        Err(error) => of_error(&error),
    }
}

fn of_operation(operation: &OperationStatus) -> RecoveryOutcome {
    match operation.phase {
        Phase::Succeeded => RecoveryOutcome::Done,
        Phase::Failed => RecoveryOutcome::Failed { why: operation.message.clone() },
        Phase::Accepted | Phase::Running => RecoveryOutcome::Sent { operation: operation.id.clone() },
    }
}

fn of_error(error: &HostError) -> RecoveryOutcome {
    match error {
        HostError::Held { .. } => RecoveryOutcome::Failed { why: error.to_string() },
        // A newer leader follows the operation; this one's term is about to end.
        HostError::StaleEpoch { .. } => RecoveryOutcome::Unclear { why: error.to_string() },
        error if error.is_retryable() => RecoveryOutcome::Unclear { why: error.to_string() },
        error => RecoveryOutcome::Failed { why: error.to_string() },
    }
}

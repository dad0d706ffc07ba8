//! HostAgent: asked how its services are, and told which of them are looked after.

mod poller;
mod status;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::mpsc;

use crate::{
    api::{HostAgent, HostAgentStatus, LLMBackend, Mode, RECONCILE_REQUESTED_AT, condition},
    host::Caller,
    platform::{AgentAccess, HostAgentError, SecretError, host_agent},
    store::Term,
};

use super::{
    Parts,
    driver::{Controller, Report},
    error::StepError,
    feed::Feed,
    llm_backend::{Backends, service_of},
    shared::{AgentHeard, AgentSilence, NamespacedName, Shared},
};

use poller::{Directions, Poller};

/// The controller of one term.
pub struct HostAgents {
    parts: Parts,
    shared: Shared,
    backends: Arc<Backends>,
    backend_feed: Feed<LLMBackend>,
    trigger: mpsc::UnboundedSender<ObjectRef<HostAgent>>,
    backend_trigger: mpsc::UnboundedSender<ObjectRef<LLMBackend>>,
    pollers: Mutex<HashMap<NamespacedName, Poller>>,
}

/// What a pass starts from.
pub struct HostAgentObserved {
    pub key: NamespacedName,
    pub uid: String,
    pub suspended: bool,
    /// How to speak to it, or why that can't be.
    pub access: Result<AgentAccess, String>,
    pub heard: Option<AgentHeard>,
    pub unreachable: Option<AgentSilence>,
    /// Services of backends that this controller heals.
    pub cared_for: Vec<String>,
    pub handled_reconcile: Option<String>,
}

/// What to do: ask it, and care for these services; or leave it alone.
pub enum HostAgentPlan {
    Ask { access: Box<AgentAccess>, care: Vec<String> },
    LeaveAlone,
}

impl HostAgents {
    pub fn new(
        parts: Parts,
        shared: Shared,
        backends: Arc<Backends>,
        backend_feed: Feed<LLMBackend>,
        trigger: mpsc::UnboundedSender<ObjectRef<HostAgent>>,
        backend_trigger: mpsc::UnboundedSender<ObjectRef<LLMBackend>>,
    ) -> Self {
        Self { parts, shared, backends, backend_feed, trigger, backend_trigger, pollers: Mutex::default() }
    }

    /// How to speak to it, or what a person must mend first.
    async fn access(&self, object: &HostAgent, key: &NamespacedName) -> Result<Result<AgentAccess, String>, StepError> {
        match host_agent(&self.shared.secrets, &self.parts.http, (&key.namespace, &key.name), &object.spec).await {
            Ok(access) => Ok(Ok(access)),
            Err(HostAgentError::Secret(SecretError::Unavailable(error))) => Err(error.into()),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Services of backends that are healed by us now: the agent's own loop leaves them to us.
    fn cared_for(&self, agent: &NamespacedName) -> Vec<String> {
        let now = Timestamp::now();
        if self.parts.observe || self.shared.wishes.is_paused(now) {
            return Vec::new();
        }
        let healed = self.backend_feed.objects.state_filter(|b| {
            let key = NamespacedName::of(b);
            let suspended = self.shared.wishes.suspended("LLMBackend", &key).unwrap_or(b.spec.suspend);
            b.spec.mode == Mode::Enforce && !suspended
        });
        let mut services: Vec<String> = healed
            .iter()
            .filter_map(|b| service_of(b.spec.recovery.as_ref(), &b.namespace().unwrap_or_default()))
            .filter_map(|(of, service)| (of == *agent).then_some(service))
            .collect();
        services.sort();
        services.dedup();
        services
    }

    fn pollers(&self) -> std::sync::MutexGuard<'_, HashMap<NamespacedName, Poller>> {
        self.pollers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Controller for HostAgents {
    type Object = HostAgent;
    type Observed = HostAgentObserved;
    type Plan = HostAgentPlan;
    type Done = ();
    type Status = HostAgentStatus;

    const KIND: &'static str = "HostAgent";

    async fn observe(&self, object: &HostAgent) -> Result<HostAgentObserved, StepError> {
        let key = NamespacedName::of(object);
        let (heard, unreachable) = self.shared.agents.state(&key).unwrap_or_default();
        Ok(HostAgentObserved {
            uid: object.uid().unwrap_or_default(),
            suspended: self.shared.wishes.suspended(Self::KIND, &key).unwrap_or(object.spec.suspend),
            access: self.access(object, &key).await?,
            heard,
            unreachable,
            cared_for: self.cared_for(&key),
            handled_reconcile: self.shared.wishes.requested(object, RECONCILE_REQUESTED_AT, Self::KIND, &key),
            key,
        })
    }

    fn plan(&self, _: &HostAgent, observed: &HostAgentObserved, _: Timestamp) -> HostAgentPlan {
        match &observed.access {
            Ok(access) if !observed.suspended => {
                HostAgentPlan::Ask { access: Box::new(access.clone()), care: observed.cared_for.clone() }
            }
            _ => HostAgentPlan::LeaveAlone,
        }
    }

    async fn apply(
        &self,
        _: &HostAgent,
        observed: &HostAgentObserved,
        plan: HostAgentPlan,
        term: &Term,
    ) -> Result<(), StepError> {
        let key = &observed.key;
        match plan {
            HostAgentPlan::LeaveAlone => {
                self.pollers().remove(key);
                self.shared.agents.remove(key);
            }
            HostAgentPlan::Ask { access, care } => {
                let mut pollers = self.pollers();
                let known = pollers.get(key).filter(|p| p.fingerprint == access.fingerprint && p.uid == observed.uid);
                if let Some(poller) = known {
                    poller.direct(care);
                } else {
                    self.shared.agents.put(key.clone(), Arc::new(access.host.clone()));
                    let directions = Directions {
                        key: key.clone(),
                        agents: self.shared.agents.clone(),
                        term: term.clone(),
                        caller: Caller { installation: self.parts.installation, epoch: term.fence().epoch },
                        backends: Arc::clone(&self.backends),
                        trigger: self.trigger.clone(),
                        backend_trigger: self.backend_trigger.clone(),
                    };
                    let poller = Poller::start(observed.uid.clone(), access.fingerprint, directions, care);
                    pollers.insert(key.clone(), poller);
                }
            }
        }
        Ok(())
    }

    fn status(
        &self,
        object: &HostAgent,
        observed: &HostAgentObserved,
        (): &(),
        now: Timestamp,
    ) -> Report<HostAgentStatus> {
        let old = object.status.as_ref();
        let new = status::status(object, observed, old, now);
        let written = !status::is_undecided(old, &new) && status::differs(old, &new);
        Report {
            notes: Vec::new(),
            changes: if written { status::changes(old, &new) } else { Vec::new() },
            again: None,
            status: written.then_some(new),
        }
    }

    fn gone(&self, namespace: &str, name: &str) {
        let key = NamespacedName::new(namespace, name);
        self.pollers().remove(&key);
        self.shared.agents.remove(&key);
        for backend in self.backends.of_agent(&key) {
            let _ = self.backend_trigger.send(ObjectRef::new(&backend.name).within(&backend.namespace));
        }
    }
}

/// Whether the agent was ready at the last write.
fn was_ready(old: Option<&HostAgentStatus>) -> Option<bool> {
    let ready = condition(&old?.conditions, "Ready")?;
    Some(ready.status == crate::api::ConditionStatus::True)
}

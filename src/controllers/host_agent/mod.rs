//! HostAgent: asked how its services are, and told which of them are looked after.

mod poller;
mod status;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{
    api::{HostAgent, HostAgentStatus, Kind, LLMBackend, Mode, RECONCILE_REQUESTED_AT},
    host::Caller,
    platform::{AgentAccess, HostAgentError, Note, SecretError, host_agent},
    store::Term,
};

use super::{
    Parts,
    driver::{Controller, Report, Triggers},
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
    triggers: Triggers,
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
    /// Why it does nothing that this leader asks for, though it answers.
    pub refusal: Option<String>,
    /// Nothing is done now by anybody: a pause, or a process that only observes.
    pub hands_off: bool,
    /// The backends whose service it runs.
    pub backends: Vec<ServedBackend>,
    pub handled_reconcile: Option<String>,
}

/// A backend whose service an agent runs.
#[derive(Clone, Debug)]
pub struct ServedBackend {
    pub service: String,
    pub mode: Mode,
    pub suspended: bool,
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
        triggers: Triggers,
    ) -> Self {
        Self { parts, shared, backends, backend_feed, triggers, pollers: Mutex::default() }
    }

    /// How to speak to it, or what a person must mend first.
    async fn access(&self, object: &HostAgent, key: &NamespacedName) -> Result<Result<AgentAccess, String>, StepError> {
        match host_agent(&self.shared.secrets, &self.parts.http, (&key.namespace, &key.name), &object.spec).await {
            Ok(access) => Ok(Ok(access)),
            Err(HostAgentError::Secret(SecretError::Unavailable(error))) => Err(error.into()),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn backends_of(&self, agent: &NamespacedName) -> Vec<ServedBackend> {
        let served = |backend: &LLMBackend| {
            let key = NamespacedName::of(backend);
            let (of, service) = service_of(backend.spec.recovery.as_ref(), &key.namespace)?;
            let suspended = self.shared.wishes.suspended(Kind::LLMBackend, &key).unwrap_or(backend.spec.suspend);
            (of == *agent).then_some(ServedBackend { service, mode: backend.spec.mode, suspended })
        };
        self.backend_feed.objects.state().iter().filter_map(|backend| served(backend)).collect()
    }
}

#[async_trait]
impl Controller for HostAgents {
    type Object = HostAgent;
    type Observed = HostAgentObserved;
    type Plan = HostAgentPlan;
    type Outcome = ();

    const KIND: Kind = Kind::HostAgent;

    async fn observe(&self, object: &HostAgent) -> Result<HostAgentObserved, StepError> {
        let key = NamespacedName::of(object);
        let (heard, unreachable) = self.shared.agents.state(&key).unwrap_or_default();
        Ok(HostAgentObserved {
            uid: object.uid().unwrap_or_default(),
            suspended: self.shared.wishes.suspended(Self::KIND, &key).unwrap_or(object.spec.suspend),
            access: self.access(object, &key).await?,
            heard,
            unreachable,
            refusal: self.shared.agents.refusal(&key),
            hands_off: self.parts.observe || self.shared.wishes.is_paused(Timestamp::now()),
            backends: self.backends_of(&key),
            handled_reconcile: self.shared.wishes.requested(object, RECONCILE_REQUESTED_AT, Self::KIND, &key),
            key,
        })
    }

    fn plan(&self, _: &HostAgent, observed: &HostAgentObserved, _: Timestamp) -> HostAgentPlan {
        match &observed.access {
            Ok(access) if !observed.suspended => {
                HostAgentPlan::Ask { access: Box::new(access.clone()), care: cared_for(observed) }
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
                self.pollers.lock().remove(key);
                self.shared.agents.remove(key);
            }
            HostAgentPlan::Ask { access, care } => {
                let mut pollers = self.pollers.lock();
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
                        triggers: self.triggers.clone(),
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
        let status = status::status(object, observed, old, now);
        Report { undecided: status::is_undecided(old, &status), status, notes: Vec::new(), again: None }
    }

    fn change(old: Option<&HostAgentStatus>, new: &HostAgentStatus) -> Option<Note> {
        status::change(old, new)
    }

    fn gone(&self, namespace: &str, name: &str) {
        let key = NamespacedName::new(namespace, name);
        self.pollers.lock().remove(&key);
        self.shared.agents.remove(&key);
        for backend in self.backends.of_agent(&key) {
            self.triggers.one(Kind::LLMBackend, &backend);
        }
    }
}

/// Services of backends that this controller heals: the agent's own loop leaves them to it.
fn cared_for(observed: &HostAgentObserved) -> Vec<String> {
    let healed = |backend: &&ServedBackend| !observed.hands_off && backend.mode == Mode::Enforce && !backend.suspended;
    let services: BTreeSet<&String> = observed.backends.iter().filter(healed).map(|backend| &backend.service).collect();
    services.into_iter().cloned().collect()
}

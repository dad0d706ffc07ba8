//! One look at a backend: its prober's findings, its agent, its slots, what people want, what is remembered.

use std::time::Duration;

use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use uuid::Uuid;

use crate::{
    api::{BackendState, Kind, LLMBackend, Mode, RECONCILE_REQUESTED_AT, Recovery},
    engines::{Endpoint, Secret},
    platform::SecretError,
    runtimes::WorkloadError,
};

use super::{
    super::{
        error::StepError,
        shared::{NamespacedName, ServiceView, is_new},
        status::is_judged,
    },
    Backends,
    evidence::BackendEvidence,
    facts::{AgentPeers, AgentView, BackendFacts, BackendLoad, BackendService, Misdeclared, Overrides, WorkloadView},
    judge::BackendAssessment,
    memory::BackendMemory,
    prober::Findings,
    server,
};

/// What a pass starts from.
pub struct BackendObserved {
    pub key: NamespacedName,
    pub uid: String,
    pub seen: BackendFacts,
    /// As it was committed last.
    pub memory: BackendMemory,
    pub endpoint: Option<Endpoint>,
    pub server_url: String,
    /// Agent and service of `recovery`.
    pub service: Option<(NamespacedName, String)>,
    /// For an episode that begins in this pass.
    pub fresh_id: String,
}

impl BackendObserved {
    /// Whether this term knows nothing yet that a predecessor did not: until a probe succeeded or the threshold was reached,
    /// what was said of a proved backend holds, so that a change of leader changes no verdict.
    pub fn is_undecided(&self, object: &LLMBackend, judged: &BackendAssessment) -> bool {
        let said = is_judged(object.status.as_ref(), self.seen.generation);
        let proved = self.memory.proof.as_ref().is_some_and(|p| p.generation == self.seen.generation);
        let waits_for_probes = judged.state == BackendState::Proving && self.seen.probes.answering.is_none();
        said && proved && waits_for_probes && !self.seen.will.suspended
    }
}

impl Backends {
    pub(super) async fn look(&self, object: &LLMBackend) -> Result<BackendObserved, StepError> {
        let key = NamespacedName::of(object);
        let uid = object.uid().unwrap_or_default();
        let spec = &object.spec;
        let memory = self.memories.get(&*self.parts.store, &uid, &key).await?;
        let server_url = server::server_url(&spec.url).unwrap_or_else(|| spec.url.clone());
        let service = service_of(spec.recovery.as_ref(), &key.namespace);
        let (endpoint, secret_problem) = self.endpoint(object, &key).await?;
        let agent = self.agent_view(service.as_ref());
        let Findings { probes, canary, calls, cpu, loaded, absent, used_by_others, pulls, outdated, .. } =
            self.probers.findings(&key, &uid);
        let occupied = self.shared.slots.of(&server_url);
        let evidence = BackendEvidence::default().with(&calls).with(&occupied.evidence);
        let now = Timestamp::now();
        let adapted = self.shared.limits.of(&server_url);
        let failing = probes.failing_since.is_some();
        let workload = self.workload_view(object, &key, failing || memory.episode.is_some()).await;
        let misdeclared = self.misdeclared(object, &key).or(secret_problem);
        let misdeclared = misdeclared.or_else(|| agent.as_ref().err().cloned());
        let is_down = failing && probes.answering != Some(true);
        let misdeclared = misdeclared.or_else(|| workload.as_ref().err().filter(|_| is_down).cloned());
        let seen = BackendFacts {
            generation: object.metadata.generation.unwrap_or_default(),
            created_at: object.creation_timestamp().map(|t| t.0),
            misdeclared,
            probes,
            canary,
            evidence,
            cpu,
            loaded,
            absent,
            used_by_others,
            load: BackendLoad::of(spec, &occupied, now),
            adapted: adapted.as_ref().map(|adapted| adapted.limit),
            limited_by: adapted.and_then(|adapted| adapted.limited_by),
            agent: agent.unwrap_or_default(),
            workload: workload.unwrap_or_default(),
            peers: if failing { self.peers(service.as_ref()) } else { AgentPeers::default() },
            will: self.will(object, &key, &memory),
            pulls,
            outdated,
            woke_at: self.shared.wake.woke_at(),
        };
        Ok(BackendObserved {
            key,
            uid,
            seen,
            memory,
            endpoint,
            server_url,
            service,
            fresh_id: Uuid::now_v7().to_string(),
        })
    }

    fn misdeclared(&self, object: &LLMBackend, key: &NamespacedName) -> Option<Misdeclared> {
        if !self.parts.platform.loopback_is_self() && server::is_loopback(&object.spec.url) {
            return Some(Misdeclared::LoopbackUrl);
        }
        if let Err(why) = reqwest::Url::parse(&object.spec.url) {
            return Some(Misdeclared::InvalidUrl { why: why.to_string() });
        }
        let older = self.duplicates().get(key).cloned()?;
        if older.namespace == key.namespace {
            return Some(Misdeclared::DuplicateServer { older: older.to_string() });
        }
        let first = self.feed.objects.get(&ObjectRef::new(&older.name).within(&older.namespace));
        let ready = first.and_then(|first| self.projected.last(&first.uid()?)).map(|(ready, _)| ready);
        Some(Misdeclared::SharedServer { ready })
    }

    /// The endpoint, with its token. A missing Secret is a misdeclaration; one that can't be read now leaves the last one.
    async fn endpoint(
        &self,
        object: &LLMBackend,
        key: &NamespacedName,
    ) -> Result<(Option<Endpoint>, Option<Misdeclared>), StepError> {
        let Ok(url) = reqwest::Url::parse(&object.spec.url) else { return Ok((None, None)) };
        let bearer = match &object.spec.auth_secret_ref {
            None => None,
            Some(reference) => match self.shared.secrets.text(&key.namespace, &reference.name, "token").await {
                Ok(token) => Some(Secret::new(token)),
                Err(SecretError::Missing(what)) => return Ok((None, Some(Misdeclared::SecretMissing { what }))),
                Err(SecretError::Unavailable(error)) => return Err(error.into()),
            },
        };
        Ok((Some(Endpoint::new(self.parts.http.clone(), url, bearer)), None))
    }

    fn agent_view(&self, service: Option<&(NamespacedName, String)>) -> Result<AgentView, Misdeclared> {
        let Some((agent, service)) = service else { return Ok(AgentView::None) };
        match self.shared.agents.service(agent, service) {
            ServiceView::NoAgent => {
                let there = self.host_agents.holds(&agent.namespace, &agent.name);
                if there || !self.host_agents.knows(&agent.namespace) {
                    Ok(AgentView::Unheard)
                } else {
                    Err(Misdeclared::HostAgentMissing { name: agent.name.clone() })
                }
            }
            ServiceView::Unheard => Ok(AgentView::Unheard),
            ServiceView::Unreachable { since, why } => Ok(AgentView::Unreachable { since, why }),
            ServiceView::NoService => {
                Err(Misdeclared::ServiceUnknown { agent: agent.name.clone(), service: service.clone() })
            }
            ServiceView::Service { at, report, instance_since, exited_at, disk } => {
                let wanted_user = report.wanted_user.clone();
                let heard =
                    BackendService { heard_at: at, report: *report, instance_since, exited_at, disk, wanted_user };
                Ok(AgentView::Heard(Box::new(heard)))
            }
        }
    }

    /// The other backends of the same agent, looked at only while this one fails.
    fn peers(&self, service: Option<&(NamespacedName, String)>) -> AgentPeers {
        let Some((agent, _)) = service else { return AgentPeers::default() };
        let of_agent = self.feed.objects.state_filter(|b| {
            service_of(b.spec.recovery.as_ref(), &b.namespace().unwrap_or_default()).is_some_and(|(a, _)| a == *agent)
        });
        let failing: Vec<_> =
            of_agent.iter().filter_map(|b| self.probers.failing_since(&NamespacedName::of(&**b))).collect();
        AgentPeers { total: of_agent.len(), failing: failing.len(), failing_since: failing.into_iter().min() }
    }

    async fn workload_view(
        &self,
        object: &LLMBackend,
        key: &NamespacedName,
        needed: bool,
    ) -> Result<Option<WorkloadView>, Misdeclared> {
        let workload = object.spec.recovery.as_ref().and_then(|recovery| recovery.workload_ref.as_ref());
        let Some(workload) = workload.filter(|_| needed) else { return Ok(None) };
        let pods = self.parts.workloads.pods(&key.namespace, workload);
        let seen = match tokio::time::timeout(Duration::from_secs(4), pods).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(WorkloadError::NotFound(_))) => {
                let workload = format!("{} {}", workload.kind.as_str(), workload.name);
                return Err(Misdeclared::WorkloadMissing { workload });
            }
            Ok(Err(_)) | Err(_) => return Ok(None),
        };
        let ready = seen.pods.into_iter().filter(|pod| pod.ready && !pod.deleting).map(|pod| pod.uid).collect();
        Ok(Some(WorkloadView { desired: usize::try_from(seen.desired).unwrap_or(0), ready }))
    }

    fn will(&self, object: &LLMBackend, key: &NamespacedName, memory: &BackendMemory) -> Overrides {
        let wishes = &self.shared.wishes;
        let agent_suspended = service_of(object.spec.recovery.as_ref(), &key.namespace)
            .and_then(|(agent, _)| wishes.suspended(Kind::HostAgent, &agent))
            .unwrap_or(false);
        Overrides {
            suspended: wishes.suspended(Kind::LLMBackend, key).unwrap_or(object.spec.suspend),
            paused: wishes.is_paused(Timestamp::now()) || agent_suspended,
            observe: self.parts.observe || object.spec.mode == Mode::Observe,
            reconcile_token: wishes
                .requested(object, RECONCILE_REQUESTED_AT, Kind::LLMBackend, key)
                .filter(|token| is_new(token, memory.handled_reconcile.as_deref())),
        }
    }
}

/// The agent and service of a `recovery`.
pub fn service_of(recovery: Option<&Recovery>, namespace: &str) -> Option<(NamespacedName, String)> {
    let recovery = recovery?;
    let agent = recovery.host_agent_ref.as_ref()?;
    Some((NamespacedName::new(namespace, &agent.name), recovery.service.clone()?))
}

//! What a pass looks at: the containers at their host or in the cluster, what they depend on, what is remembered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::timeout;

use crate::{
    api::{ContainerHealthCheck, ContainerHealthCheckSpec, DockerTarget, PodTarget, RequiredKind},
    host::{Caller, ContainerLogsRequest, ContainerQuery, ContainerTarget, HostError, HttpHost, Phase, mask},
    runtimes::{PodContainer, WorkloadError},
};

use super::{
    super::{declared::DeclaredObserved, error::StepError, shared::NamespacedName},
    CheckObserved, ContainerChecks, KnownList,
    container::{self, Container},
    judge::ContainerVerdict,
    memory::{ActionOutcome, CheckMemory, LastAction},
    pods,
};

/// A list of the agent's is good for so long where the agent does not say that something changed.
const FRESH: Duration = Duration::from_secs(30);
/// Bytes of a log's beginning, and of its end.
const LOG_HEAD: u32 = 1_024;
const LOG_TAIL: u32 = 4_096;

/// What a pass may wait for the containers, and for what came of operations: less in all than a pass may take.
const FIND: Duration = Duration::from_secs(5);
const FOLLOW: Duration = Duration::from_secs(2);

/// Why nothing is known of the containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blind {
    /// This term has not heard the agent yet.
    Unheard(String),
    /// It may pass by itself.
    Unknown(String),
    /// A person must mend it.
    Refused(String),
}

/// The containers, and how each is spoken of at its home.
#[derive(Clone, Debug, Default)]
pub struct ContainersFound {
    pub containers: Vec<Container>,
    pub docker: BTreeMap<String, ContainerTarget>,
    pub pods: BTreeMap<String, PodContainer>,
    /// Limits in the workload's template, in bytes.
    pub template: BTreeMap<String, i64>,
}

/// The evidence of an end: the beginning and the end of its log.
pub type LogExcerpt = (String, String);

impl ContainerChecks {
    pub(super) async fn look(
        &self,
        spec: &ContainerHealthCheckSpec,
        base: &DeclaredObserved,
    ) -> Result<CheckObserved, StepError> {
        let key = &base.key;
        let memory = self.memories.get(&*self.world.parts.store, &base.uid, key).await?;
        let observed = CheckObserved { memory, dependencies: self.dependencies(key), ..CheckObserved::default() };
        if base.suspended {
            return Ok(observed);
        }
        let found = timeout(FIND, self.find(spec, key)).await;
        let late = || Err(Blind::Unknown(format!("what tells of them did not answer within {} s", FIND.as_secs())));
        let (found, mut outcomes) = (found.unwrap_or_else(|_| late()), BTreeMap::new());
        if found.is_ok() {
            // What it did not learn in time, the next pass asks again.
            let _ = timeout(FOLLOW, self.follow(spec, key, &observed.memory, &mut outcomes)).await;
        }
        let (parts, wishes) = (&self.world.parts, &self.world.shared.wishes);
        let state = self.state.lock();
        Ok(CheckObserved {
            requirements: self.world.requirements(&key.namespace, &spec.depends_on),
            found: Some(found),
            outcomes,
            probes: state.probes.get(key).cloned().unwrap_or_default(),
            logs: state.logs.get(key).cloned().unwrap_or_default(),
            hands_off: parts.observe || wishes.is_paused(Timestamp::now()),
            ..observed
        })
    }

    /// On which checks of its namespace each depends.
    fn dependencies(&self, key: &NamespacedName) -> BTreeMap<String, Vec<String>> {
        let all = self.world.feeds.checks.objects.state();
        let of = |check: &ContainerHealthCheck| {
            let on = check.spec.depends_on.iter().filter(|d| d.kind == RequiredKind::ContainerHealthCheck);
            on.map(|d| d.name.clone()).collect::<Vec<_>>()
        };
        let same = all.iter().filter(|check| NamespacedName::of(&***check).namespace == key.namespace);
        same.map(|check| (NamespacedName::of(&**check).name, of(check))).collect()
    }

    async fn find(&self, spec: &ContainerHealthCheckSpec, key: &NamespacedName) -> Result<ContainersFound, Blind> {
        match (&spec.target.docker, &spec.target.kubernetes) {
            (Some(target), _) => self.find_docker(target, key).await,
            (None, Some(target)) => self.find_pods(target, key).await,
            (None, None) => Err(Blind::Refused("set one of target.kubernetes and target.docker".into())),
        }
    }

    async fn find_pods(&self, target: &PodTarget, key: &NamespacedName) -> Result<ContainersFound, Blind> {
        let seen =
            self.world.parts.workloads.containers(&key.namespace, target).await.map_err(|error| match error {
                WorkloadError::Unavailable(_) => Blind::Unknown(error.to_string()),
                _ => Blind::Refused(error.to_string()),
            })?;
        let (containers, pods) = pods::containers(&seen);
        Ok(ContainersFound { containers, pods, template: seen.template_limits, ..ContainersFound::default() })
    }

    async fn find_docker(&self, target: &DockerTarget, key: &NamespacedName) -> Result<ContainersFound, Blind> {
        let agent = NamespacedName::new(&key.namespace, &target.host_agent_ref.name);
        let agents = &self.world.shared.agents;
        let Some(api) = agents.api(&agent) else {
            let name = &agent.name;
            return Err(Blind::Refused(format!(
                "target.docker.hostAgentRef names {name}, and there is no such HostAgent that can be asked: create it, or correct the name"
            )));
        };
        let revision = match agents.state(&agent) {
            Some((_, Some(silence))) => {
                return Err(Blind::Unknown(format!("host agent {}: {}", agent.name, silence.why)));
            }
            Some((Some(heard), None)) => {
                let runtime = heard.report.container_runtime.as_ref();
                if let Some(error) = runtime.and_then(|runtime| runtime.error.as_ref()) {
                    return Err(Blind::Unknown(format!("the container engine of {}: {error}", agent.name)));
                }
                heard.report.containers_revision
            }
            _ => return Err(Blind::Unheard(format!("host agent {} has not been heard yet", agent.name))),
        };
        let is_good = |known: &&KnownList| revision == Some(known.revision) && known.at.elapsed() < FRESH;
        if let Some(known) = self.state.lock().lists.get(key).filter(is_good) {
            return Ok(known.found.clone());
        }
        let query = ContainerQuery { selector: container::agent_selector(target) };
        let list = api.containers(&query).await.map_err(|error| match error {
            HostError::Unreachable { .. } | HostError::EngineUnavailable { .. } | HostError::BadReply { .. } => {
                Blind::Unknown(error.to_string())
            }
            _ => Blind::Refused(error.to_string()),
        })?;
        let (containers, docker) = container::agent_containers(target, &list);
        let found = ContainersFound { containers, docker, ..ContainersFound::default() };
        let known = KnownList { revision: list.revision, at: Instant::now(), found: found.clone() };
        self.state.lock().lists.insert(key.clone(), known);
        Ok(found)
    }

    /// What came of the operations that were begun, as far as that is known now.
    async fn follow(
        &self,
        spec: &ContainerHealthCheckSpec,
        key: &NamespacedName,
        memory: &CheckMemory,
        outcomes: &mut BTreeMap<String, ActionOutcome>,
    ) {
        let Some(target) = &spec.target.docker else { return };
        let Some(api) = self.world.shared.agents.api(&NamespacedName::new(&key.namespace, &target.host_agent_ref.name))
        else {
            return;
        };
        let open = memory.containers.iter().filter_map(|(name, one)| Some((name, one.last_action.as_ref()?)));
        for (name, did) in open.filter(|(_, did)| did.is_open()) {
            outcomes.extend(outcome(&api, did).await.map(|outcome| (name.clone(), outcome)));
        }
    }

    pub(super) async fn fetch_log(
        &self,
        spec: &ContainerHealthCheckSpec,
        key: &NamespacedName,
        found: &ContainersFound,
        name: &str,
    ) -> Option<LogExcerpt> {
        if let Some(pod) = found.pods.get(name) {
            let log = self.world.parts.workloads.log(&key.namespace, pod, LOG_TAIL.into()).await.ok()?;
            let masked = |text: &str| mask::masked(text, &[]);
            return Some((masked(&log.0).chars().take(LOG_HEAD as usize).collect(), masked(&log.1)));
        }
        let agent = &spec.target.docker.as_ref()?.host_agent_ref.name;
        let api = self.world.shared.agents.api(&NamespacedName::new(&key.namespace, agent))?;
        let target = found.docker.get(name)?.clone();
        let request = ContainerLogsRequest { target, head_bytes: LOG_HEAD, tail_bytes: LOG_TAIL };
        let log = api.container_logs(&request).await.ok()?;
        Some((log.head, log.tail))
    }

    pub(super) fn caller(&self) -> Caller {
        Caller { installation: self.world.parts.installation, epoch: self.term.fence().epoch }
    }
}

pub fn is_worth_a_log(verdict: &ContainerVerdict) -> bool {
    use crate::api::ContainerWord::{CrashLooping, Exited, Failed, Killed, OutOfMemory, Unhealthy};
    matches!(verdict.word, CrashLooping | Exited | Failed | Killed | OutOfMemory | Unhealthy)
}

async fn outcome(api: &HttpHost, did: &LastAction) -> Option<ActionOutcome> {
    let Some(operation) = &did.operation else {
        return Some(ActionOutcome::Lost("it is not known whether it was begun".into()));
    };
    match api.container_operation(operation).await {
        Ok(seen) if seen.phase == Phase::Succeeded => Some(ActionOutcome::Done),
        Ok(seen) if seen.phase == Phase::Failed => Some(ActionOutcome::Failed(seen.message)),
        Ok(_) => None,
        Err(error @ HostError::UnknownOperation { .. }) => Some(ActionOutcome::Lost(error.to_string())),
        Err(_) => None,
    }
}

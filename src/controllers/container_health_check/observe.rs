//! What a pass looks at: the containers at their host or in the cluster, what they depend on, what is remembered.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::time::timeout;

use crate::{
    api::{
        ContainerHealthCheck, ContainerHealthCheckSpec, DockerTarget, PodTarget, RECONCILE_REQUESTED_AT, RequiredKind,
    },
    host::{Caller, ContainerLogsRequest, ContainerQuery, ContainerTarget, HostError, HttpHost, Phase, mask},
    runtimes::{PodContainer, WorkloadError},
};

use super::{
    super::{
        declared::Declares,
        error::StepError,
        shared::{NamespacedName, is_new},
    },
    CheckObserved, ContainerChecks, Looked, cycle, docker,
    judge::ContainerVerdict,
    memory::{ActionOutcome, CheckMemory, ContainerMemory, LastAction},
    plan, pods,
    seen::{Container, ProbeHealth},
};

/// A list of the agent's is good for so long where the agent does not say that something changed.
const FRESH: Duration = Duration::from_secs(30);
/// Bytes of a log's beginning, and of its end.
const LOG_HEAD: u32 = 1_024;
const LOG_TAIL: u32 = 4_096;
/// Logs that one pass fetches.
const LOGS: usize = 4;

/// What a pass may wait for the containers, for what came of operations, and for logs: less in all than a pass may take.
const FIND: Duration = Duration::from_secs(5);
const FOLLOW: Duration = Duration::from_secs(2);
const EVIDENCE: Duration = Duration::from_secs(2);

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
        object: &ContainerHealthCheck,
        key: &NamespacedName,
    ) -> Result<CheckObserved, StepError> {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let (spec, now) = (&object.spec, Timestamp::now());
        let mut memory = self.memories.get(&*self.world.parts.store, &uid, key).await?;
        let wishes = &self.world.shared.wishes;
        let suspended = wishes.suspended(Self::KIND, key).unwrap_or(spec.suspend);
        if suspended {
            return Ok(CheckObserved { suspended, ..CheckObserved::new(uid) });
        }
        if let Some(way) = self.cycle(key) {
            return Ok(CheckObserved { cycle: Some(way), ..CheckObserved::new(uid) });
        }
        let found = timeout(FIND, self.find(spec, key)).await;
        let late = || Err(Blind::Unknown(format!("what tells of them did not answer within {} s", FIND.as_secs())));
        let mut found = match found.unwrap_or_else(|_| late()) {
            Ok(found) => found,
            Err(blind) => return Ok(CheckObserved { blind: Some(blind), ..CheckObserved::new(uid) }),
        };
        // What it did not learn in time, the next pass asks again.
        let _ = timeout(FOLLOW, self.follow(spec, key, &mut memory)).await;
        self.probe(spec, key, &mut found, now);
        let gate = self.world.gate(&key.namespace, &spec.depends_on, now);
        let contested = memory.contested(&found.template).filter(|_| !found.template.is_empty());
        let decision = plan::decide(
            &plan::CheckInput {
                spec,
                containers: &found.containers,
                hands_off: self.world.parts.observe || wishes.is_paused(now),
                waits_for: gate.held.as_deref(),
                resumed_at: self.resumed_at(object, key, &mut memory, now),
                starts_by_itself: spec.target.kubernetes.is_some(),
                contested: contested.is_some(),
                memory: &memory,
            },
            now,
        );
        let mut facts = CheckObserved {
            waits_for: gate.held,
            contested,
            looked: Some(Looked { decision, found, logs: BTreeMap::new() }),
            ..CheckObserved::new(uid)
        };
        let _ = timeout(EVIDENCE, self.evidence(spec, key, &mut facts)).await;
        Ok(facts)
    }

    /// A reconcile that was asked for, as each resume also is, ends what a person's stop holds.
    fn resumed_at(
        &self,
        object: &ContainerHealthCheck,
        key: &NamespacedName,
        memory: &mut CheckMemory,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let wishes = &self.world.shared.wishes;
        let token = wishes.requested(object, RECONCILE_REQUESTED_AT, Self::KIND, key);
        let asked = token.as_deref().is_some_and(|token| is_new(token, memory.handled_reconcile.as_deref()));
        // The first look at a check must not take an old request for a new one.
        let fresh = asked && (memory.handled_reconcile.is_some() || object.status.is_some());
        if asked {
            memory.handled_reconcile = token;
        }
        fresh.then_some(now)
    }

    fn cycle(&self, key: &NamespacedName) -> Option<String> {
        let all = self.world.feeds.checks.objects.state();
        let of = |check: &ContainerHealthCheck| {
            let on = check.spec.depends_on.iter().filter(|d| d.kind == RequiredKind::ContainerHealthCheck);
            on.map(|d| d.name.clone()).collect::<Vec<_>>()
        };
        let same = all.iter().filter(|check| NamespacedName::of(&***check).namespace == key.namespace);
        let edges: BTreeMap<_, _> = same.map(|check| (NamespacedName::of(&**check).name, of(check))).collect();
        cycle::cycle(&key.name, &edges).map(|way| way.join(" → "))
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
        if let Some(known) = self.lock().lists.get(key).filter(|known| known.is_good(revision, FRESH)) {
            return Ok(known.found.clone());
        }
        let query = ContainerQuery { selector: docker::selector(target) };
        let list = api.containers(&query).await.map_err(|error| match error {
            HostError::Unreachable { .. } | HostError::EngineUnavailable { .. } | HostError::BadReply { .. } => {
                Blind::Unknown(error.to_string())
            }
            _ => Blind::Refused(error.to_string()),
        })?;
        let (containers, docker) = docker::containers(target, &list);
        let found = ContainersFound { containers, docker, ..ContainersFound::default() };
        self.lock().lists.insert(key.clone(), super::Known::new(list.revision, found.clone()));
        Ok(found)
    }

    /// What came of the operations that were begun.
    async fn follow(&self, spec: &ContainerHealthCheckSpec, key: &NamespacedName, memory: &mut CheckMemory) {
        let Some(target) = &spec.target.docker else { return };
        let Some(api) = self.world.shared.agents.api(&NamespacedName::new(&key.namespace, &target.host_agent_ref.name))
        else {
            return;
        };
        for did in memory.containers.values_mut().filter_map(|one| one.last_action.as_mut()).filter(|did| did.is_open())
        {
            did.outcome = outcome(&api, did).await;
            if !did.is_open() {
                // What was listed before says nothing of what has been done.
                self.lock().lists.remove(key);
            }
        }
    }

    /// Logs of what is not well, once for each end.
    async fn evidence(&self, spec: &ContainerHealthCheckSpec, key: &NamespacedName, facts: &mut CheckObserved) {
        let Some(looked) = &mut facts.looked else { return };
        let mut fetched = 0;
        for entry in looked.decision.entries.iter().filter(|entry| is_worth_a_log(&entry.verdict)).take(super::SHOWN) {
            let container = &entry.container;
            let of = (key.clone(), container.name.clone());
            let end = format!("{} {:?} {}", container.instance, container.life, container.restarts);
            let known = self.lock().logs.get(&of).filter(|(of_end, _)| *of_end == end).map(|(_, log)| log.clone());
            let log = match known {
                Some(log) => Some(log),
                None if fetched < LOGS => {
                    fetched += 1;
                    let log = self.fetch_log(spec, key, &looked.found, &container.name).await;
                    if let Some(log) = &log {
                        self.lock().logs.insert(of, (end, log.clone()));
                    }
                    log
                }
                None => None,
            };
            looked.logs.extend(log.map(|log| (container.name.clone(), log)));
        }
    }

    async fn fetch_log(
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

fn is_worth_a_log(verdict: &ContainerVerdict) -> bool {
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

/// Whether its own probe passed lately.
#[derive(Clone, Debug, Default)]
pub struct ProbeState {
    pub instance: String,
    /// When it was asked last.
    pub at: Option<Timestamp>,
    /// Its answer is not there yet.
    pub asking: bool,
    pub failures: i32,
    pub passed: bool,
    pub said: String,
}

impl ProbeState {
    /// What it means for a running container.
    pub fn health(&self, threshold: i32) -> ProbeHealth {
        match (self.failures >= threshold, self.passed) {
            (true, _) => ProbeHealth::Failing(format!("its probe fails: {}", self.said)),
            (false, true) => ProbeHealth::Well,
            (false, false) => ProbeHealth::Starting,
        }
    }
}

impl ContainerMemory {
    /// Of what was done last, for the status.
    pub fn told(&self) -> Option<String> {
        self.last_action.as_ref().map(LastAction::told)
    }
}

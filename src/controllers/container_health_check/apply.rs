//! Carries out what was planned: memory first, then the act, then what came of it.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    api::{ContainerHealthCheckSpec, ContainerStatusEntry},
    host::{ContainerAction, ContainerOperationRequest, MAX_REASON_CHARS},
    platform::Note,
    telemetry::{ContainerMetrics, crash_point},
};

use super::{
    super::{
        declared::{DeclaredObserved, PlanOf},
        error::StepError,
        shared::NamespacedName,
    },
    CheckObserved, ContainerChecks, KnownLog,
    memory::{ActionOutcome, CheckMemory, ContainerStep, LastAction},
    observe::ContainersFound,
    plan::ContainerAct,
    status::{show_log, shown_name},
};

/// What a pass may wait for logs.
const EVIDENCE: Duration = Duration::from_secs(2);

/// What became of an act.
enum Acted {
    /// It goes on at the host under this id.
    Begun(String),
    Ended(ActionOutcome),
}

impl Acted {
    fn failed(why: impl Into<String>) -> Self {
        Self::Ended(ActionOutcome::Failed(why.into()))
    }
}

impl ContainerChecks {
    pub(super) async fn carry_out(
        &self,
        spec: &ContainerHealthCheckSpec,
        observed: &DeclaredObserved<CheckObserved>,
        plan: &mut PlanOf<Self>,
    ) -> Result<(), StepError> {
        let (key, uid, metrics) = (&observed.key, &observed.uid, &self.world.parts.metrics.containers);
        let (Some(looked), Some(Ok(found))) = (&plan.action.looked, &observed.facts.found) else {
            metrics.unknown(&key.namespace, &key.name);
            return Ok(());
        };
        if looked.relist {
            self.state.lock().lists.remove(key);
        }
        self.probe(spec, key, found, &looked.probe, looked.planned_at);
        let (decision, mut memory) = (&looked.decision, looked.decision.memory.clone());
        metrics.seen(&key.namespace, &key.name, decision.entries.len(), decision.unhealthy);
        // Before anything is started again: then the log is that of the end.
        let _ = timeout(EVIDENCE, self.fetch_logs(spec, key, found, &looked.fetch, &mut plan.status.containers)).await;
        if !decision.acts.is_empty() && self.world.shared.wishes.read().await? {
            return Err(StepError::Overtaken);
        }
        self.commit(uid, key, &memory).await?;
        for act in decision.acts.iter().take_while(|_| self.term.still_leads()) {
            crash_point("container.committed");
            let operation_key = memory.containers.get(&act.container).and_then(|one| one.last_action.as_ref());
            let operation_key = format!("{uid}/{}", operation_key.map_or("", |did| did.key.as_str()));
            let acted = self.act(spec, key, found, act, &operation_key).await;
            plan.notes.push(note(act, &acted));
            record(&mut memory, found, act, acted);
        }
        if !decision.acts.is_empty() {
            self.state.lock().lists.remove(key);
        }
        self.commit(uid, key, &memory).await
    }

    /// Fetches logs into the status, and remembers them.
    async fn fetch_logs(
        &self,
        spec: &ContainerHealthCheckSpec,
        key: &NamespacedName,
        found: &ContainersFound,
        fetch: &[(String, String)],
        entries: &mut [ContainerStatusEntry],
    ) {
        for (name, end) in fetch {
            let Some(log) = self.fetch_log(spec, key, found, name).await.map(Arc::new) else { continue };
            if let Some(entry) = entries.iter_mut().find(|entry| entry.name == shown_name(name)) {
                show_log(entry, &log);
            }
            let known = KnownLog { end: end.clone(), log };
            self.state.lock().logs.entry(key.clone()).or_default().insert(name.clone(), known);
        }
    }

    /// What cannot be recorded is not done.
    async fn commit(&self, uid: &str, key: &NamespacedName, memory: &CheckMemory) -> Result<(), StepError> {
        let parts = &self.world.parts;
        if let Some(old) = self.memories.commit(&*parts.store, self.term.fence(), uid, key, memory).await? {
            count(&parts.metrics.containers, key, &old, memory);
        }
        Ok(())
    }

    async fn act(
        &self,
        spec: &ContainerHealthCheckSpec,
        key: &NamespacedName,
        found: &ContainersFound,
        act: &ContainerAct,
        operation_key: &str,
    ) -> Acted {
        if let Some(docker) = &spec.target.docker {
            let agent = NamespacedName::new(&key.namespace, &docker.host_agent_ref.name);
            return self.act_at_host(&agent, key, found, act, operation_key).await;
        }
        let Some(pod) = found.pods.get(&act.container) else { return Acted::failed("its pod is gone") };
        let (workloads, namespace) = (&self.world.parts.workloads, key.namespace.as_str());
        let workload = spec.target.kubernetes.as_ref().and_then(|target| target.workload_ref.as_ref());
        let result = match (act.todo, workload) {
            (ContainerStep::Resize(bytes), _) => workloads.resize(namespace, pod, bytes).await,
            (ContainerStep::Patch(bytes), Some(workload)) => {
                workloads.patch_limit(namespace, workload, &pod.container, bytes).await
            }
            (ContainerStep::Patch(_), None) => return Acted::failed("there is no workload to patch"),
            (ContainerStep::Up | ContainerStep::Restart | ContainerStep::Stop, _) => {
                workloads.delete_pod(namespace, &pod.pod, &pod.uid).await
            }
        };
        match result {
            Ok(()) => Acted::Ended(ActionOutcome::Done),
            Err(error) if error.is_gone() => Acted::Ended(ActionOutcome::Done),
            Err(error) => Acted::failed(error.to_string()),
        }
    }

    async fn act_at_host(
        &self,
        agent: &NamespacedName,
        key: &NamespacedName,
        found: &ContainersFound,
        act: &ContainerAct,
        operation_key: &str,
    ) -> Acted {
        let (Some(api), Some(target)) = (self.world.shared.agents.api(agent), found.docker.get(&act.container)) else {
            return Acted::failed(format!("host agent {} can't be asked", agent.name));
        };
        let action = match act.todo {
            ContainerStep::Up => ContainerAction::Up,
            ContainerStep::Restart => ContainerAction::Restart,
            ContainerStep::Stop => ContainerAction::Stop,
            ContainerStep::Resize(bytes) | ContainerStep::Patch(bytes) => {
                ContainerAction::Resize { memory_bytes: bytes }
            }
        };
        let request = ContainerOperationRequest {
            target: target.clone(),
            id: (!act.instance.is_empty()).then(|| act.instance.clone()),
            action,
            reason: format!("ContainerHealthCheck {key}: {}", act.reason).chars().take(MAX_REASON_CHARS).collect(),
        };
        match api.operate_container(&request, operation_key, self.caller()).await {
            Ok(operation) => Acted::Begun(operation.id),
            Err(error) => Acted::failed(error.to_string()),
        }
    }
}

/// Counts what is over since the last commit.
fn count(metrics: &ContainerMetrics, key: &NamespacedName, old: &CheckMemory, new: &CheckMemory) {
    for (name, one) in &new.containers {
        let before = old.containers.get(name);
        let oom = one.oom_total.saturating_sub(before.map_or(0, |before| before.oom_total));
        if oom > 0 {
            metrics.ran_out_of_memory(&key.namespace, &key.name, oom);
        }
        let Some((did, outcome)) = one.last_action.as_ref().and_then(|did| Some((did, did.outcome.as_ref()?))) else {
            continue;
        };
        let was_over = |known: &LastAction| known.key == did.key && !known.is_open();
        if !before.and_then(|before| before.last_action.as_ref()).is_some_and(was_over) {
            let outcome = if *outcome == ActionOutcome::Done { "Done" } else { "Failed" };
            metrics.acted(&key.namespace, &key.name, did.todo.word(), outcome);
        }
    }
}

fn record(memory: &mut CheckMemory, found: &ContainersFound, act: &ContainerAct, acted: Acted) {
    let Some(did) = memory.containers.get_mut(&act.container).and_then(|one| one.last_action.as_mut()) else { return };
    match acted {
        Acted::Begun(id) => did.operation = Some(id),
        Acted::Ended(outcome) => did.outcome = Some(outcome),
    }
    if let (ContainerStep::Patch(bytes), true, Some(pod)) = (act.todo, did.is_done(), found.pods.get(&act.container)) {
        memory.written.insert(pod.container.clone(), bytes);
    }
}

fn note(act: &ContainerAct, acted: &Acted) -> Note {
    let what = act.todo.told();
    let (warning, rest) = match acted {
        Acted::Begun(_) | Acted::Ended(ActionOutcome::Done) => (false, String::new()),
        Acted::Ended(outcome) => (true, format!("; {outcome}")),
    };
    let mut message = format!("{}: {what}, because {}{rest}", act.container, act.reason);
    if let Some((end, _)) = message.char_indices().nth(900) {
        message.truncate(end);
    }
    let reason = match act.todo {
        ContainerStep::Up => "ContainerStarted",
        ContainerStep::Restart => "ContainerRestarted",
        ContainerStep::Stop => "ContainerStopped",
        ContainerStep::Resize(_) | ContainerStep::Patch(_) => "MemoryLimitRaised",
    };
    Note { warning, reason: reason.into(), action: act.todo.word().into(), message }
}

//! Host agents as they were last heard; checks of containers, experts, pools and schedules as their statuses tell.

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api::{
        Condition, ConditionStatus, ContainerHealthCheck, ContainerHealthCheckState as Check, DesiredState, HostAgent,
        HostAgentState, Kind, Mode, ObjectKey, Requirement, ResourceStatus, condition,
    },
    causes::{CauseClass, CauseFact, CauseHealth, CauseTrouble, WhoActs},
    host::HostErrorKind,
};

use super::super::{declared::ControlPlane, driver::KindObject, feed::Feed, shared::NamespacedName};

/// Agents that are asked.
pub fn agents(world: &ControlPlane) -> Vec<CauseFact> {
    world.feeds.agents.objects.state().iter().map(|agent| agent_fact(world, agent)).collect()
}

fn agent_fact(world: &ControlPlane, agent: &HostAgent) -> CauseFact {
    let key = NamespacedName::of(agent);
    let suspended = world.shared.wishes.suspended(Kind::HostAgent, &key).unwrap_or(agent.spec.suspend);
    let state = world.shared.agents.state(&key);
    let health = match state {
        _ if suspended => CauseHealth::Wished,
        Some((_, Some(silence))) => {
            let (class, acts) = match silence.kind {
                HostErrorKind::Unauthorized | HostErrorKind::Untrusted => (CauseClass::Config, WhoActs::Person),
                _ => (CauseClass::Down, WhoActs::Nobody),
            };
            CauseHealth::Unwell(CauseTrouble {
                class,
                acts,
                since: Some(silence.since),
                reason: if class == CauseClass::Down { "Unreachable" } else { "Unauthorized" }.to_owned(),
                message: silence.why,
                tried: Vec::new(),
                next: format!("see that the host of {} is up, and that `ostler agent` runs there", agent.spec.url),
                silent: class == CauseClass::Down,
            })
        }
        Some((Some(_), None)) if world.shared.agents.refusal(&key).is_some() => {
            stalled(agent, HostAgentState::Refusing.as_str())
        }
        Some((Some(_), None)) => CauseHealth::Well,
        Some((None, None)) | None => stalled(agent, HostAgentState::SecretMissing.as_str()),
    };
    CauseFact::new(ObjectKey::new(Kind::HostAgent, key.namespace, key.name), health)
}

/// What only its status tells: that it can't be asked at all.
fn stalled(agent: &HostAgent, reason: &str) -> CauseHealth {
    let conditions = agent.status.as_ref().map(|status| status.base.conditions.as_slice()).unwrap_or_default();
    match condition(conditions, "Stalled").filter(|c| c.status == ConditionStatus::True && c.reason == reason) {
        Some(stalled) => CauseHealth::Unwell(trouble(CauseClass::Config, WhoActs::Person, stalled)),
        None => CauseHealth::Unknown,
    }
}

fn trouble(class: CauseClass, acts: WhoActs, about: &Condition) -> CauseTrouble {
    CauseTrouble {
        class,
        acts,
        since: Some(about.last_transition_time.0),
        reason: about.reason.clone(),
        message: about.message.clone(),
        tried: Vec::new(),
        next: String::new(),
        silent: false,
    }
}

pub fn checks(world: &ControlPlane, now: Timestamp) -> Vec<CauseFact> {
    let paused = world.parts.observe || world.shared.wishes.is_paused(now);
    world.feeds.checks.objects.state().iter().map(|check| check_fact(world, check, paused)).collect()
}

fn check_fact(world: &ControlPlane, check: &ContainerHealthCheck, paused: bool) -> CauseFact {
    let (key, spec) = (NamespacedName::of(check), &check.spec);
    let agent = spec.target.docker.as_ref().map(|docker| &docker.host_agent_ref.name);
    let is_silent = agent.is_some_and(|agent| {
        let state = world.shared.agents.state(&NamespacedName::new(&key.namespace, agent));
        state.is_some_and(|(_, silence)| silence.is_some())
    });
    let suspended = world.shared.wishes.suspended(Kind::ContainerHealthCheck, &key).unwrap_or(spec.suspend);
    let wished = suspended || spec.desired_state == DesiredState::Stopped;
    let mut fact = CauseFact::new(
        ObjectKey::new(Kind::ContainerHealthCheck, &*key.namespace, &*key.name),
        if wished { CauseHealth::Wished } else { check_health(check, is_silent, paused || spec.mode == Mode::Observe) },
    );
    fact.points_to =
        agent.map(|agent| ObjectKey::new(Kind::HostAgent, &*key.namespace, agent.as_str())).into_iter().collect();
    fact.points_to.extend(required(&key.namespace, &spec.depends_on));
    fact
}

fn check_health(check: &ContainerHealthCheck, is_silent: bool, observed: bool) -> CauseHealth {
    let Some(status) = &check.status else { return CauseHealth::Unknown };
    let stalled = condition(&status.base.conditions, "Stalled").is_some_and(|c| c.status == ConditionStatus::True);
    let class = match status.base.state {
        _ if is_silent => return CauseHealth::Waiting,
        None | Some(Check::Proving | Check::Unknown) => return CauseHealth::Unknown,
        Some(Check::Healthy) => return CauseHealth::Well,
        Some(Check::HeldByPerson | Check::Suspended) => return CauseHealth::Wished,
        Some(Check::WaitingForDependency) => return CauseHealth::Waiting,
        Some(Check::OutOfMemory) => CauseClass::Memory,
        Some(Check::Refused | Check::DependencyCycle | Check::NothingSelected | Check::FieldContested) => {
            CauseClass::Config
        }
        Some(Check::Degraded | Check::CrashLooping | Check::Failed | Check::TooManyUnhealthy) => CauseClass::Down,
    };
    let acts = match (observed, stalled) {
        (true, _) => WhoActs::Wished,
        (false, true) => WhoActs::Person,
        (false, false) => WhoActs::Healing,
    };
    match condition(&status.base.conditions, "Ready").filter(|ready| ready.status != ConditionStatus::True) {
        Some(ready) => CauseHealth::Unwell(trouble(class, acts, ready)),
        None => CauseHealth::Well,
    }
}

/// Experts, pools and schedules.
pub fn declared(world: &ControlPlane, now: Timestamp) -> Vec<CauseFact> {
    let feeds = &world.feeds;
    let paused = world.shared.wishes.is_paused(now);
    let mut facts = of_kind(world, &feeds.experts, Kind::Expert, paused, |expert| (expert.spec.suspend, Vec::new()));
    facts.extend(of_kind(world, &feeds.pools, Kind::WorkerPool, paused, |pool| (pool.spec.suspend, Vec::new())));
    facts.extend(of_kind(world, &feeds.schedules, Kind::TaskSchedule, paused, |schedule| {
        let namespace = schedule.namespace().unwrap_or_default();
        (schedule.spec.suspend, required(&namespace, &schedule.spec.requires))
    }));
    facts
}

fn of_kind<K: KindObject>(
    world: &ControlPlane,
    feed: &Feed<K>,
    kind: Kind,
    paused: bool,
    of: impl Fn(&K) -> (bool, Vec<ObjectKey>),
) -> Vec<CauseFact> {
    let fact = |object: &K| {
        let (key, (suspend, points_to)) = (NamespacedName::of(object), of(object));
        let suspended = world.shared.wishes.suspended(kind, &key).unwrap_or(suspend);
        let conditions = object.status().map(|status| status.base().conditions.clone()).unwrap_or_default();
        let health = if suspended { CauseHealth::Wished } else { by_conditions(&conditions, paused) };
        CauseFact { points_to, ..CauseFact::new(ObjectKey::new(kind, key.namespace, key.name), health) }
    };
    feed.objects.state().iter().map(|object| fact(object)).collect()
}

fn by_conditions(conditions: &[Condition], paused: bool) -> CauseHealth {
    let is = |type_: &str| condition(conditions, type_).filter(|c| c.status == ConditionStatus::True);
    if let Some(stalled) = is("Stalled") {
        let acts = if paused { WhoActs::Wished } else { WhoActs::Person };
        return CauseHealth::Unwell(trouble(CauseClass::Config, acts, stalled));
    }
    match (is("Ready"), is("Held")) {
        (Some(_), _) => CauseHealth::Well,
        (None, Some(_)) => CauseHealth::Waiting,
        (None, None) => CauseHealth::Unknown,
    }
}

/// What is named under `requires` or `dependsOn`.
pub fn required(namespace: &str, requires: &[Requirement]) -> Vec<ObjectKey> {
    requires.iter().map(|required| ObjectKey::new(required.kind.as_str(), namespace, &*required.name)).collect()
}

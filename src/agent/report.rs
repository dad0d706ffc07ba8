//! What the agent tells of its host and its services.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    config::{CheckSpec, ManagerSpec},
    os::{self, Processes},
    plan,
    service::{PortSight, Service, ServiceError, instance_of_run, running_seconds},
};
use crate::host::{
    ContainerReport, ContainerState, Instance, MAX_FAILURE_CHARS, Manager, ServiceReport, ServiceState, mask::one_line,
};

/// Tells those who wait for a report that something of a service may have changed; shared by all services of an agent.
#[derive(Clone, Debug)]
pub struct ReportChanges {
    count: Arc<watch::Sender<u64>>,
}

impl Default for ReportChanges {
    fn default() -> Self {
        Self { count: Arc::new(watch::Sender::new(0)) }
    }
}

impl ReportChanges {
    /// Something may have changed: who waits looks again. Cheap, and harmless when nothing has.
    pub fn tell(&self) {
        self.count.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Another number: something may have changed meanwhile.
    pub fn count(&self) -> u64 {
        *self.count.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }
}

/// Reports all services as they are now. Blocks while the processes are read.
pub fn services(all: &[Arc<Service>], now: Timestamp) -> Vec<ServiceReport> {
    let processes = Processes::read().unwrap_or_default();
    all.iter().map(|s| service(s, &processes, now)).collect()
}

fn service(service: &Arc<Service>, processes: &Processes, now: Timestamp) -> ServiceReport {
    let manager = match &service.spec.manager {
        ManagerSpec::Process(_) => Manager::Process,
        ManagerSpec::Command(_) => Manager::Command,
        ManagerSpec::Container(_) => Manager::Container,
    };
    let seen = service.sight(processes);
    if let Err(error) = &seen {
        tracing::warn!(service = %service.spec.name, %error, "cannot inspect the service");
    }
    let container = (manager == Manager::Container).then(|| service.container());
    let known = seen.is_ok() && !matches!(container, Some(Err(_)));
    let container = container.and_then(Result::ok).flatten();
    let (own, port) = seen.unwrap_or_default();
    // A command's process is nobody's child here: who has the port is as near as one gets.
    let instance = match manager {
        Manager::Process => own,
        Manager::Container => container.as_ref().and_then(instance_of_run),
        _ => port.as_ref().and_then(|p| p.owner.pid).and_then(os::instance_of),
    };
    if let (Manager::Command, Some(owner)) = (manager, &instance) {
        service.note_port_owner(owner);
    }
    let memory = service.keeper.get();
    let mut state = match manager {
        _ if !known => ServiceState::Unknown,
        Manager::Process => state_of_process(instance.as_ref(), port.as_ref(), service),
        Manager::Container => state_of_container(container.as_ref(), service),
        Manager::Command | Manager::Other => state_by_command(instance.as_ref(), port.as_ref(), service),
    };
    if state == ServiceState::Stopped && service.starts_by_itself(now) {
        state = ServiceState::Starting;
    }
    let last_failure = match (state, &port) {
        (ServiceState::Foreign, Some(port)) => {
            let text = ServiceError::Foreign { port: port.owner.port, owner: port.describe() }.to_string();
            Some(one_line(&text, MAX_FAILURE_CHARS))
        }
        _ => memory.last_failure,
    };
    let (last_check, operation) = {
        let live = service.live();
        (live.last_check.clone(), live.operation.clone())
    };
    let wanted = service.spec.user();
    let process = instance.as_ref().filter(|_| manager != Manager::Container);
    let tree = process.map(|i| processes.tree(i.pid)).unwrap_or_default();
    ServiceReport {
        name: service.spec.name.clone(),
        manager,
        state,
        user: process.filter(|i| !is_becoming(i.pid, wanted)).and_then(|i| os::uid_of(i.pid)).map(os::user_name),
        wanted_user: wanted.cloned(),
        cpu_seconds: process.is_some().then(|| tree.iter().map(|p| p.cpu_seconds).sum()),
        running_seconds: match &container {
            Some(container) => running_seconds(container, now),
            None => instance.as_ref().and_then(os::running_seconds),
        },
        accepting_since: service.accepting_since(instance.as_ref()),
        instance,
        last_exit: memory.last_exit,
        last_failure,
        holds: plan::active(&memory.holds, now).cloned().collect(),
        port_owner: port.map(|p| p.owner),
        self_starts: memory.self_starts,
        failed_starts_in_row: memory.failed_starts_in_row,
        gave_up: memory.failed_starts_in_row >= plan::MAX_FAILED_STARTS,
        out_of_memory_at: memory.out_of_memory_at,
        last_check,
        operation,
    }
}

/// For a moment a process is still `agent-exec`, on its way from the agent's user to its own: not a wrong one.
fn is_becoming(pid: u32, wanted: Option<&String>) -> bool {
    wanted.is_some() && os::command_line(pid).is_some_and(|c| c.contains(" agent-exec --dir "))
}

fn state_of_process(own: Option<&Instance>, port: Option<&PortSight>, service: &Service) -> ServiceState {
    match own {
        _ if port.is_some_and(|p| !p.own) => ServiceState::Foreign,
        None => ServiceState::Stopped,
        Some(_) if service.is_starting(own) => ServiceState::Starting,
        Some(_) => ServiceState::Running,
    }
}

fn state_of_container(container: Option<&ContainerReport>, service: &Service) -> ServiceState {
    let Some(container) = container else { return ServiceState::Stopped };
    match container.state {
        ContainerState::Running if service.is_starting(instance_of_run(container).as_ref()) => ServiceState::Starting,
        ContainerState::Running => ServiceState::Running,
        ContainerState::Restarting => ServiceState::Starting,
        _ => ServiceState::Stopped,
    }
}

/// Who has the port is known now; what the commands said is as old as the last check.
fn state_by_command(owner: Option<&Instance>, port: Option<&PortSight>, service: &Service) -> ServiceState {
    if service.is_starting(owner) {
        return ServiceState::Starting;
    }
    let live = service.live();
    let port_tells = service.spec.check.as_ref().is_some_and(CheckSpec::is_here);
    let said = live.status_up.or(live.last_check.as_ref().map(|c| c.ok));
    match (port_tells, port, said) {
        (true, Some(_), _) | (false, _, Some(true)) => ServiceState::Running,
        (true, None, _) | (false, _, Some(false)) => ServiceState::Stopped,
        (false, _, None) => ServiceState::Unknown,
    }
}

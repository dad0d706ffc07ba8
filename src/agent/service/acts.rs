//! Starting, stopping, restarting: what a runner does to its service, one at a time.

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};

use super::{
    Service, command,
    error::ServiceError,
    oom, process,
    wait::{Patience, Started},
};
use crate::{
    agent::{
        config::{Commands, ManagerSpec},
        os::Processes,
        plan::Seen,
    },
    host::Instance,
    telemetry::crash_point,
};

impl Service {
    /// Starts what does not run, and waits until it answers.
    pub async fn start(self: &Arc<Self>, patience: &Patience) -> Result<&'static str, ServiceError> {
        let spec = match &self.spec.manager {
            ManagerSpec::Process(spec) => spec,
            ManagerSpec::Command(commands) => return self.start_by_command(commands, patience).await,
            ManagerSpec::Container(_) => return self.start_container(patience).await,
        };
        if let Some(instance) = self.running().await? {
            self.wait_up(Some(Started { instance, exit: None }), patience).await?;
            return Ok("it runs already");
        }
        self.clear_leftovers().await?;
        let kills_before = oom::kills();
        let (instance, child) = process::spawn(&self.launcher, &spec.start, &self.record, &spec.log).await?;
        let (tell, exit) = watch::channel(None);
        {
            let mut live = self.live();
            live.started_at = Some(Instant::now());
            live.reaping = Some(instance.clone());
            live.kills_before = kills_before;
        }
        tracing::info!(service = %self.spec.name, pid = instance.pid, "started");
        self.changes.tell();
        self.reap(instance.clone(), child, tell);
        self.wait_up(Some(Started { instance, exit: Some(exit) }), patience).await?;
        Ok("started")
    }

    async fn start_by_command(
        self: &Arc<Self>,
        commands: &Commands,
        patience: &Patience,
    ) -> Result<&'static str, ServiceError> {
        if self.look(false).await? == Seen::Up {
            return Ok("it runs already");
        }
        self.live().started_at = Some(Instant::now());
        command::run(&self.launcher, &commands.start).await?;
        self.wait_up(None, patience).await?;
        Ok("started")
    }

    /// The service's own process. An error when another has its port and may not be taken over.
    async fn running(self: &Arc<Self>) -> Result<Option<Instance>, ServiceError> {
        let (own, port) = self.sight_now().await?;
        if own.is_some() {
            return Ok(own);
        }
        match port.filter(|p| !p.own) {
            None => Ok(None),
            Some(port) => {
                if self.adopt(None, Some(&port))? {
                    return Ok(process::own(&self.record)?);
                }
                Err(ServiceError::Foreign { port: port.owner.port, owner: port.describe() })
            }
        }
    }

    /// Stops what runs; that nothing runs is fine.
    pub async fn stop(self: &Arc<Self>) -> Result<&'static str, ServiceError> {
        match &self.spec.manager {
            ManagerSpec::Command(commands) => {
                command::run(&self.launcher, &commands.stop).await?;
                Ok("stopped")
            }
            ManagerSpec::Container(_) => self.stop_container().await,
            ManagerSpec::Process(spec) => {
                let Some(instance) = self.running().await? else {
                    self.clear_leftovers().await?;
                    return Ok("it was not running");
                };
                self.live().stopping = Some(instance.clone());
                let stopped = process::stop(&instance, spec.stop_grace).await;
                if stopped.is_ok() {
                    tracing::info!(service = %self.spec.name, pid = instance.pid, "stopped");
                    self.note_exit_unseen();
                }
                stopped.map(|()| "stopped")
            }
        }
    }

    /// Ends what a process that is gone left running: it may hold the port, or the device's memory.
    async fn clear_leftovers(&self) -> Result<(), ServiceError> {
        let ManagerSpec::Process(spec) = &self.spec.manager else {
            return Ok(());
        };
        let record = process::read_record(&self.record)?;
        let processes = Processes::read().map_err(|e| ServiceError::Look(e.to_string()))?;
        let left: Vec<u32> = process::leftovers(record.as_ref(), &processes).iter().map(|p| p.pid).collect();
        if let (Some(record), false) = (record, left.is_empty()) {
            tracing::warn!(service = %self.spec.name, pids = ?left, "ending what the last process left running");
            process::stop(&record.instance, spec.stop_grace).await?;
        }
        Ok(())
    }

    /// Stops, starts, and waits until it answers.
    pub async fn restart(self: &Arc<Self>, patience: &Patience) -> Result<&'static str, ServiceError> {
        match &self.spec.manager {
            ManagerSpec::Container(_) => return self.restart_container(patience).await,
            ManagerSpec::Process(_) => {
                self.stop().await?;
                crash_point("agent.after-stop-before-start");
                self.start(patience).await?;
            }
            ManagerSpec::Command(commands) => {
                self.live().started_at = Some(Instant::now());
                command::restart(&self.launcher, commands).await?;
                self.wait_up(None, patience).await?;
            }
        }
        Ok("restarted")
    }
}

//! Starting, stopping, restarting: what a runner does to its service, one at a time.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep},
};

use super::{
    Service,
    error::ServiceError,
    log, oom,
    process::{self, SpawnedProcess},
    wait::{Started, WaitContext},
};
use crate::{
    agent::{
        config::{Commands, ManagerSpec},
        keep::ServiceRecord,
        os::Processes,
        plan::ServiceObserved,
    },
    host::Instance,
    telemetry::crash_point,
};

/// How long the port of a process that has just ended may stay taken.
const PORT_TIME: Duration = Duration::from_secs(10);
const PORT_PERIOD: Duration = Duration::from_millis(50);
const LATELY: SignedDuration = SignedDuration::from_secs(60);
/// How long the kernel may take to tell of a child's end after it is gone.
const EXIT_TIME: Duration = Duration::from_secs(2);

impl Service {
    /// Starts what does not run, and waits until it answers.
    pub async fn start(self: &Arc<Self>, patience: &WaitContext) -> Result<&'static str, ServiceError> {
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
        self.live().log_begun = log::length(&spec.log.file);
        let SpawnedProcess { instance, child, failed } =
            process::spawn(&self.launcher, &spec.start, &self.record, &spec.log).await?;
        let (tell, exit) = watch::channel(None);
        {
            let mut live = self.live();
            live.reaping = Some(instance.clone());
            live.kills_before = kills_before;
        }
        self.reap(instance.clone(), child, tell);
        if let Some(cause) = failed {
            self.exit_told(&instance).await;
            return Err(ServiceError::Spawn { cause });
        }
        tracing::info!(service = %self.spec.name, pid = instance.pid, "process started");
        self.began(Some(instance.clone()));
        self.wait_up(Some(Started { instance, exit: Some(exit) }), patience).await?;
        Ok("started")
    }

    async fn start_by_command(
        self: &Arc<Self>,
        commands: &Commands,
        patience: &WaitContext,
    ) -> Result<&'static str, ServiceError> {
        if self.look(false).await? == ServiceObserved::Up {
            return Ok("it runs already");
        }
        self.launcher.run(&commands.start).await?.or_failed()?;
        self.began(None);
        self.wait_up(None, patience).await?;
        Ok("started")
    }

    /// The service's own process. An error when another has its port and may not be taken over. What the service's own last
    /// process left may keep the port for a moment: then it waits for the port.
    async fn running(self: &Arc<Self>) -> Result<Option<Instance>, ServiceError> {
        let deadline = Instant::now() + PORT_TIME;
        loop {
            let (own, port) = self.sight_now().await?;
            if own.is_some() {
                return Ok(own);
            }
            let Some(port) = port.filter(|p| !p.own) else { return Ok(None) };
            if self.adopt(None, Some(&port))? {
                return Ok(process::own(&self.record)?);
            }
            if Instant::now() > deadline || !self.ended_lately() {
                return Err(ServiceError::Foreign { port: port.owner.port, owner: port.describe() });
            }
            sleep(PORT_PERIOD).await;
        }
    }

    /// Whether a process of the service's own ended a moment ago, or its end is still to be told.
    fn ended_lately(&self) -> bool {
        let last = self.keeper.get().last_exit;
        self.live().reaping.is_some() || last.is_some_and(|e| Timestamp::now().duration_since(e.at).abs() < LATELY)
    }

    /// Stops what runs; that nothing runs is fine.
    pub async fn stop(self: &Arc<Self>) -> Result<&'static str, ServiceError> {
        match &self.spec.manager {
            ManagerSpec::Command(commands) => {
                self.launcher.run(&commands.stop).await?.or_failed()?;
                self.remember(|m| m.start = None);
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
                    tracing::info!(service = %self.spec.name, pid = instance.pid, "process stopped");
                    self.exit_told(&instance).await;
                    self.note_exit_unseen();
                }
                stopped.map(|()| "stopped")
            }
        }
    }

    /// Stops what this or an earlier agent started, once and for all: that end is no news to anybody, and the next agent starts it
    /// as if it had never run. What was taken over was there before, and stays.
    pub async fn stop_for_good(self: &Arc<Self>) -> Result<(), ServiceError> {
        if process::own_started(&self.record)? {
            self.stop().await?;
        }
        self.keeper.change(ServiceRecord::leave_for_good)?;
        Ok(())
    }

    /// Returns when the end of a child has been told, so that it is written down before anything is started.
    async fn exit_told(&self, instance: &Instance) {
        let deadline = Instant::now() + EXIT_TIME;
        while self.live().reaping.as_ref() == Some(instance) && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
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
            tracing::warn!(service = %self.spec.name, pids = ?left, "stopping processes that the previous process left running");
            process::stop(&record.instance, spec.stop_grace).await?;
        }
        Ok(())
    }

    /// Stops, starts, and waits until it answers.
    pub async fn restart(self: &Arc<Self>, patience: &WaitContext) -> Result<&'static str, ServiceError> {
        match &self.spec.manager {
            ManagerSpec::Container(_) => return self.restart_container(patience).await,
            ManagerSpec::Process(_) => {
                self.stop().await?;
                crash_point("agent.after-stop-before-start");
                self.start(patience).await?;
            }
            ManagerSpec::Command(commands) => {
                match &commands.restart {
                    Some(restart) => self.launcher.run(restart).await?.or_failed()?,
                    None => {
                        self.launcher.run(&commands.stop).await?.or_failed()?;
                        self.launcher.run(&commands.start).await?.or_failed()?;
                    }
                }
                self.began(None);
                self.wait_up(None, patience).await?;
            }
        }
        Ok("restarted")
    }
}

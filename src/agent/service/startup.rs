//! Whether a service is still starting: told by when it started, which outlives the agent, not by when this agent first saw it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Service, contained::age_of_run};
use crate::{
    agent::{
        config::{CheckSpec, ManagerSpec},
        keep::{ServiceRecord, Start},
        os,
    },
    host::Instance,
};

/// How often the port of a starting service is tried, and its check once the port accepts.
const PORT_PERIOD: Duration = Duration::from_millis(100);
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// The same for a port of another host, and for one that is not the service's own.
const SLOW_PERIOD: Duration = Duration::from_secs(1);
const CONNECT_TIME: Duration = Duration::from_secs(1);

impl Service {
    /// Writes down that this agent started the service, and watches it until it answers. A command's process is not known yet.
    pub(super) fn began(self: &Arc<Self>, instance: Option<Instance>) {
        let start = Start { instance: instance.clone(), at: Timestamp::now(), answered: false, accepting_since: None };
        self.remember(|m| m.start = Some(start));
        self.changes.tell();
        self.watch_startup(instance);
    }

    /// Changes what is remembered; that it can't be written down is logged.
    pub fn remember(&self, change: impl FnOnce(&mut ServiceRecord)) {
        if let Err(error) = self.keeper.change(change) {
            tracing::error!(service = %self.spec.name, %error, "cannot record the state of the service");
        }
    }

    /// Whether what runs has not answered yet, and its time to start is not over.
    pub fn is_starting(&self, instance: Option<&Instance>) -> bool {
        !self.startup_left(instance).is_zero()
    }

    /// How much of its time to start is left to what runs; nothing once it has answered.
    pub fn startup_left(&self, instance: Option<&Instance>) -> Duration {
        if self.spec.check.is_none() {
            return Duration::ZERO;
        }
        let memory = self.keeper.get();
        let start = memory.start.as_ref().filter(|s| s.is_of(instance));
        if start.is_some_and(|s| s.answered) {
            return Duration::ZERO;
        }
        let age = match instance {
            Some(instance) if self.is_container() => age_of_run(instance, Timestamp::now()),
            Some(instance) => os::running_seconds(instance).map(Duration::from_secs_f64),
            None => start.map(|s| Duration::try_from(Timestamp::now().duration_since(s.at)).unwrap_or_default()),
        };
        age.map_or(Duration::ZERO, |age| self.spec.startup.saturating_sub(age))
    }

    /// When the port was first seen to accept connections to this instance.
    pub fn accepting_since(&self, instance: Option<&Instance>) -> Option<Timestamp> {
        let start = self.keeper.get().start?;
        start.accepting_since.filter(|_| instance.is_some() && start.instance.as_ref() == instance)
    }

    /// The check of an instance passed. The answer of one that has ended meanwhile says nothing: a child that it left answered.
    pub(super) fn note_answer(&self, instance: Option<&Instance>) {
        let now = Timestamp::now();
        let command = matches!(self.spec.manager, ManagerSpec::Command(_));
        let memory = self.keeper.get();
        if !command && (instance.is_none() || memory.has_ended(instance)) {
            return;
        }
        let known = memory.start.is_some_and(|s| s.answered && (command || s.is_of(instance)));
        if known && memory.last_failure.is_none() {
            return;
        }
        self.remember(|m| {
            if !command && m.has_ended(instance) {
                return;
            }
            m.last_failure = None;
            match m.start.as_mut().filter(|s| command || s.is_of(instance)) {
                Some(start) => {
                    start.answered = true;
                    start.accepting_since.get_or_insert(now);
                }
                None => {
                    let instance = instance.cloned();
                    m.start = Some(Start { instance, at: now, answered: true, accepting_since: Some(now) });
                }
            }
        });
        self.changes.tell();
    }

    /// Somebody has the port of a service that commands start: as near to its process as one gets. One that the agent's command
    /// did not start is not waited for.
    pub fn note_port_owner(self: &Arc<Self>, owner: &Instance) {
        let known = self.keeper.get().start.is_some_and(|s| s.instance.as_ref() == Some(owner));
        if !known {
            self.remember(|m| {
                let now = Timestamp::now();
                let start = m.start.take().filter(|s| s.instance.is_none());
                let (at, answered) = start.map_or((now, true), |s| (s.at, s.answered));
                m.start = Some(Start { instance: Some(owner.clone()), at, answered, accepting_since: Some(now) });
            });
        }
        self.watch_end(owner);
    }

    /// Watches a service that is starting: tells when its port accepts, and asks its check until it answers. Ends when the
    /// instance does, and when its time to start is over.
    pub(super) fn watch_startup(self: &Arc<Self>, instance: Option<Instance>) {
        let Some(check) = self.spec.check.clone() else { return };
        {
            let mut live = self.live();
            if live.startup_watched.as_ref() == Some(&instance) {
                return;
            }
            live.startup_watched = Some(instance.clone());
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let shutdown = service.shutdown.clone();
            shutdown.run_until_cancelled(service.follow_startup(&check, &instance)).await;
            let mut live = service.live();
            if live.startup_watched.as_ref() == Some(&instance) {
                live.startup_watched = None;
            }
        });
    }

    async fn follow_startup(self: &Arc<Self>, check: &CheckSpec, instance: &Option<Instance>) {
        let here = check.is_here();
        let mut accepts = self.accepting_since(instance.as_ref()).is_some();
        while self.still_starts(instance) {
            let mut pause = if here { PORT_PERIOD } else { SLOW_PERIOD };
            if !accepts && connects(check).await {
                accepts = self.note_accepting(instance).await;
                pause = if accepts { Duration::ZERO } else { SLOW_PERIOD };
            } else if accepts {
                // Whoever waits for the start asks by itself.
                let asked = self.live().waiting;
                if !asked && self.ask().await.is_some_and(|outcome| outcome.ok) {
                    return;
                }
                pause = CHECK_PERIOD;
            }
            sleep(pause).await;
        }
    }

    /// Whether this start is still the last one, and not over.
    fn still_starts(&self, instance: &Option<Instance>) -> bool {
        if self.live().startup_watched.as_ref() != Some(instance) {
            return false;
        }
        match self.spec.manager {
            ManagerSpec::Command(_) => {
                let start = self.keeper.get().start;
                start.is_some_and(|s| self.is_starting(s.instance.as_ref()))
            }
            _ => self.instance().ok().flatten() == *instance && self.is_starting(instance.as_ref()),
        }
    }

    /// Notes that the port accepts, if it is the service's own.
    async fn note_accepting(self: &Arc<Self>, instance: &Option<Instance>) -> bool {
        let owner = match self.sight_now().await {
            Ok((_, Some(port))) if matches!(self.spec.manager, ManagerSpec::Process(_)) && !port.own => return false,
            Ok((_, port)) => port.and_then(|p| p.owner.pid).and_then(os::instance_of),
            Err(_) => None,
        };
        match (&self.spec.manager, &owner) {
            (ManagerSpec::Command(_), Some(owner)) => self.note_port_owner(owner),
            _ => self.remember(|m| {
                if let Some(start) = m.start.as_mut().filter(|s| s.instance == *instance) {
                    start.accepting_since.get_or_insert_with(Timestamp::now);
                }
            }),
        }
        tracing::info!(service = %self.spec.name, "service accepts connections");
        self.accepted.notify_one();
        self.changes.tell();
        true
    }

    /// What is due while a service is starting of which nobody told this agent: it began before the agent did, or its container
    /// was started by the engine.
    pub(super) fn resume_startup(self: &Arc<Self>) {
        if self.spec.check.is_none() || self.live().waiting {
            return;
        }
        let start = self.keeper.get().start.filter(|start| start.answered);
        if start.is_some_and(|start| start.instance.is_some() && start.instance == self.watched()) {
            return;
        }
        let instance = match &self.spec.manager {
            ManagerSpec::Command(_) => self.keeper.get().start.and_then(|s| s.instance),
            _ => match self.instance() {
                Ok(Some(instance)) => Some(instance),
                Ok(None) | Err(_) => return,
            },
        };
        if self.is_starting(instance.as_ref()) {
            let known = self.keeper.get().start.is_some_and(|s| s.is_of(instance.as_ref()));
            if !known {
                let start =
                    Start { instance: instance.clone(), at: Timestamp::now(), answered: false, accepting_since: None };
                self.remember(|m| m.start = Some(start));
                self.changes.tell();
            }
            self.watch_startup(instance);
        }
    }
}

async fn connects(check: &CheckSpec) -> bool {
    let Some(host) = check.url.host_str() else { return false };
    let host = host.trim_matches(['[', ']']);
    matches!(timeout(CONNECT_TIME, TcpStream::connect((host, check.port()))).await, Ok(Ok(_)))
}

//! One service: its description, what is remembered of it, and what is known only while the agent runs.

use std::{path::PathBuf, pin::pin, sync::Arc};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    check::{self, CheckOutcome},
    contained::instance_of_run,
    error::ServiceError,
    launch::Launcher,
    log,
    process::{self, PortSight},
};
use crate::{
    agent::{
        config::{ManagerSpec, ServiceSpec},
        docker::Containers,
        keep::{Keeper, StateError, StateFolder},
        os::{self, Processes},
        plan::{self, ServiceObserved},
        report::ReportChanges,
    },
    host::{CheckReport, ContainerState, Instance},
    net::HttpClient,
};

/// A healthy service answers its check sooner.
const SLOW_ANSWER: Duration = Duration::from_millis(200);

/// What is known of a service only while the agent runs.
#[derive(Debug, Default)]
pub struct ServiceRuntime {
    pub last_check: Option<CheckReport>,
    /// When a check last passed.
    pub(super) passed_at: Option<Instant>,
    /// Until when a controller looks after it.
    pub care_until: Option<Instant>,
    /// Failing checks in a row without care.
    pub failing: u32,
    /// Since when its checks time out while it uses the CPU.
    pub busy_since: Option<Instant>,
    /// What the status command last said.
    pub status_up: Option<bool>,
    /// The operation that runs.
    pub operation: Option<String>,
    /// Since when the agent's own loop starts it, or is about to look whether it must.
    pub own_start: Option<Timestamp>,
    /// State and run of its container when it was last looked at.
    pub(super) container_seen: Option<(ContainerState, Option<Instance>)>,
    /// Somebody waits for its start, and asks its check meanwhile.
    pub(super) waiting: bool,
    /// What is watched until it answers.
    pub(super) startup_watched: Option<Option<Instance>>,
    /// The process of another parent whose end is watched for.
    pub(super) end_watched: Option<Instance>,
    /// The process that is being stopped on request.
    pub(super) stopping: Option<Instance>,
    /// The process whose end this agent will be told.
    pub(super) reaping: Option<Instance>,
    /// The kernel's count of kills when the process was started.
    pub(super) kills_before: Option<u64>,
    /// How long the log was when this agent last started the process, in bytes.
    pub(super) log_begun: u64,
    pub(super) log: log::LogScanner,
    /// When its size is looked at next.
    pub(super) rotation_due: Option<Instant>,
    /// When the log could last not be read or rotated.
    pub(super) log_trouble: Option<Instant>,
}

/// What a service works with.
#[derive(Clone, Debug)]
pub struct Means {
    pub launcher: Launcher,
    /// For checks.
    pub http: HttpClient,
    /// The containers of the agent's file, for a service that is one.
    pub containers: Option<Arc<Containers>>,
    pub changes: ReportChanges,
    pub shutdown: CancellationToken,
}

/// What of a service changes without anybody telling, and what its report depends on beside that: cheap to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceGlance {
    instance: Option<Instance>,
    /// Sockets that listen where its check asks.
    sockets: Vec<u64>,
    is_starting: bool,
    holds: usize,
}

#[derive(Debug)]
pub struct Service {
    pub spec: ServiceSpec,
    pub keeper: Keeper,
    pub record: PathBuf,
    pub changes: ReportChanges,
    /// Its port has begun to accept connections.
    pub(super) accepted: Notify,
    pub(super) launcher: Launcher,
    pub(super) shutdown: CancellationToken,
    /// The agent ends for good: nothing is started any more, and what waits for a start gives up.
    pub leaving: CancellationToken,
    pub(super) opened: Instant,
    pub(super) containers: Option<Arc<Containers>>,
    http: HttpClient,
    live: Mutex<ServiceRuntime>,
}

impl Service {
    /// Takes up a service where the last agent left it.
    pub fn open(spec: ServiceSpec, folder: &StateFolder, means: Means) -> Result<Self, StateError> {
        let Means { launcher, http, containers, changes, shutdown } = means;
        let keeper = Keeper::open(folder.join(format!("{}.json", spec.name)))?;
        keeper.change(|m| m.enter_boot(&os::boot_id()))?;
        let mut live = ServiceRuntime::default();
        if let ManagerSpec::Process(process) = &spec.manager {
            live.log = log::LogScanner::begin(&process.log.file, keeper.get().log_offset);
        }
        Ok(Self {
            record: folder.join(format!("{}.process", spec.name)),
            spec,
            keeper,
            changes,
            accepted: Notify::new(),
            launcher,
            shutdown,
            leaving: CancellationToken::new(),
            opened: Instant::now(),
            containers,
            http,
            live: Mutex::new(live),
        })
    }

    pub fn live(&self) -> MutexGuard<'_, ServiceRuntime> {
        // Plain facts, each set by itself: a panic elsewhere can't have left half of one.
        self.live.lock()
    }

    pub(super) async fn ask(&self) -> Option<CheckOutcome> {
        let spec = self.spec.check.as_ref()?;
        let begun = Instant::now();
        // The one that is asked: it may end, and something else answer on its port.
        let asked = self.instance().ok().flatten();
        let outcome = check::check(&self.http, spec).await;
        if !outcome.ok && self.live().passed_at.is_some_and(|at| at > begun) {
            // Another check began later or was answered sooner: this one tells of the time before.
            return Some(CheckOutcome { ok: true, timed_out: false, detail: "passed meanwhile".to_owned() });
        }
        let check = CheckReport { ok: outcome.ok, at: Timestamp::now(), detail: outcome.detail.clone() };
        let before = self.live().last_check.replace(check);
        if outcome.ok {
            self.live().passed_at = Some(Instant::now());
            self.note_answer(asked.as_ref());
        }
        if before.is_none_or(|before| before.ok != outcome.ok) {
            self.changes.tell();
        }
        Some(outcome)
    }

    pub(super) async fn status(&self) -> Result<Option<bool>, ServiceError> {
        let ManagerSpec::Command(commands) = &self.spec.manager else {
            return Ok(None);
        };
        let up = check::status(&self.launcher, commands.status.as_ref()).await?;
        let before = std::mem::replace(&mut self.live().status_up, up);
        if before != up {
            self.changes.tell();
        }
        Ok(up)
    }

    /// Whether it is up by what was last seen of it: its process runs, and its check, if it has one, has passed since.
    pub fn is_up(&self) -> bool {
        let live = self.live();
        let checked = live.last_check.as_ref().is_none_or(|check| check.ok);
        let (end_watched, status_up) = (live.end_watched.clone(), live.status_up);
        drop(live);
        let instance = self.instance().ok().flatten();
        let answered = self.spec.check.is_none()
            || self
                .keeper
                .get()
                .start
                .is_some_and(|s| s.answered && (s.is_of(instance.as_ref()) || instance.is_none()));
        let runs = match self.spec.manager {
            ManagerSpec::Command(_) => {
                status_up.unwrap_or(true) && end_watched.is_none_or(|owner| os::is_alive(&owner))
            }
            _ => instance.is_some(),
        };
        runs && checked && answered
    }

    /// Whether the agent's own loop is about to start it, or at it: nobody else need do anything.
    pub fn starts_by_itself(&self, now: Timestamp) -> bool {
        let memory = self.keeper.get();
        let has_ended = |begun| memory.last_exit.as_ref().is_some_and(|exit| !exit.requested && exit.at > begun);
        let begun = self.live().own_start;
        begun.is_some_and(|begun| !has_ended(begun))
            && plan::active(&memory.holds, now).next().is_none()
            && memory.failed_starts_in_row < plan::MAX_FAILED_STARTS
    }

    /// What runs as far as the agent is told: its own process, or the run of a container.
    pub fn instance(&self) -> Result<Option<Instance>, ServiceError> {
        match &self.spec.manager {
            ManagerSpec::Container(_) => Ok(self.container()?.as_ref().and_then(instance_of_run)),
            ManagerSpec::Command(_) => Ok(None),
            ManagerSpec::Process(_) => match self.watched() {
                Some(instance) => Ok(Some(instance)),
                None => Ok(process::own(&self.record)?),
            },
        }
    }

    /// Its process, while this agent waits for the end of it: no other can have been recorded.
    pub(super) fn watched(&self) -> Option<Instance> {
        let live = self.live();
        let watched = live.reaping.as_ref().or(live.end_watched.as_ref()).cloned();
        drop(live);
        watched.filter(os::is_alive)
    }

    /// `None`: the system does not tell who listens without a longer look.
    pub fn glance(&self, now: Timestamp) -> Option<ServiceGlance> {
        let instance = self.instance().ok()?;
        let check = self.spec.check.as_ref().filter(|check| check.local_address().is_some());
        Some(ServiceGlance {
            sockets: check.map_or_else(|| Some(Vec::new()), |check| os::listening_sockets(check.port()))?,
            is_starting: self.is_starting(instance.as_ref()),
            holds: plan::active(&self.keeper.get().holds, now).count(),
            instance,
        })
    }

    /// The service's own process and who has its port, without asking the service.
    pub fn sight(&self, processes: &Processes) -> Result<(Option<Instance>, Option<PortSight>), ServiceError> {
        let record = match &self.spec.manager {
            ManagerSpec::Process(_) => process::read_record(&self.record)?,
            ManagerSpec::Command(_) | ManagerSpec::Container(_) => None,
        };
        let port = match &self.spec.check {
            Some(check) => process::port(check, record.as_ref(), processes)?,
            None => None,
        };
        let own = record.and_then(|r| r.alive().cloned());
        Ok((own, port))
    }

    /// The same, off the threads that serve requests: `/proc` may be slow.
    pub(super) async fn sight_now(self: &Arc<Self>) -> Result<(Option<Instance>, Option<PortSight>), ServiceError> {
        let service = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            let processes = Processes::read().map_err(|e| ServiceError::Look(e.to_string()))?;
            service.sight(&processes)
        });
        looked.await.map_err(|e| ServiceError::Look(e.to_string()))?
    }

    /// Looks at everything and asks the service. With `may_adopt`, and if the file permits, a process that the agent did not
    /// start is taken over.
    pub async fn look(self: &Arc<Self>, may_adopt: bool) -> Result<ServiceObserved, ServiceError> {
        if self.is_container() {
            return self.look_at_container().await;
        }
        let (mut own, mut port) = self.sight_now().await?;
        let process = matches!(self.spec.manager, ManagerSpec::Process(_));
        if process && may_adopt && self.adopt(own.as_ref(), port.as_ref())? {
            (own, port) = self.sight_now().await?;
        }
        if process {
            if port.as_ref().is_some_and(|p| !p.own) {
                return Ok(ServiceObserved::Foreign);
            }
            if own.is_none() {
                return Ok(ServiceObserved::Down);
            }
        }
        let cpu = || own.as_ref().and_then(|i| self.cpu_seconds(i));
        let (check, before) = {
            let mut asking = pin!(self.ask());
            tokio::select! {
                check = &mut asking => (check, None),
                // Only of a service that is slow to answer it matters whether it is at work.
                () = tokio::time::sleep(SLOW_ANSWER) => {
                    let before = cpu().map(|cpu| (cpu, Instant::now()));
                    (asking.await, before)
                }
            }
        };
        let status = self.status().await?;
        let works = || match (before, cpu()) {
            // A tenth of a core, so that idle chatter does not count as work.
            (Some((before, begun)), Some(now)) => now - before > 0.1 * begun.elapsed().as_secs_f64(),
            _ => false,
        };
        let instance = match process {
            true => own.clone(),
            false => port.as_ref().and_then(|p| p.owner.pid).and_then(os::instance_of),
        };
        Ok(match (&check, status) {
            (_, Some(false)) => ServiceObserved::Down,
            (None, _) => ServiceObserved::Up,
            (Some(c), _) if c.ok => ServiceObserved::Up,
            (Some(_), _) if self.is_starting(instance.as_ref()) => ServiceObserved::Starting,
            (Some(c), _) if c.timed_out && works() => ServiceObserved::Busy,
            (Some(_), None) if !process && port.is_none() => ServiceObserved::Down,
            (Some(_), _) => ServiceObserved::Failing,
        })
    }

    fn cpu_seconds(&self, instance: &Instance) -> Option<f64> {
        let processes = Processes::read().ok()?;
        Some(processes.tree(instance.pid).iter().map(|p| p.cpu_seconds).sum())
    }

    /// Takes over who has the port, when the file permits it and nothing of our own runs.
    pub(super) fn adopt(&self, own: Option<&Instance>, port: Option<&PortSight>) -> Result<bool, ServiceError> {
        let (true, None, Some(pid)) = (self.spec.adopt, own, port.and_then(|p| p.owner.pid)) else {
            return Ok(false);
        };
        let adopted = process::adopt(&self.record, pid)?;
        if adopted.is_some() {
            tracing::info!(service = %self.spec.name, pid, "adopted the process that listens on the service's port");
        }
        Ok(adopted.is_some())
    }
}

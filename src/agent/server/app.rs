//! What all requests share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc::UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::refusal_log::RefusalLog;
use crate::{
    agent::{
        docker::Containers,
        gate::Refused,
        keep::{OperationBook, ReplayGuard, StateFolder},
        os, report,
        report::ReportChanges,
        runner::RunnerCommand,
        service::{Service, ServiceGlance},
    },
    host::{AgentRefusal, AgentReport, Credentials, DiskSpace, ServiceReport, ServiceState},
    telemetry::{Loops, Metrics},
};

/// Reading all processes costs milliseconds: what is looked at again and again reads them only when something has changed, or after
/// this time.
const THIS_MOMENT: Duration = Duration::from_millis(100);
const TAKEN_FOR: Duration = Duration::from_secs(10);
/// The page of metrics needs no credentials: who asks for it again and again costs no more than this.
const MEASURED_FOR: Duration = Duration::from_secs(1);

/// A service with the way to its runner.
#[derive(Debug)]
pub struct ServiceHandle {
    pub service: Arc<Service>,
    pub commands: UnboundedSender<RunnerCommand>,
}

#[derive(Debug)]
pub struct App {
    pub name: String,
    pub version: String,
    pub observe: bool,
    pub started_at: Timestamp,
    pub keys: Credentials,
    pub folder: StateFolder,
    pub services: Vec<ServiceHandle>,
    pub loops: Loops,
    pub book: Arc<OperationBook>,
    pub replay_guard: ReplayGuard,
    /// The containers of this host, if the file has them.
    pub docker: Option<Arc<Containers>>,
    pub metrics: Metrics,
    pub changes: ReportChanges,
    pub refusals: RefusalLog,
    /// Places of callers that wait for a change.
    pub waiters: Semaphore,
    pub published: Mutex<Published>,
    /// When services were last looked at for the metrics.
    pub measured: Mutex<Option<Instant>>,
    pub shutdown: CancellationToken,
}

/// What the last report said, and how often that has changed.
#[derive(Debug)]
pub struct Published {
    revision: u64,
    notable: Vec<ServiceReport>,
    /// The last report that was taken whole.
    taken: Option<Taken>,
}

/// A report, and what it was made from.
#[derive(Debug)]
struct Taken {
    report: AgentReport,
    at: Instant,
    changes: u64,
    glances: Vec<ServiceGlance>,
}

impl Published {
    /// Begins at the time, so that the next run of the agent does not begin where this one did.
    pub fn new(now: Timestamp) -> Self {
        Self { revision: u64::try_from(now.as_microsecond()).unwrap_or(0), notable: Vec::new(), taken: None }
    }

    fn publish(&mut self, notable: Vec<ServiceReport>) -> u64 {
        if self.notable != notable {
            self.revision += 1;
            self.notable = notable;
        }
        self.revision
    }
}

impl App {
    pub fn service(&self, name: &str) -> Result<&ServiceHandle, Refused> {
        self.services.iter().find(|r| r.service.spec.name == name).ok_or_else(|| {
            let known: Vec<_> = self.services.iter().map(|r| r.service.spec.name.as_str()).collect();
            Refused::new(
                AgentRefusal::UnknownService,
                format!("the agent's file lists no service {name:?}; it lists {}", known.join(", ")),
            )
        })
    }

    /// Everything that the agent knows, CPU times of this moment too. Blocks while processes are read, once for all who ask at once.
    pub fn report(&self) -> AgentReport {
        self.take(|taken| taken.at.elapsed() >= THIS_MOMENT)
    }

    /// The same; while nothing has changed, CPU times and the like may be ten seconds old.
    pub fn report_of_changes(&self) -> AgentReport {
        self.take(|taken| taken.at.elapsed() >= TAKEN_FOR)
    }

    fn take(&self, is_old: impl FnOnce(&Taken) -> bool) -> AgentReport {
        let services: Vec<_> = self.services.iter().map(|r| Arc::clone(&r.service)).collect();
        // Held while it looks: what was seen earlier must not be published as the later revision.
        let mut published = self.published.lock();
        let now = Timestamp::now();
        let changes = self.changes.count();
        let glances = services.iter().map(|service| service.glance(now)).collect::<Option<Vec<_>>>();
        if let (Some(taken), Some(glances)) = (&published.taken, &glances)
            && (taken.changes, &taken.glances) == (changes, glances)
            && !is_old(taken)
        {
            return AgentReport {
                time: now,
                container_runtime: self.docker.as_ref().map(|d| d.runtime()),
                containers_revision: self.docker.as_ref().map(|d| d.revision()),
                ..taken.report.clone()
            };
        }
        let mut report = AgentReport {
            name: self.name.clone(),
            version: self.version.clone(),
            user: os::own_user(),
            time: now,
            started_at: self.started_at,
            observe: self.observe,
            container_runtime: self.docker.as_ref().map(|d| d.runtime()),
            containers_revision: self.docker.as_ref().map(|d| d.revision()),
            disk: DiskSpace::of(self.folder.path()),
            revision: None,
            services: report::services(&services, now),
        };
        report.revision = Some(published.publish(report.notable()));
        let at = Instant::now();
        published.taken = glances.map(|glances| Taken { report: report.clone(), at, changes, glances });
        report
    }

    /// The page that Prometheus reads. Blocks as `report` does, at most once a second, whoever asks: it needs no credentials.
    pub fn metrics_page(&self) -> String {
        let mut measured = self.measured.lock();
        if measured.is_none_or(|at| at.elapsed() >= MEASURED_FOR) {
            self.measure();
            *measured = Some(Instant::now());
        }
        drop(measured);
        self.metrics.render(Timestamp::now())
    }

    fn measure(&self) {
        let report = self.report_of_changes();
        for service in &report.services {
            let up = service.state == ServiceState::Running && service.last_check.as_ref().is_none_or(|c| c.ok);
            self.metrics.agent.service_up(&self.name, &service.name, up);
            self.metrics.agent.service_left(&self.name, &service.name, !service.holds.is_empty(), service.gave_up);
        }
    }
}

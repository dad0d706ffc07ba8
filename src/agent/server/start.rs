//! Starts an agent in this process, for `ostler agent` and for `ostler up`.

use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    app::{App, Published, ServiceHandle},
    keys,
    refusal_log::RefusalLog,
    routes,
};
use crate::{
    agent::{
        config::{self, ConfigError, Resolved},
        docker::Containers,
        keep::{OperationBook, ReplayGuard, StateError, StateFolder},
        report::ReportChanges,
        runner::{RunnerCommand, RunnerSettings, ServiceRunner, Upkeep},
        service::{Launcher, Means, Service, ServiceError},
    },
    api::AgentConfigSpec,
    host::{AgentReport, Credentials, SigningSecret},
    listener::{self, Limits, Tls, TlsFiles},
    net::{ClientError, HttpClient},
    telemetry::{Loops, Metrics, StuckLoop},
};

/// How long a service's loop may be silent beyond its longest act: checks, disks and a busy machine.
const SILENCE: Duration = Duration::from_secs(120);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    pub name: String,
    pub spec: AgentConfigSpec,
    /// Relative paths of the spec start here.
    pub base_dir: PathBuf,
    /// Holds, operations, records of processes; no two agents share it.
    pub state_dir: PathBuf,
    /// The agent's own loop only says what it would do.
    pub observe: bool,
    pub version: String,
    /// The `ostler` binary, whose `agent-exec` starts processes.
    pub exe: PathBuf,
    /// For checks: [`check_client`] makes one that judges the first answer.
    pub http: HttpClient,
    /// Where it counts; its own `/metrics` shows them.
    pub metrics: Metrics,
    /// Wins over the spec's `signingSecretFile`.
    pub signing_secret: Option<SigningSecret>,
}

/// A client for checks: the services are here, so it asks no proxy.
pub fn check_client() -> Result<HttpClient, ClientError> {
    HttpClient::direct()
}

/// Why an agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the agent's secret in {path} can't be used: {cause}")]
    Secret { path: String, cause: String },
    #[error("the agent must not listen on {listen} like this: {why}")]
    Exposed { listen: SocketAddr, why: &'static str },
    #[error("can't listen on {listen}: {cause}; is another agent running? else choose another spec.listen")]
    Listen { listen: SocketAddr, cause: io::Error },
    #[error("the agent's certificate {cert} or key {key} can't be used: {cause}")]
    Tls { cert: String, key: String, cause: io::Error },
}

impl AgentError {
    pub(super) fn secret(path: &Path, cause: impl Display) -> Self {
        Self::Secret { path: path.display().to_string(), cause: cause.to_string() }
    }
}

/// A running agent. It ends when the token that it was started with is cancelled; its processes live on.
#[derive(Debug)]
pub struct AgentHandle {
    pub local_addr: SocketAddr,
    pub tls: bool,
    app: Arc<App>,
    tasks: TaskTracker,
}

impl AgentHandle {
    /// Where callers on this machine reach it.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.local_addr)
    }

    pub fn report(&self) -> AgentReport {
        self.app.report()
    }

    /// The services' loops that do not run as they should.
    pub fn stuck(&self) -> Vec<StuckLoop> {
        self.app.loops.stuck()
    }

    /// Stops the processes that agents of this state folder started, leaves no hold, and starts nothing more: what
    /// `ostler down` does before it ends the agent.
    pub async fn stop_services(&self) -> Vec<(String, Result<(), ServiceError>)> {
        let asked: Vec<_> = self
            .app
            .services
            .iter()
            .map(|runs| {
                // At once: a start that runs may take its time.
                runs.service.leaving.cancel();
                let (done, answer) = oneshot::channel();
                let sent = runs.commands.send(RunnerCommand::StopForGood(done)).is_ok();
                (runs.service.spec.name.clone(), sent.then_some(answer))
            })
            .collect();
        let mut results = Vec::new();
        for (name, answer) in asked {
            let result = match answer {
                Some(answer) => answer.await.unwrap_or(Err(ServiceError::Interrupted)),
                None => Err(ServiceError::Interrupted),
            };
            results.push((name, result));
        }
        results
    }

    /// Returns when the agent has ended, and its state folder is free for another.
    pub async fn join(self) {
        self.tasks.wait().await;
    }
}

/// Starts an agent: listens first, so that a second one fails before it starts anything.
pub async fn start(settings: AgentSettings, shutdown: CancellationToken) -> Result<AgentHandle, AgentError> {
    let config = config::resolve(&settings.spec, &settings.base_dir, &settings.state_dir)?;
    let keys = keys::read(&config, settings.signing_secret.clone())?;
    keys::may_listen(&config, &keys)?;
    if keys.signing_secret.is_none() && keys.token.is_none() {
        tracing::warn!(listen = %config.listen, "neither secret nor token is configured: every program on this machine can start and stop services");
    }
    let folder = StateFolder::take(&settings.state_dir)?;
    let tls = match &config.tls {
        Some(files) => Some(load_tls(files)?),
        None => None,
    };
    let (listener, local_addr) =
        listen(config.listen).await.map_err(|cause| AgentError::Listen { listen: config.listen, cause })?;
    let tasks = TaskTracker::new();
    let app = Arc::new(build(&settings, &config, keys, folder, &tasks, &shutdown)?);
    let handle = AgentHandle { local_addr, tls: tls.is_some(), app: Arc::clone(&app), tasks: tasks.clone() };
    if let (Some(tls), Some(files)) = (&tls, config.tls) {
        tasks.spawn(tls.clone().keep_renewed(files, shutdown.clone()));
    }
    let (watched, ends) = (Arc::clone(&app), shutdown.clone());
    tasks.spawn(async move { watched.refusals.run(ends).await });
    tasks.spawn(serve(listener, tls, app, shutdown));
    tasks.close();
    tracing::info!(agent = %settings.name, url = %handle.url(), services = config.services.len(), "agent started");
    Ok(handle)
}

async fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

/// Opens what is kept, and sets a runner to each service.
fn build(
    settings: &AgentSettings,
    config: &Resolved,
    keys: Credentials,
    folder: StateFolder,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<App, AgentError> {
    let now = Timestamp::now();
    let book = Arc::new(OperationBook::open(folder.join("operations.json"))?);
    let replay_guard = ReplayGuard::open(folder.path(), now)?;
    let docker = match &settings.spec.docker {
        Some(spec) => {
            let mut spec = spec.clone();
            // A project of a service is listed, too.
            let of_services =
                settings.spec.services.iter().filter_map(|s| s.container.as_ref()?.project_directory.clone());
            spec.compose_folders.extend(of_services);
            Some(Arc::new(Containers::open(&spec, &settings.base_dir, &folder, tasks, shutdown)?))
        }
        None => None,
    };
    let changes = ReportChanges::default();
    let mut services = Vec::new();
    for spec in &config.services {
        let launcher = Launcher { exe: settings.exe.clone() };
        let means = Means {
            launcher,
            http: settings.http.clone(),
            containers: docker.clone(),
            changes: changes.clone(),
            shutdown: shutdown.clone(),
        };
        services.push(Arc::new(Service::open(spec.clone(), &folder, means)?));
    }
    // Only now: when one of them can't be opened, none is started.
    let loops = Loops::new();
    tasks.spawn(loops.clone().keep_time(shutdown.clone()));
    if let Some(docker) = &docker {
        docker.begin(&loops, tasks, shutdown);
    }
    let services = services.into_iter().map(|service| {
        let (commands, inbox) = mpsc::unbounded_channel();
        let runner = ServiceRunner::new(
            Arc::clone(&service),
            Arc::clone(&book),
            settings.metrics.clone(),
            RunnerSettings { agent: settings.name.clone(), self_check: config.self_check, observe: settings.observe },
            shutdown.clone(),
            loops.register(format!("service {}", service.spec.name), service.spec.longest_act() + SILENCE),
        );
        tasks.spawn(runner.run(inbox));
        let upkeep = Upkeep {
            service: Arc::clone(&service),
            metrics: settings.metrics.clone(),
            agent: settings.name.clone(),
            shutdown: shutdown.clone(),
            beat: loops.register(format!("upkeep of service {}", service.spec.name), SILENCE),
        };
        tasks.spawn(upkeep.run());
        ServiceHandle { service, commands }
    });
    Ok(App {
        name: settings.name.clone(),
        version: settings.version.clone(),
        observe: settings.observe,
        started_at: now,
        keys,
        services: services.collect(),
        loops,
        folder,
        book,
        replay_guard,
        docker,
        metrics: settings.metrics.clone(),
        changes,
        refusals: RefusalLog::default(),
        waiters: Semaphore::new(routes::WAITERS),
        published: Mutex::new(Published::new(now)),
        measured: Mutex::new(None),
        shutdown: shutdown.clone(),
    })
}

fn load_tls(files: &TlsFiles) -> Result<Tls, AgentError> {
    Tls::read(&files.cert, &files.key).map_err(|cause| AgentError::Tls {
        cert: files.cert.display().to_string(),
        key: files.key.display().to_string(),
        cause,
    })
}

async fn serve(listener: TcpListener, tls: Option<Tls>, app: Arc<App>, shutdown: CancellationToken) {
    let router = routes::router(app);
    if let Err(error) = listener::serve(listener, tls, router, Limits::of_process(), shutdown).await {
        tracing::error!(%error, "the agent's server failed");
    }
}

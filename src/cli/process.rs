//! What `up` and `controller` have in common: leadership, controllers and API, joined, and ended in good order.

use std::{
    fmt,
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::extract::FromRef;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CliError, Global};
use crate::{
    agent::os,
    controllers,
    host::mask,
    http::{self, Api, Authorizer, ExternalUrl, ProblemSource, ResourceHome},
    listener::{Tls, TlsFiles, raise_open_files},
    net::HttpClient,
    platform::Platform,
    runtimes::{WorkerPods, Workloads},
    store::{LeadWatch, LeaseTimings, Store, lead, seal, watch_deaths},
    telemetry::{Logging, Loops, Metrics},
};

/// Whatever acts gets this long to come to rest; what is still running then goes on under the next leader.
const REST: Duration = Duration::from_secs(8);

/// What a process is made of.
pub struct ControllerParts {
    pub store: Arc<dyn Store>,
    pub platform: Arc<dyn Platform>,
    pub workloads: Arc<Workloads>,
    pub worker_pods: Arc<WorkerPods>,
    pub sealing: Option<seal::Key>,
    pub authorizer: Arc<dyn Authorizer>,
    pub home: ResourceHome,
    pub http: HttpClient,
    pub metrics: Metrics,
    pub loops: Loops,
    pub observe: bool,
    /// A Notifier of this namespace is told of all.
    pub home_namespace: String,
    /// Unique for this process.
    pub holder: String,
    pub problems: ProblemSource,
    pub down: Option<CancellationToken>,
    pub external_url: Option<ExternalUrl>,
}

/// Where a controller listens.
pub struct ControllerDoors {
    pub api: TcpListener,
    /// Health and metrics alone, for probes from elsewhere.
    pub health: Option<TcpListener>,
    /// The API once more, by TLS.
    pub exposed: Option<(TcpListener, Tls)>,
}

impl ControllerDoors {
    /// The API and nothing else.
    pub fn only(api: TcpListener) -> Self {
        Self { api, health: None, exposed: None }
    }
}

/// Leadership, controllers and API at work.
pub struct ControllerProcess {
    acting: CancellationToken,
    controllers: JoinHandle<()>,
    leading: CancellationToken,
    lead: LeadWatch,
    serving: CancellationToken,
    servers: JoinSet<io::Result<()>>,
}

impl ControllerProcess {
    /// Starts everything. Whether this process leads is known some moments later.
    pub async fn start(parts: ControllerParts, doors: ControllerDoors) -> Result<Self, CliError> {
        let ControllerParts {
            store,
            platform,
            workloads,
            worker_pods,
            sealing,
            authorizer,
            home,
            http,
            metrics,
            loops,
            observe,
            home_namespace,
            holder,
            problems,
            down,
            external_url,
        } = parts;
        let (acting, leading, serving) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let installation = store.installation().await?;
        let lead = lead(Arc::clone(&store), holder.clone(), LeaseTimings::default(), &loops, leading.clone());
        tokio::spawn(loops.clone().keep_time(serving.clone()));
        if !observe {
            tokio::spawn(watch_deaths(Arc::clone(&store), Some(holder.clone()), serving.clone()));
        }
        let controllers = controllers::Parts {
            store: Arc::clone(&store),
            platform: Arc::clone(&platform),
            workloads,
            worker_pods,
            sealing: sealing.clone(),
            http: http.clone(),
            metrics: metrics.clone(),
            loops: loops.clone(),
            installation,
            home_namespace,
            holder,
            observe,
        };
        let controllers = tokio::spawn(controllers::run(controllers, lead.subscribe(), acting.clone()));
        let api =
            Api { store, platform, authorizer, home, sealing, http, metrics, loops, problems, down, external_url };
        let ControllerDoors { api: listener, health, exposed } = doors;
        let mut servers = JoinSet::new();
        if let Some(listener) = health {
            servers.spawn(http::serve_health(listener, http::Health::from_ref(&api), serving.clone()));
        }
        if let Some((listener, tls)) = exposed {
            servers.spawn(http::serve_by(listener, Some(tls), api.clone(), serving.clone()));
        }
        servers.spawn(http::serve(listener, api, serving.clone()));
        Ok(Self { acting, controllers, leading, lead, serving, servers })
    }

    /// Returns what went wrong, when a part ends that should not.
    pub async fn broken(&mut self) -> CliError {
        tokio::select! {
            ended = &mut self.controllers => CliError::failed(match ended {
                Ok(()) => "the controllers ended by themselves".to_owned(),
                Err(e) => format!("the controllers failed: {e}"),
            }),
            Some(ended) = self.servers.join_next() => CliError::failed(match ended {
                Ok(Ok(())) => "the API ended by itself".to_owned(),
                Ok(Err(e)) => format!("the API failed: {e}"),
                Err(e) => format!("the API failed: {e}"),
            }),
        }
    }

    /// Lets controllers come to rest, then resigns the lead: in this order, so that nothing acts without it. The API goes on.
    pub async fn rest(&mut self) {
        self.acting.cancel();
        if !self.controllers.is_finished() && tokio::time::timeout(REST, &mut self.controllers).await.is_err() {
            tracing::warn!(seconds = REST.as_secs(), "controllers did not come to rest");
            self.controllers.abort();
        }
        self.leading.cancel();
    }

    /// Ends the rest, after [`ControllerProcess::rest`].
    pub async fn end(mut self) {
        self.lead.stopped().await;
        self.serving.cancel();
        // Their errors at this moment concern nobody.
        while self.servers.join_next().await.is_some() {}
    }
}

/// Runs a command that goes on for long: with its log, and with as many open files as the system allows.
pub async fn logged(
    global: &Global,
    filter: &str,
    work: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let logging = Logging::start(global.log_format.into(), filter)?;
    raise_open_files();
    let ended = work.await;
    // Spans are sent from a thread that the runtime must outlive.
    let _ = tokio::task::spawn_blocking(move || logging.flush()).await;
    ended
}

/// Listens on an address of `--listen`.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, CliError> {
    listen_as(address, "--listen").await
}

/// Listens on an address that `option` gives.
pub async fn listen_as(address: SocketAddr, option: &str) -> Result<TcpListener, CliError> {
    TcpListener::bind(address).await.map_err(|e| {
        let owner = port_owner(address).map(|o| format!(" by {o}")).unwrap_or_default();
        let why = if e.kind() == io::ErrorKind::AddrInUse { format!("it is taken{owner}") } else { e.to_string() };
        CliError::failed(format!("can't listen on {address}: {why}; choose another with {option}"))
    })
}

/// POD_NAME in a cluster, else the machine's name.
pub fn host() -> String {
    let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    pod.or_else(|| sysinfo::System::host_name().ok()).unwrap_or_else(|| "localhost".to_owned())
}

/// Unique for this process, and readable.
pub fn holder() -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{}_{}_{}", host(), std::process::id(), &random[..8])
}

/// Waits for SIGINT, SIGTERM or SIGHUP. A second one of the first two ends the process at once: a closing terminal sends SIGHUP
/// twice.
pub async fn signaled() -> Result<(), CliError> {
    let failed = |e: io::Error| CliError::failed(format!("can't wait for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = match ignores_hangup() {
        true => None,
        false => Some(signal(SignalKind::hangup()).map_err(failed)?),
    };
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hung_up => {}
    }
    tokio::spawn(async move {
        // For as long as this process lives.
        let _hangup = hangup;
        ended_by(&mut interrupt, &mut terminate).await
    });
    Ok(())
}

/// From now on one signal ends the process at once: it is ending already, for another reason.
pub fn end_at_next_signal() -> Result<(), CliError> {
    let failed = |e: io::Error| CliError::failed(format!("can't wait for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::spawn(async move { ended_by(&mut interrupt, &mut terminate).await });
    Ok(())
}

async fn ended_by(interrupt: &mut Signal, terminate: &mut Signal) -> ! {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    std::process::exit(130)
}

/// Whether whoever started this process wants it to outlive its terminal (nohup).
fn ignores_hangup() -> bool {
    const SIGHUP: u64 = 1;
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok())
            .is_some_and(|ignored| ignored & SIGHUP != 0),
        // Elsewhere than on Linux: nohup leaves no terminal.
        Err(_) => {
            !std::io::stdin().is_terminal() && !std::io::stdout().is_terminal() && !std::io::stderr().is_terminal()
        }
    }
}

/// The process behind a port, as far as this user may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortHolder {
    pub pid: Option<u32>,
    pub user: Option<String>,
    pub command: Option<String>,
}

/// `None`: nobody listens there, or the system does not tell.
pub fn port_owner(address: SocketAddr) -> Option<PortHolder> {
    let listener = os::listener(address.ip(), address.port()).ok().flatten()?;
    let pid = listener.pid;
    let user = pid.and_then(os::uid_of).map(os::user_name);
    Some(PortHolder { pid, user, command: pid.and_then(os::command_line) })
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, user, command } = self;
        match (pid, command) {
            (Some(pid), Some(command)) => write!(f, "process {pid} ({})", mask::command_line(command))?,
            (Some(pid), None) => write!(f, "process {pid}")?,
            (None, _) => write!(f, "a process that you may not see")?,
        }
        user.as_ref().map_or(Ok(()), |user| write!(f, " of user {user}"))
    }
}

// Certificate and key of what `controller` and `gateway` expose. No doc comment: clap would show it in place of the command's own.
#[derive(Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// Certificate chain (PEM); a newer one is taken up while running
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads both files, and follows their changes until `shutdown`. `None`: no TLS was asked for.
    pub fn read(self, shutdown: &CancellationToken) -> Result<Option<Tls>, CliError> {
        let (Some(cert), Some(key)) = (self.tls_cert, self.tls_key) else { return Ok(None) };
        let tls = Tls::read(&cert, &key).map_err(|error| {
            CliError::failed(format!(
                "can't use the certificate {} with the key {}: {error}; both must be PEM files that belong together",
                cert.display(),
                key.display()
            ))
        })?;
        tokio::spawn(tls.clone().keep_renewed(TlsFiles { cert, key }, shutdown.clone()));
        Ok(Some(tls))
    }
}

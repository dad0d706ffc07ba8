//! `ostler up`: the whole system on this machine, in one process.

mod agents;
mod derived;
mod desktop;
mod gateway;
mod records;
mod say;
mod workers;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    CliError, DataDir, Global, UpEndpoint,
    database::Database,
    process::{
        self, ControllerDoors, ControllerParts, ControllerProcess, end_at_next_signal, holder, logged, signaled,
    },
    reaper,
};
use crate::{
    agent,
    http::{ExternalUrl, Problem, ResourceHome, TokenAuthorizer},
    net::HttpClient,
    platform::{
        Platform,
        local::{LocalConfig, LocalPlatform},
    },
    runtimes::{WorkerPodSettings, WorkerPods, Workloads},
    store::{Store, counted},
    telemetry::{Loops, Metrics},
};
use agents::{AgentParts, UpAgents};
pub use derived::Derived;
use gateway::{UpGateway, UpGatewayArgs, UpGatewayParts};
pub use records::Records;

const LOGS: &str = "ostler=info,warn";

/// Serve the resources of a folder: controllers, API and agents in one process
///
/// Ctrl-C ends it and leaves the services up; `ostler down` ends both.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Folder of manifests, or one file
    #[arg(short, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Where API, health and metrics are; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    listen: SocketAddr,
    /// Where the dashboard is reached beside loopback: the address of a proxy of this machine, such as Tailscale Serve
    #[arg(long, value_name = "URL", env = "OSTLER_EXTERNAL_URL")]
    external_url: Option<ExternalUrl>,
    #[command(flatten)]
    gateway: UpGatewayArgs,
    #[command(flatten)]
    database: Database,
    /// Only report what would be done
    #[arg(long)]
    observe: bool,
}

pub async fn run(args: UpArgs, global: &Global) -> Result<(), CliError> {
    let UpArgs { folder, listen, external_url, gateway, database, observe } = args;
    let folder = checked(&folder, listen)?;
    let dir = DataDir::of(global)?;
    dir.create()?;
    reaper::start();
    let work = async {
        let store = database.open(Some(&dir)).await?;
        let listener = process::listen(listen).await?;
        Up::start(&dir, &folder, store, listener, (external_url, gateway, observe)).await?.until_ended(&dir).await
    };
    logged(global, LOGS, work).await
}

fn checked(folder: &Path, listen: SocketAddr) -> Result<PathBuf, CliError> {
    if !listen.ip().is_loopback() {
        return Err(CliError::misused(format!(
            "--listen {listen}: `up` listens on loopback only, because its token would go over the network in the clear; \
             reach it by `ssh -L`, or run `ostler controller` in a cluster"
        )));
    }
    std::path::absolute(folder)
        .ok()
        .filter(|path| path.exists())
        .ok_or_else(|| CliError::misused(format!("-f {}: there is no such folder or file", folder.display())))
}

/// Everything at work.
struct Up {
    process: ControllerProcess,
    agents: UpAgents,
    loops: Loops,
    down: CancellationToken,
    folder_stop: CancellationToken,
    working: CancellationToken,
    workers: Option<tokio::task::JoinHandle<()>>,
    gateway: Option<UpGateway>,
}

impl Up {
    async fn start(
        dir: &DataDir,
        folder: &Path,
        store: Arc<dyn Store>,
        listener: TcpListener,
        (external_url, gateway, observe): (Option<ExternalUrl>, UpGatewayArgs, bool),
    ) -> Result<Self, CliError> {
        let address = listener.local_addr().map_err(CliError::failed)?;
        let base_dir = if folder.is_dir() { folder } else { folder.parent().unwrap_or(folder) };
        let derived = Arc::new(Derived::new(base_dir));
        let (metrics, loops) = (Metrics::new(), Loops::new());
        let store = counted(store, metrics.clone());
        let platform = Arc::new(open_folder(folder, dir, &store, &derived).await?);
        let (down, folder_stop, working) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let http = HttpClient::new()?;
        let agents = UpAgents::new(AgentParts {
            platform: Arc::clone(&platform) as Arc<dyn Platform>,
            derived,
            state_dir: dir.path().join("agents"),
            observe,
            exe: std::env::current_exe().map_err(|e| {
                CliError::failed(format!("can't find the path of this program, which starts services: {e}"))
            })?,
            http: agent::check_client().map_err(CliError::failed)?,
            metrics: metrics.clone(),
        });
        let common = workers::PoolWorkers {
            store: Arc::clone(&store),
            platform: Arc::clone(&platform) as Arc<dyn Platform>,
            http: http.clone(),
            metrics: metrics.worker.clone(),
            loops: loops.clone(),
            spool: dir.path().join("spool"),
        };
        let calls = UpGatewayParts {
            store: Arc::clone(&store),
            platform: Arc::clone(&platform) as Arc<dyn Platform>,
            http: http.clone(),
            loops: loops.clone(),
            metrics: metrics.gateway.clone(),
        };
        let token = uuid::Uuid::new_v4().simple().to_string();
        let endpoint = UpEndpoint { address: format!("http://{address}"), token, pid: std::process::id() };
        if let Some(desktop) = desktop::Desktop::of_session() {
            let platform = Arc::clone(&platform) as Arc<dyn Platform>;
            tokio::spawn(desktop::tell(desktop, Arc::clone(&store), platform, folder_stop.clone()));
        }
        let parts = ControllerParts {
            store,
            platform: Arc::clone(&platform) as Arc<dyn Platform>,
            workloads: Arc::new(Workloads::new(None)),
            worker_pods: Arc::new(WorkerPods::new(None, WorkerPodSettings::default())),
            sealing: Some(dir.sealing_key()?),
            authorizer: Arc::new(TokenAuthorizer::new(&endpoint.token, agent::os::own_user())),
            home: ResourceHome::Folder,
            http,
            metrics,
            loops: loops.clone(),
            observe,
            home_namespace: "default".to_owned(),
            holder: holder(),
            problems: problems(&platform, &agents),
            down: Some(down.clone()),
            external_url,
        };
        let process = ControllerProcess::start(parts, ControllerDoors::only(listener)).await?;
        let stop = folder_stop.clone();
        tokio::spawn({
            let (platform, loops) = (Arc::clone(&platform), loops.clone());
            async move { platform.run(&loops, stop).await }
        });
        // Who only observes does no tasks either, and gives no slots to calls.
        let workers = (!observe).then(|| tokio::spawn(workers::follow(common, working.clone())));
        let gateway = if observe { None } else { Some(gateway.start(calls).await?) };
        let mut up = Self { process, agents, loops, down, folder_stop, working, workers, gateway };
        up.agents.converge().await;
        dir.write_endpoint(&endpoint)?;
        let said = up.gateway.as_ref().map(|gateway| gateway.said.as_str());
        say::welcome(folder, dir, &endpoint, platform.as_ref(), &up.agents, said).await?;
        tokio::spawn(say::changed_problems(platform.watch_problems()));
        Ok(up)
    }

    /// Until a signal, `ostler down`, or a failure.
    async fn until_ended(mut self, dir: &DataDir) -> Result<(), CliError> {
        let following = CancellationToken::new();
        let beat = self.loops.register("agents", std::time::Duration::from_secs(120));
        let ended = tokio::select! {
            signal = signaled() => signal,
            () = self.down.cancelled() => end_at_next_signal(),
            broken = self.process.broken() => Err(broken),
            () = self.agents.follow(beat, following.clone()) => Ok(()),
        };
        say::draining(self.down.is_cancelled());
        // First: while tasks are finished, their backends are still looked after.
        self.working.cancel();
        let calls = async {
            if let Some(gateway) = &mut self.gateway {
                gateway.end().await;
            }
        };
        let tasks = async {
            if let Some(workers) = self.workers.take()
                && let Err(error) = workers.await
            {
                tracing::error!(%error, "the workers failed");
            }
        };
        tokio::join!(calls, tasks);
        self.process.rest().await;
        let failed = if self.down.is_cancelled() { self.agents.stop_services().await } else { Vec::new() };
        let services = self.agents.services_up();
        self.agents.end_all().await;
        self.folder_stop.cancel();
        self.process.end().await;
        // The last thing: `down` waits for it.
        dir.remove_endpoint();
        say::farewell(&services, &failed);
        ended
    }
}

async fn open_folder(
    folder: &Path,
    dir: &DataDir,
    store: &Arc<dyn Store>,
    derived: &Arc<Derived>,
) -> Result<LocalPlatform, CliError> {
    let derive = Arc::clone(derived);
    let config = LocalConfig {
        kinds: vec![agent::local_kind()],
        derive: Arc::new(move |documents| derive.documents(documents)),
        of_another: dir.served_another(folder),
        ..LocalConfig::new(folder)
    };
    let records = Arc::new(Records(Arc::clone(store)));
    let platform = LocalPlatform::open(config, Arc::clone(&records) as _, records).await.map_err(CliError::failed)?;
    dir.serves(folder)?;
    Ok(platform)
}

/// What a person should mend: in the manifests, and about the agents of this process.
fn problems(platform: &Arc<LocalPlatform>, agents: &UpAgents) -> crate::http::ProblemSource {
    let (platform, agents) = (Arc::clone(platform), agents.problems());
    Arc::new(move || platform.problems().into_iter().map(Problem::from).chain(agents.list()).collect())
}

//! The agent's Docker side: what it sees of the containers that its file permits, and what it does to them.
//!
//! `watch` keeps `seen` as the engine has it; requests are answered from there. `act` does operations, `compose` brings up
//! what compose made, `evidence` reads logs and runs probes.

mod act;
mod allow;
mod compose;
mod engine;
mod evidence;
mod facts;
mod memory;
mod operations;
mod peaks;
mod seen;
mod select;
mod stops;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    act::{Actor, ContainerActionError},
    allow::Allow,
    compose::Compose,
    engine::DockerEngine,
    operations::Operations,
    seen::ContainerCache,
    watch::EngineWatch,
};
use super::{
    gate::Refused,
    keep::{OperationBook, StateError, StateFolder},
};
use crate::{
    api::AgentDocker,
    host::{
        ContainerAction, ContainerExecRequest, ContainerExecResult, ContainerList, ContainerLogs, ContainerLogsRequest,
        ContainerOperation, ContainerOperationRequest, ContainerQuery, ContainerReport, ContainerRuntime,
        ContainerTarget,
    },
    telemetry::Loops,
};

/// How long the watch may be silent: a comparison of thousands of containers on a slow engine.
const SILENCE: Duration = Duration::from_secs(300);

/// The containers of one engine.
#[derive(Debug)]
pub struct Containers {
    actor: Actor,
    operations: Operations,
    /// Why no engine can be looked for at all.
    unusable: Option<String>,
}

impl Containers {
    /// Takes up what an earlier agent left. Nothing is asked of the engine before [`Containers::begin`].
    pub fn open(
        spec: &AgentDocker,
        base_dir: &Path,
        folder: &StateFolder,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, StateError> {
        let found = spec.socket.as_deref().map_or_else(engine::find_socket, |given| Ok(engine::given_socket(given)));
        let (socket, unusable) = match found {
            Ok(socket) => (socket, None),
            Err(why) => (PathBuf::new(), Some(why)),
        };
        let allow = Allow::of(spec, base_dir);
        let seen = Arc::new(ContainerCache::open(allow, folder.join("containers.json"), Timestamp::now())?);
        let compose = Compose { command: spec.compose_command.clone(), socket: socket.clone() };
        let actor = Actor { seen, socket, compose, state_dir: folder.path().to_owned() };
        let book = OperationBook::open(folder.join("container-operations.json"))?;
        let operations = Operations::new(actor.clone(), book, tasks.clone(), shutdown.clone());
        Ok(Self { actor, operations, unusable })
    }

    /// Watches the engine, and does what an earlier agent began.
    pub fn begin(&self, loops: &Loops, tasks: &TaskTracker, shutdown: &CancellationToken) {
        self.operations.catch_up();
        if let Some(why) = &self.unusable {
            tracing::error!(error = %why, "cannot find a container engine");
            self.actor.seen.away(why, Timestamp::now());
            return;
        }
        let (socket, seen) = (self.actor.socket.clone(), Arc::clone(&self.actor.seen));
        tasks.spawn(peaks::run(socket.clone(), Arc::clone(&seen), shutdown.clone()));
        let beat = loops.register("containers", SILENCE);
        let compose = self.actor.compose.clone();
        tasks.spawn(EngineWatch { socket, seen, compose, shutdown: shutdown.clone(), beat }.run());
    }

    /// What the agent's report says of the engine.
    pub fn runtime(&self) -> ContainerRuntime {
        self.actor.seen.runtime()
    }

    /// Another number means that something about the containers has changed.
    pub fn revision(&self) -> u64 {
        self.actor.seen.revision()
    }

    pub fn list(&self, query: &ContainerQuery) -> Result<ContainerList, Refused> {
        self.actor.seen.list(&query.selector, Timestamp::now())
    }

    /// How one container is; `None`: it is missing.
    pub fn report(&self, target: &ContainerTarget) -> Result<Option<ContainerReport>, Refused> {
        self.actor.seen.report_of(target, Timestamp::now())
    }

    /// Does something for a service of the agent's file, in turn with the operations on that container.
    pub async fn act(&self, target: &ContainerTarget, action: ContainerAction) -> Result<String, ContainerActionError> {
        self.operations.act(target, action).await
    }

    /// CPU time of a container's run in seconds; `None` where the engine does not tell.
    pub async fn cpu_seconds(&self, id: &str) -> Option<f64> {
        let engine = DockerEngine::connect(&self.actor.socket).await.ok()?;
        let stats = engine.stats(id).await.ok()??;
        let nanos = stats.cpu_stats?.cpu_usage?.total_usage?;
        Some(Duration::from_nanos(nanos).as_secs_f64())
    }

    pub async fn logs(&self, request: &ContainerLogsRequest) -> Result<ContainerLogs, Refused> {
        self.actor.logs(request).await
    }

    pub async fn exec(&self, request: &ContainerExecRequest) -> Result<ContainerExecResult, Refused> {
        self.actor.exec(request).await
    }

    /// Accepts an operation. Blocks on the disk.
    pub fn accept(
        &self,
        request: ContainerOperationRequest,
        key: Option<String>,
    ) -> Result<ContainerOperation, Refused> {
        self.operations.accept(request, key)
    }

    pub fn operation(&self, id: &str) -> Option<ContainerOperation> {
        self.operations.book.get(id).map(|entry| entry.status)
    }
}

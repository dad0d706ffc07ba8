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
mod socket;
mod watch;

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{act::Actor, allow::Allow, compose::Compose, operations::Operations, seen::Seen, watch::Watch};
use super::{
    gate::Refused,
    keep::{Book, Folder, StateError},
};
use crate::{
    api::AgentDocker,
    host::{
        ContainerExecRequest, ContainerExecResult, ContainerList, ContainerLogs, ContainerLogsRequest,
        ContainerOperation, ContainerOperationRequest, ContainerQuery, ContainerRuntime,
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
}

impl Containers {
    /// Takes up what an earlier agent left. Nothing is asked of the engine before [`Containers::begin`].
    pub fn open(
        spec: &AgentDocker,
        folder: &Folder,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, StateError> {
        let socket = spec.socket.as_ref().map_or_else(socket::find, PathBuf::from);
        let allow = Allow::from(&spec.allow);
        let seen = Arc::new(Seen::open(allow, folder.join("containers.json"), Timestamp::now())?);
        let compose = Compose { command: spec.compose_command.clone(), socket: socket.clone() };
        let actor = Actor { seen, socket, compose, state_dir: folder.path().to_owned() };
        let book = Book::open(folder.join("container-operations.json"))?;
        let operations = Operations::new(actor.clone(), book, tasks.clone(), shutdown.clone());
        Ok(Self { actor, operations })
    }

    /// Watches the engine, and does what an earlier agent began.
    pub fn begin(&self, loops: &Loops, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let (socket, seen) = (self.actor.socket.clone(), Arc::clone(&self.actor.seen));
        tasks.spawn(peaks::run(socket.clone(), Arc::clone(&seen), shutdown.clone()));
        let beat = loops.register("containers", SILENCE);
        tasks.spawn(Watch { socket, seen, shutdown: shutdown.clone(), beat }.run());
        self.operations.catch_up();
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

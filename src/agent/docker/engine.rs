//! The engine's API over its socket: what the rest needs of it, with errors that say whether the engine is there at all.
//!
//! Containers are named by the ids that the engine itself gave: nothing that a caller wrote becomes part of a path.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::LogOutput,
    errors::Error,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerInspectResponse, ContainerStatsResponse, ContainerSummary, ContainerUpdateBody, EventMessage},
    query_parameters::{
        EventsOptions, InspectContainerOptions, ListContainersOptions, LogsOptions, RestartContainerOptions,
        StartContainerOptions, StatsOptions, StopContainerOptions,
    },
};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout, timeout_at};

use crate::net::root_cause;

/// How long the engine may take to answer; beyond it, it counts as away.
const ANSWER: u64 = 10;
/// The same, for a stop or restart beyond the time that the container itself may take.
const STOP_SLACK: u64 = 30;

/// The kinds of events that change what is known of a container. Not `exec_…`: each health check makes three of those.
const EVENTS: [&str; 12] = [
    "create",
    "destroy",
    "die",
    "health_status",
    "kill",
    "oom",
    "pause",
    "rename",
    "start",
    "stop",
    "unpause",
    "update",
];

/// How many events an engine keeps.
pub const KEPT_EVENTS: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerError {
    /// Nothing is known: it may be down, or too busy to answer.
    #[error("the container engine does not answer: {0}")]
    Away(String),
    #[error("the engine has no such container: {0}")]
    NotFound(String),
    #[error("the engine refused ({status}): {message}")]
    Refused { status: u16, message: String },
}

impl From<Error> for DockerError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code: 404, message } => Self::NotFound(message),
            Error::DockerResponseServerError { status_code, message } => Self::Refused { status: status_code, message },
            Error::RequestTimeoutError => Self::Away(format!("no answer within {ANSWER} s")),
            Error::SocketNotFoundError(path) => Self::Away(format!("there is no socket {path}")),
            other => Self::Away(root_cause(&other)),
        }
    }
}

/// An engine that has answered. Each call is a connection of its own.
#[derive(Clone, Debug)]
pub struct DockerEngine {
    docker: Docker,
    /// As it says itself: `28.5.1`.
    pub version: String,
}

impl DockerEngine {
    /// Connects, and agrees on a version of the API.
    pub async fn connect(socket: &Path) -> Result<Self, DockerError> {
        let docker = Docker::connect_with_unix(&socket.to_string_lossy(), ANSWER, API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await?;
        let version = docker.version().await?.version.unwrap_or_default();
        Ok(Self { docker, version })
    }

    /// Whether it takes new connections: one that shuts down does not, though it still tells of events.
    pub async fn answers(&self, within: Duration) -> bool {
        timeout(within, self.docker.ping()).await.is_ok_and(|pong| pong.is_ok())
    }

    /// All containers, whatever their state, each in a few words.
    pub async fn list(&self) -> Result<Vec<ContainerSummary>, DockerError> {
        let options = ListContainersOptions { all: true, ..Default::default() };
        Ok(self.docker.list_containers(Some(options)).await?)
    }

    /// Ids of the containers that have a label with this value, whatever their state.
    pub async fn ids_with(&self, label: &str, value: &str) -> Result<Vec<String>, DockerError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let lines = self.docker.list_containers(Some(options)).await?;
        Ok(lines.into_iter().filter_map(|line| line.id).collect())
    }

    pub async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse, DockerError> {
        Ok(self.docker.inspect_container(id, None::<InspectContainerOptions>).await?)
    }

    pub async fn has_image(&self, image: &str) -> Result<bool, DockerError> {
        match self.docker.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) => match DockerError::from(error) {
                DockerError::NotFound(_) => Ok(false),
                other => Err(other),
            },
        }
    }

    /// Events of containers since then (nanoseconds of the epoch), and on.
    pub fn events(&self, since: i64) -> BoxStream<'static, Result<EventMessage, DockerError>> {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let filters = HashMap::from([("type".to_owned(), words(&["container"])), ("event".to_owned(), words(&EVENTS))]);
        let options = EventsOptions { since: Some(time(since)), until: None, filters: Some(filters) };
        Box::pin(self.docker.events(Some(options)).map(|event| event.map_err(DockerError::from)))
    }

    /// What this engine still knows of the past: its last [`KEPT_EVENTS`] events of any kind, and none of an engine before it.
    pub async fn past_events(&self, until: i64) -> Result<Vec<EventMessage>, DockerError> {
        let options = EventsOptions { since: Some(time(1)), until: Some(time(until)), filters: None };
        Ok(self.docker.events(Some(options)).try_collect().await?)
    }

    /// What runs already is fine.
    pub async fn start(&self, id: &str) -> Result<(), DockerError> {
        let slow = self.docker.clone().with_timeout(Duration::from_secs(ANSWER + STOP_SLACK));
        already(slow.start_container(id, None::<StartContainerOptions>).await)
    }

    /// With the container's own signal and grace. What does not run is fine.
    pub async fn stop(&self, id: &str, grace: u64) -> Result<(), DockerError> {
        let slow = self.docker.clone().with_timeout(Duration::from_secs(grace + STOP_SLACK));
        already(slow.stop_container(id, None::<StopContainerOptions>).await)
    }

    pub async fn restart(&self, id: &str, grace: u64) -> Result<(), DockerError> {
        let slow = self.docker.clone().with_timeout(Duration::from_secs(grace + ANSWER + STOP_SLACK));
        Ok(slow.restart_container(id, None::<RestartContainerOptions>).await?)
    }

    /// Limits in bytes; `swap` is memory and swap together, -1 for no limit, `None` where the engine counts no swap.
    pub async fn set_memory(&self, id: &str, memory: i64, swap: Option<i64>) -> Result<(), DockerError> {
        let body = ContainerUpdateBody { memory: Some(memory), memory_swap: swap, ..Default::default() };
        Ok(self.docker.update_container(id, body).await?)
    }

    /// What it has written since `since` (seconds of the epoch), oldest first; `tail` lines of it, or all.
    pub fn logs(&self, id: &str, since: i32, tail: &str) -> BoxStream<'static, Vec<u8>> {
        let options = LogsOptions { stdout: true, stderr: true, since, tail: tail.to_owned(), ..Default::default() };
        let docker = self.docker.clone();
        let pieces = docker.logs(id, Some(options));
        // It ends with an error when the last line has no end.
        Box::pin(pieces.take_while(|p| std::future::ready(p.is_ok())).filter_map(|p| async { p.ok().map(bytes) }))
    }

    pub async fn stats(&self, id: &str) -> Result<Option<ContainerStatsResponse>, DockerError> {
        let options = StatsOptions { stream: false, one_shot: true };
        let mut once = Box::pin(self.docker.stats(id, Some(options)));
        let first = timeout(Duration::from_secs(ANSWER), once.next()).await;
        first.map_err(|_| DockerError::Away(format!("no answer within {ANSWER} s")))?.transpose().map_err(Into::into)
    }

    /// Runs a command in a container until it ends or its time is over. The last `keep` bytes of what it prints, and its exit
    /// code, if it has one yet.
    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        within: Duration,
        keep: usize,
    ) -> Result<(Option<i64>, Vec<u8>), DockerError> {
        let until = Instant::now() + within;
        let options = CreateExecOptions {
            cmd: Some(command),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec = self.docker.create_exec(id, options).await?.id;
        let mut printed = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = self.docker.start_exec(&exec, None).await? {
            while let Ok(Some(Ok(piece))) = timeout_at(until, output.next()).await {
                printed.extend_from_slice(&bytes(piece));
                let extra = printed.len().saturating_sub(keep);
                printed.drain(..extra);
            }
        }
        let state = self.docker.inspect_exec(&exec).await?;
        let ended = state.running == Some(false);
        Ok((state.exit_code.filter(|_| ended), printed))
    }
}

fn time(nanos: i64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// 304: it is as it was to become.
fn already(result: Result<(), Error>) -> Result<(), DockerError> {
    match result {
        Err(Error::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
        other => other.map_err(Into::into),
    }
}

fn bytes(piece: LogOutput) -> Vec<u8> {
    piece.into_bytes().to_vec()
}

/// The beginning of a stream, no more than so many bytes, for no longer than the engine may take to answer.
pub async fn first_bytes(stream: impl Stream<Item = Vec<u8>>, bytes: usize) -> Vec<u8> {
    let mut stream = Box::pin(stream);
    let until = Instant::now() + Duration::from_secs(ANSWER / 2);
    let mut read = Vec::new();
    while read.len() < bytes
        && let Ok(Some(piece)) = timeout_at(until, stream.next()).await
    {
        read.extend_from_slice(&piece);
    }
    read.truncate(bytes);
    read
}

/// The end of a stream, no more than so many bytes.
pub async fn last_bytes(stream: impl Stream<Item = Vec<u8>>, bytes: usize) -> Vec<u8> {
    let mut stream = Box::pin(stream);
    let until = Instant::now() + Duration::from_secs(ANSWER / 2);
    let mut read = Vec::new();
    while let Ok(Some(piece)) = timeout_at(until, stream.next()).await {
        read.extend_from_slice(&piece);
        let extra = read.len().saturating_sub(bytes);
        read.drain(..extra);
    }
    read
}

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Where engines put their socket, below a user's home.
const BELOW_HOME: [&str; 4] =
    [".docker/run/docker.sock", ".colima/default/docker.sock", ".orbstack/run/docker.sock", ".rd/docker.sock"];

/// The path that a file or the environment gives, if it is one: only a socket on this host can be watched for long.
fn unix(host: &str) -> Option<PathBuf> {
    host.strip_prefix("unix://").filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// As the agent's file has it: a path, or as DOCKER_HOST would name it.
pub fn given_socket(socket: &str) -> PathBuf {
    unix(socket).unwrap_or_else(|| PathBuf::from(socket))
}

/// DOCKER_HOST, else the docker context in use, else the first known path that exists, else Docker's own. What they name and
/// can't be used is an error: another engine than the one that somebody chose is not the next best.
pub fn find_socket() -> Result<PathBuf, String> {
    let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let config = env::var_os("DOCKER_CONFIG").map_or_else(|| home.join(".docker"), PathBuf::from);
    if let Some(host) = text("DOCKER_HOST") {
        return unix(&host).ok_or_else(|| no_socket("DOCKER_HOST", &host));
    }
    Ok(of_context(&config, text("DOCKER_CONTEXT"))?.unwrap_or_else(|| known_socket(&home)))
}

fn no_socket(what: &str, host: &str) -> String {
    format!(
        "{what} is {host:?}, and only a Unix socket of this host will do: set spec.docker.socket in the agent's file"
    )
}

/// `None`: the default one is in use.
fn of_context(config: &Path, name: Option<String>) -> Result<Option<PathBuf>, String> {
    let read = |path: PathBuf| serde_json::from_str::<Value>(&fs::read_to_string(path).ok()?).ok();
    let chosen = || Some(read(config.join("config.json"))?["currentContext"].as_str()?.to_owned());
    let Some(name) = name.or_else(chosen).filter(|n| !n.is_empty() && n != "default") else { return Ok(None) };
    let digest: String = Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    let meta = read(config.join("contexts/meta").join(digest).join("meta.json"));
    let host = meta.as_ref().and_then(|m| m["Endpoints"]["docker"]["Host"].as_str()).unwrap_or_default();
    unix(host).map(Some).ok_or_else(|| no_socket(&format!("the engine of docker context {name:?}"), host))
}

fn known_socket(home: &Path) -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("docker.sock"));
    let all = std::iter::once(PathBuf::from(DEFAULT_SOCKET)).chain(BELOW_HOME.map(|p| home.join(p))).chain(runtime);
    all.into_iter().find(|p| p.exists()).unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_in_use_names_the_socket() {
        let config = std::env::temp_dir().join(format!("ostler-context-{}", uuid::Uuid::new_v4().simple()));
        // sha256 of `colima`, as `docker context create` names the folder.
        let digest: String = Sha256::digest(b"colima").iter().map(|b| format!("{b:02x}")).collect();
        let meta = config.join("contexts/meta").join(digest);
        fs::create_dir_all(&meta).unwrap();
        fs::write(config.join("config.json"), r#"{"currentContext": "colima"}"#).unwrap();
        let text = r#"{"Name": "colima", "Endpoints": {"docker": {"Host": "unix:///home/ada/.colima/docker.sock"}}}"#;
        fs::write(meta.join("meta.json"), text).unwrap();
        let socket = Ok(Some(PathBuf::from("/home/ada/.colima/docker.sock")));
        assert_eq!(of_context(&config, None), socket);
        assert_eq!(of_context(&config, Some("colima".to_owned())), socket);
        assert_eq!(of_context(&config, Some("default".to_owned())), Ok(None));
        let gone = of_context(&config, Some("gone".to_owned())).unwrap_err();
        assert!(gone.contains("\"gone\"") && gone.contains("spec.docker.socket"), "{gone}");
        fs::write(meta.join("meta.json"), text.replace("unix://", "ssh://ada@mac")).unwrap();
        let remote = of_context(&config, None).unwrap_err();
        assert!(remote.contains("ssh://ada@mac/home"), "{remote}");
        fs::remove_dir_all(config).unwrap();
    }

    #[test]
    fn a_socket_is_a_path_with_or_without_its_scheme() {
        for (text, path) in [("/run/d.sock", "/run/d.sock"), ("unix:///run/d.sock", "/run/d.sock")] {
            assert_eq!(given_socket(text), Path::new(path));
        }
        assert_eq!(unix("tcp://10.0.0.1:2375"), None);
    }
}

//! What a container wrote, and what a command in it says: bounded, secrets masked.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    act::Actor,
    engine::{DockerEngine, DockerError, first_bytes, last_bytes},
    facts::ContainerFacts,
    select::ContainerMatch,
};
use crate::{
    agent::gate::Refused,
    host::{
        AgentRefusal, ContainerExecRequest, ContainerExecResult, ContainerLogs, ContainerLogsRequest, ContainerTarget,
        MAX_LOG_BYTES, mask,
    },
};

/// How much of a command's output is returned, in bytes.
const EXEC_OUTPUT: usize = 2048;
/// The longest that a command may run: the caller waits 10 s.
const EXEC_SECONDS: u32 = 8;
/// Lines of a log's end that are read at most.
const TAIL_LINES: &str = "500";

impl From<DockerError> for Refused {
    fn from(error: DockerError) -> Self {
        let reason = match &error {
            DockerError::Away(_) => AgentRefusal::EngineUnavailable,
            DockerError::NotFound(_) => AgentRefusal::UnknownContainer,
            DockerError::Refused { status: 409, .. } => AgentRefusal::ContainerNotRunning,
            DockerError::Refused { .. } => AgentRefusal::BadRequest,
        };
        Self::new(reason, error.to_string())
    }
}

impl Actor {
    /// The beginning and the end of its last run's log.
    pub async fn logs(&self, request: &ContainerLogsRequest) -> Result<ContainerLogs, Refused> {
        let (engine, facts) = self.reach(&request.target).await?;
        let id = &facts.report.id;
        let since = facts.report.started_at.map_or(0, |at| i32::try_from(at.as_second()).unwrap_or(0));
        let bytes = |asked: u32| asked.min(MAX_LOG_BYTES) as usize;
        let (head, tail) = (bytes(request.head_bytes), bytes(request.tail_bytes));
        // More than is asked for: masking may cut, and half a secret at the edge must not be left.
        let margin = 256;
        let mut logs = ContainerLogs::default();
        if head > 0 {
            let read = first_bytes(engine.logs(id, since, "all"), head + margin).await;
            logs.head = mask::head(&facts.secrets.mask(&String::from_utf8_lossy(&read)), head).to_owned();
        }
        if tail > 0 {
            let read = last_bytes(engine.logs(id, since, TAIL_LINES), tail + margin).await;
            logs.tail = mask::tail(&facts.secrets.mask(&String::from_utf8_lossy(&read)), tail).to_owned();
        }
        Ok(logs)
    }

    /// Runs a command in a running container, where the agent's file permits it.
    pub async fn exec(&self, request: &ContainerExecRequest) -> Result<ContainerExecResult, Refused> {
        if !self.seen.allow().exec {
            return Err(Refused::new(
                AgentRefusal::ContainerNotAllowed,
                "the agent's file permits no commands in containers: set spec.docker.allow.exec: true",
            ));
        }
        let fits = |word: &String| word.len() <= 4096 && !word.contains('\0');
        if !(1..=64).contains(&request.command.len()) || !request.command.iter().all(fits) {
            return Err(Refused::new(AgentRefusal::BadRequest, "command: 1 to 64 words of at most 4096 bytes"));
        }
        if !(1..=EXEC_SECONDS).contains(&request.timeout_seconds) {
            return Err(Refused::new(AgentRefusal::BadRequest, format!("timeoutSeconds: 1 to {EXEC_SECONDS}")));
        }
        let (engine, facts) = self.reach(&request.target).await?;
        if !facts.runs() {
            return Err(Refused::new(
                AgentRefusal::ContainerNotRunning,
                format!("{} does not run: no command can be run in it", facts.report.name),
            ));
        }
        let within = Duration::from_secs(request.timeout_seconds.into());
        let (exit_code, printed) = engine.exec(&facts.report.id, request.command.clone(), within, EXEC_OUTPUT).await?;
        let output = facts.secrets.mask(&String::from_utf8_lossy(&printed));
        Ok(ContainerExecResult { exit_code, output: mask::tail(&output, EXEC_OUTPUT).to_owned() })
    }

    async fn reach(&self, target: &ContainerTarget) -> Result<(DockerEngine, ContainerFacts), Refused> {
        match self.seen.find(target, Timestamp::now())? {
            ContainerMatch::Here(facts) => Ok((DockerEngine::connect(&self.socket).await?, *facts)),
            ContainerMatch::Missing(_) => {
                Err(Refused::new(AgentRefusal::UnknownContainer, format!("there is no {} now", target.name())))
            }
        }
    }
}

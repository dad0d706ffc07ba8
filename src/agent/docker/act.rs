//! What an operation does to a container: up, restart, stop, resize.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::{
    compose::{Compose, ComposeError, ComposeRequest},
    engine::{DockerEngine, DockerError},
    facts::{ContainerFacts, label},
    seen::ContainerCache,
    select::{ComposeOrigin, ContainerMatch},
    watch::look,
};
use crate::{
    agent::gate::Refused,
    host::{
        AgentRefusal, ContainerAction, ContainerFailure, ContainerOperationRequest, ContainerReport, ContainerState,
        ContainerTarget, DiskSpace,
    },
};

/// Why an operation failed: the word for machines, the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ContainerActionError {
    pub failure: ContainerFailure,
    pub message: String,
}

impl ContainerActionError {
    pub fn new(failure: ContainerFailure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into() }
    }
}

impl From<DockerError> for ContainerActionError {
    fn from(error: DockerError) -> Self {
        let failure = match &error {
            DockerError::Away(_) => ContainerFailure::EngineUnavailable,
            // `No such image`, as the engine says when it starts a container.
            DockerError::NotFound(message) if message.contains("image") => ContainerFailure::ImageMissing,
            DockerError::NotFound(_) => ContainerFailure::Missing,
            DockerError::Refused { .. } => ContainerFailure::Engine,
        };
        Self::new(failure, error.to_string())
    }
}

impl From<Refused> for ContainerActionError {
    fn from(refused: Refused) -> Self {
        let failure = match refused.reason {
            AgentRefusal::EngineUnavailable => ContainerFailure::EngineUnavailable,
            _ => ContainerFailure::Missing,
        };
        Self::new(failure, refused.message)
    }
}

/// Acts on containers through the engine and compose.
#[derive(Clone, Debug)]
pub struct Actor {
    pub seen: Arc<ContainerCache>,
    pub socket: PathBuf,
    pub compose: Compose,
    /// Its file system is the one whose free space counts.
    pub state_dir: PathBuf,
}

impl Actor {
    /// The name under which operations on a target take turns, and the id of its container, if there is one.
    pub fn named(&self, target: &ContainerTarget) -> (String, Option<String>) {
        match self.seen.find(target, Timestamp::now()) {
            Ok(ContainerMatch::Here(facts)) => (facts.report.name, Some(facts.report.id)),
            _ => (target.name().to_owned(), None),
        }
    }

    /// Does what is asked; the sentence says what was done. `asked` tells a Restart that an earlier agent already did.
    pub async fn act(
        &self,
        request: &ContainerOperationRequest,
        asked: Timestamp,
    ) -> Result<String, ContainerActionError> {
        let found = self.seen.find(&request.target, Timestamp::now())?;
        if let (ContainerMatch::Here(facts), Some(judged)) = (&found, &request.id)
            && facts.report.id != *judged
        {
            let message = format!("{} is another container than the one that was judged", facts.report.name);
            return Err(ContainerActionError::new(ContainerFailure::ContainerChanged, message));
        }
        let engine = DockerEngine::connect(&self.socket).await?;
        let (facts, made) = match found {
            // What is known may be a moment old.
            ContainerMatch::Here(known) => {
                let made = made_by(&known).filter(|_| self.seen.contradiction(&known).is_none());
                (look(&engine, &known.report.id).await?, made)
            }
            ContainerMatch::Missing(made) => (None, made),
        };
        let facts = match (facts, request.action) {
            (Some(facts), _) => facts,
            (None, ContainerAction::Up) if request.id.is_some() => {
                let message = format!("{} is gone, the container that was judged", request.target.name());
                return Err(ContainerActionError::new(ContainerFailure::ContainerChanged, message));
            }
            (None, ContainerAction::Up) => return self.create(&engine, request.target.name(), made).await,
            (None, _) => {
                return Err(ContainerActionError::new(
                    ContainerFailure::Missing,
                    format!("there is no {}", request.target.name()),
                ));
            }
        };
        let done = match request.action {
            ContainerAction::Up => self.up(&engine, &facts).await,
            ContainerAction::Restart => self.restart(&engine, &facts, asked).await,
            ContainerAction::Stop => self.stop(&engine, &facts).await,
            ContainerAction::Resize { memory_bytes } => resize(&engine, &facts, memory_bytes).await,
        };
        // Whoever follows the operation reads the list next.
        if let Some(now) = look(&engine, &facts.report.id).await? {
            self.seen.put(now);
        }
        done
    }

    /// Starts what is stopped: by compose, which also brings back the network that it was in; by the engine, as it was made,
    /// where its files have changed since.
    pub async fn up(&self, engine: &DockerEngine, facts: &ContainerFacts) -> Result<String, ContainerActionError> {
        let (id, name) = (&facts.report.id, &facts.report.name);
        match facts.report.state {
            ContainerState::Running | ContainerState::Restarting => return Ok(format!("{name} runs already")),
            ContainerState::Paused => {
                let message = format!("somebody paused {name}: `docker unpause {name}` lets it go on");
                return Err(ContainerActionError::new(ContainerFailure::Engine, message));
            }
            _ => {}
        }
        // Compose would start all containers of the service, one that a person stopped among them.
        let alone = |made: &ComposeOrigin| self.seen.count_of(&made.project, &made.service) <= 1;
        let drift = match made_by(facts).filter(alone) {
            // Another project's files say nothing of it.
            Some(_) if self.seen.contradiction(facts).is_some() => None,
            Some(made) => match self.compose_up(&made.project, &made.service).await {
                Ok(()) => None,
                Err(ComposeError::Drift(what, _)) => Some(what),
                Err(error) => {
                    tracing::info!(container = %name, %error, "compose cannot start the container; starting it through the engine");
                    None
                }
            },
            None => None,
        };
        self.seen.set_drift(id, drift.clone());
        // What compose started may have ended already: one start is one run.
        let now = look(engine, id).await?;
        if !now.is_some_and(|now| has_started_since(&facts.report, &now.report)) {
            engine.start(id).await?;
        }
        Ok(match drift {
            None => format!("{name} started"),
            Some(what) => format!("{name} started as it was made; {what}"),
        })
    }

    /// Brings up a compose service that has no container.
    async fn create(
        &self,
        engine: &DockerEngine,
        name: &str,
        made: Option<ComposeOrigin>,
    ) -> Result<String, ContainerActionError> {
        let Some(made) = made else {
            let message = format!("there is no {name}, and nothing tells how it was made: make it again");
            return Err(ContainerActionError::new(ContainerFailure::Missing, message));
        };
        if let Err(error) = self.compose_up(&made.project, &made.service).await {
            return Err(self.not_created(engine, &made, &error).await);
        }
        // Whoever follows the operation reads the list next.
        for id in engine.ids_with(label::PROJECT, &made.project).await? {
            if let Some(now) = look(engine, &id).await? {
                self.seen.put(now);
            }
        }
        Ok(format!("{name} was missing; compose made and started it"))
    }

    async fn not_created(
        &self,
        engine: &DockerEngine,
        made: &ComposeOrigin,
        error: &ComposeError,
    ) -> ContainerActionError {
        let failure = match error {
            ComposeError::Drift(..) | ComposeError::Outside(_) => ContainerFailure::ComposeDrift,
            ComposeError::NoCompose { .. } => ContainerFailure::Engine,
            // A registry that can't be reached is told in many words: whether the image is here, the engine knows.
            ComposeError::Failed { .. } if self.has_image_of(engine, made).await => ContainerFailure::Engine,
            ComposeError::Image(_) | ComposeError::Failed { .. } if self.disk_is_full() => ContainerFailure::DiskFull,
            ComposeError::Image(_) | ComposeError::Failed { .. } => ContainerFailure::ImageMissing,
        };
        ContainerActionError::new(failure, error.to_string())
    }

    /// Whether the image that a service's container was made from is here; what is not known counts as here.
    async fn has_image_of(&self, engine: &DockerEngine, made: &ComposeOrigin) -> bool {
        let project = self.seen.project(&made.project).unwrap_or_default();
        let image = project.services.get(&made.service).map_or("", |service| service.image.as_str());
        image.is_empty() || engine.has_image(image).await.unwrap_or(true)
    }

    async fn compose_up(&self, project: &str, service: &str) -> Result<(), ComposeError> {
        let known = self.seen.project(project).unwrap_or_default();
        if let Some(why) = self.seen.allow().outside(&known.origin()) {
            return Err(ComposeError::Outside(why));
        }
        let pull = !self.disk_is_full();
        if !pull {
            tracing::warn!(project, service, "the disk is nearly full; not pulling images");
        }
        self.compose.up(&ComposeRequest { name: project, project: &known, service, pull }).await
    }

    fn disk_is_full(&self) -> bool {
        DiskSpace::of(&self.state_dir).is_some_and(|disk| disk.is_short_of(DiskSpace::FOR_DOWNLOADS))
    }

    /// An agent that died after it had restarted the container must not do it again.
    pub async fn restart(
        &self,
        engine: &DockerEngine,
        facts: &ContainerFacts,
        asked: Timestamp,
    ) -> Result<String, ContainerActionError> {
        let (id, name) = (&facts.report.id, &facts.report.name);
        if facts.report.state != ContainerState::Running {
            return self.up(engine, facts).await;
        }
        if facts.report.started_at.is_some_and(|at| at > asked) {
            return Ok(format!("{name} was restarted"));
        }
        self.stopping(facts, engine.restart(id, facts.stop_grace)).await?;
        Ok(format!("{name} restarted"))
    }

    pub async fn stop(&self, engine: &DockerEngine, facts: &ContainerFacts) -> Result<String, ContainerActionError> {
        let (id, name) = (&facts.report.id, &facts.report.name);
        if !matches!(facts.report.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting)
        {
            return Ok(format!("{name} was not running"));
        }
        self.stopping(facts, engine.stop(id, facts.stop_grace)).await?;
        Ok(format!("{name} stopped"))
    }

    /// Asks the engine for a stop, once it is written down whose it is.
    async fn stopping(
        &self,
        facts: &ContainerFacts,
        asks: impl Future<Output = Result<(), DockerError>>,
    ) -> Result<(), ContainerActionError> {
        let (seen, id, grace) = (Arc::clone(&self.seen), facts.report.id.clone(), facts.stop_grace);
        let written = spawn_blocking(move || seen.begin_stop(&id, grace, Timestamp::now())).await;
        let failed = |error: String| ContainerActionError::new(ContainerFailure::Engine, error);
        written.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        let done = asks.await;
        match &done {
            // It may still do it.
            Err(DockerError::Away(_)) => {}
            answer => self.seen.end_stop(&facts.report.id, answer.is_err(), Timestamp::now()),
        }
        Ok(done?)
    }
}

/// Whether a container was started after it was looked at first.
fn has_started_since(before: &ContainerReport, now: &ContainerReport) -> bool {
    now.state == ContainerState::Running || (now.started_at.is_some() && now.started_at != before.started_at)
}

/// The compose service that a container belongs to.
fn made_by(facts: &ContainerFacts) -> Option<ComposeOrigin> {
    let of = facts.report.compose.as_ref().filter(|_| !facts.is_oneoff())?;
    Some(ComposeOrigin { project: of.project.clone(), service: of.service.clone() })
}

/// Changes the limit, and that of memory and swap together by as much.
async fn resize(engine: &DockerEngine, facts: &ContainerFacts, bytes: i64) -> Result<String, ContainerActionError> {
    let (id, name) = (&facts.report.id, &facts.report.name);
    let before = facts.report.memory_limit.unwrap_or(0);
    if before == bytes {
        return Ok(format!("the limit of {name} is {bytes} bytes already"));
    }
    engine.set_memory(id, bytes, swap_beside(before, facts.memory_swap, bytes)).await?;
    Ok(format!("limit of {name} changed from {before} to {bytes} bytes"))
}

/// The limit of memory and swap together that leaves as much swap as there was. `None`: the engine does not count swap.
fn swap_beside(memory: i64, both: i64, new_memory: i64) -> Option<i64> {
    match both {
        -1 => Some(-1),
        both if both <= 0 => None,
        both => Some(new_memory + (both - memory).max(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_stays_as_much_as_it_was() {
        const MI: i64 = 1 << 20;
        for (name, memory, both, new, expected) in [
            ("twice the memory, Docker's default", 20 * MI, 40 * MI, 30 * MI, Some(50 * MI)),
            ("no swap at all", 20 * MI, 20 * MI, 30 * MI, Some(30 * MI)),
            ("unlimited", 20 * MI, -1, 30 * MI, Some(-1)),
            ("not counted", 20 * MI, 0, 30 * MI, None),
            ("smaller than before", 40 * MI, 60 * MI, 30 * MI, Some(50 * MI)),
        ] {
            assert_eq!(swap_beside(memory, both, new), expected, "{name}");
        }
    }
}

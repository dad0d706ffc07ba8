//! Keeps what is known of the containers as the engine has it: list and inspect once, then by events; compared again each
//! twenty seconds and after each reconnection.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use bollard::models::{ContainerSummaryStateEnum, EventMessage, EventMessageTypeEnum};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    compose::{Compose, ComposeRequest},
    engine::{DockerEngine, DockerError, KEPT_EVENTS},
    facts::ContainerFacts,
    seen::ContainerCache,
    stops::{StopHeard, stopped_by},
};
use crate::telemetry::Beat;

/// How often all containers are compared with what events told.
const COMPARE: Duration = Duration::from_secs(20);
/// How long to wait before an engine that is away is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How much later than a container's end the event may come that somebody stopped it.
const STOP_AFTER_DEATH: Duration = Duration::from_secs(1);
/// The same, where a signal that asks it to end was sent through the engine: a busy one takes its time to tell of the stop.
const STOP_AFTER_SIGNAL: Duration = Duration::from_secs(10);
/// How long an engine that lives may take to answer a connection.
const PING: Duration = Duration::from_secs(3);
/// How many inspections go on at once.
const INSPECTIONS: usize = 8;

#[derive(Debug)]
pub struct EngineWatch {
    pub socket: PathBuf,
    pub seen: Arc<ContainerCache>,
    pub compose: Compose,
    pub shutdown: CancellationToken,
    pub beat: Beat,
}

/// A connection to an engine, for as long as it lasts.
struct Session<'a> {
    engine: DockerEngine,
    seen: &'a ContainerCache,
    compose: &'a Compose,
    /// Containers that died a moment ago: they are looked at when it is known whether somebody stopped them.
    dying: BTreeMap<String, Instant>,
    /// Containers that were sent a signal that asks them to end: what a stop begins with.
    signaled: BTreeSet<String>,
    /// It takes no more connections: it shuts down.
    closing: bool,
    /// It is the engine of the last session.
    lived: bool,
}

impl EngineWatch {
    pub async fn run(self) {
        let shutdown = self.shutdown.clone();
        shutdown.run_until_cancelled(self.forever()).await;
        self.save().await;
    }

    async fn forever(&self) {
        let mut told = false;
        loop {
            let error = match self.session(&mut told).await {
                Ok(()) => "it closed the stream of events".to_owned(),
                Err(DockerError::Away(why)) => why,
                Err(other) => other.to_string(),
            };
            self.seen.away(&error, Timestamp::now());
            if !told {
                tracing::warn!(socket = %self.socket.display(), error, "container engine is unreachable");
                told = true;
            }
            self.save().await;
            self.beat.beat();
            sleep(RETRY).await;
        }
    }

    /// Follows one engine until it ends.
    async fn session(&self, told: &mut bool) -> Result<(), DockerError> {
        let begun = nanos(Timestamp::now());
        let engine = DockerEngine::connect(&self.socket).await?;
        let mut session = Session {
            engine,
            seen: &self.seen,
            compose: &self.compose,
            dying: BTreeMap::new(),
            signaled: BTreeSet::new(),
            closing: false,
            lived: false,
        };
        // The past first: who was stopped by somebody must be known before it is reported as down.
        let past = session.engine.past_events(begun).await?;
        session.lived = has_lived(&past, self.seen.last_event());
        let mut started = BTreeSet::new();
        for event in &past {
            if let Some((id, "start")) = of_container(event) {
                started.insert(id);
            }
            let same_engine = session.lived;
            session
                .remember(event, |id| Some(StopHeard::Later { same_engine, started_by_it: started.contains(id) }))
                .await;
        }
        session.compare(true).await?;
        tracing::info!(socket = %self.socket.display(), version = session.engine.version, "connected to the container engine");
        *told = false;
        let mut events = session.engine.events(begun);
        let mut compare = interval(COMPARE);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        compare.reset();
        let mut upkeep = interval(Duration::from_secs(1));
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = session.dying.values().min().copied();
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => session.take(&event?).await?,
                    None => return Ok(()),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => session.inspect_ended().await?,
                _ = compare.tick() => session.compare(false).await?,
                _ = upkeep.tick() => self.save().await,
            }
            self.beat.beat();
        }
    }

    async fn save(&self) {
        let seen = Arc::clone(&self.seen);
        let saved = tokio::task::spawn_blocking(move || seen.save()).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot record what is known of the containers"),
            Err(error) => tracing::error!(%error, "recording what is known of the containers failed"),
        }
    }
}

impl Session<'_> {
    /// Takes in an event, and looks at its container again.
    async fn take(&mut self, event: &EventMessage) -> Result<(), DockerError> {
        let Some((id, action)) = of_container(event) else { return Ok(()) };
        if !self.is_ours(event) && self.seen.get(id).is_none() {
            return Ok(());
        }
        tracing::debug!(id, action, "container event");
        self.remember(event, |_| None).await;
        match action {
            "kill" => {
                // SIGKILL is the end of a stop or of a `docker kill`, and the beginning of none.
                if attribute(event, "signal") != Some("9") {
                    self.signaled.insert(id.to_owned());
                }
                Ok(())
            }
            "die" => {
                let wait = if self.signaled.remove(id) { STOP_AFTER_SIGNAL } else { STOP_AFTER_DEATH };
                self.dying.insert(id.to_owned(), Instant::now() + wait);
                Ok(())
            }
            "destroy" => {
                self.dying.remove(id);
                self.signaled.remove(id);
                self.seen.remove(id);
                Ok(())
            }
            _ => {
                self.dying.remove(id);
                self.inspect(id).await
            }
        }
    }

    /// Takes in what an event tells that no inspection does. `past` says how an event of the past is heard.
    async fn remember(&mut self, event: &EventMessage, past: impl Fn(&str) -> Option<StopHeard>) {
        let Some((id, action)) = of_container(event) else { return };
        let time = event.time_nano.unwrap_or(0);
        // Told twice: the live events begin a moment before the comparison.
        if time <= self.seen.last_event() {
            return;
        }
        let at = Timestamp::from_nanosecond(time.into()).unwrap_or_else(|_| Timestamp::now());
        match action {
            "oom" => {
                tracing::warn!(id, name = name_of(event), "container out of memory");
                self.seen.out_of_memory(id, at);
                if let Some(limit) = self.seen.get(id).and_then(|f| f.report.memory_limit) {
                    self.seen.used_memory(id, limit);
                }
            }
            "stop" => {
                let asked = self.seen.take_stop(id, at);
                let heard = match past(id) {
                    Some(heard) => heard,
                    None => StopHeard::Live { engine_answers: asked || self.still_answers().await },
                };
                let by = stopped_by(asked, heard);
                tracing::info!(id, name = name_of(event), by = by.as_str(), "container stopped");
                self.seen.stopped(id, by, at);
            }
            _ => {}
        }
        self.seen.event_done(time);
    }

    /// Whether the engine takes connections; one that shuts down does not any more.
    async fn still_answers(&mut self) -> bool {
        self.closing = self.closing || !self.engine.answers(PING).await;
        !self.closing
    }

    /// Looks at what died a moment ago and was not stopped by anybody.
    async fn inspect_ended(&mut self) -> Result<(), DockerError> {
        let now = Instant::now();
        let due: Vec<_> = self.dying.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.dying.remove(&id);
            inspect(&self.engine, self.seen, self.compose, &id).await?;
        }
        Ok(())
    }

    /// Compares all containers with what is known; `all`: inspects each, for events may have been missed.
    async fn compare(&mut self, all: bool) -> Result<(), DockerError> {
        let lines = self.engine.list().await?;
        let mut ours = BTreeSet::new();
        let mut look = Vec::new();
        for line in &lines {
            let labels = line.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
            let mut names = line.names.iter().flatten().map(|n| n.trim_start_matches('/'));
            let Some(id) = line.id.clone().filter(|_| names.any(|n| self.seen.allow().permits(n, &labels))) else {
                continue;
            };
            let known = self.seen.get(&id);
            let ended = matches!(line.state, Some(ContainerSummaryStateEnum::EXITED));
            if !all && ended && known.as_ref().is_some_and(ContainerFacts::runs) {
                // The event of its end is on its way.
                self.dying.entry(id.clone()).or_insert_with(|| Instant::now() + STOP_AFTER_DEATH);
            } else if !self.dying.contains_key(&id) && (all || known.is_none_or(|facts| !facts.agrees_with(line))) {
                look.push(id.clone());
            }
            ours.insert(id);
        }
        self.seen.retain(&ours);
        let (engine, seen, compose) = (&self.engine, self.seen, self.compose);
        stream::iter(look)
            .map(Ok)
            .try_for_each_concurrent(INSPECTIONS, |id| async move { inspect(engine, seen, compose, &id).await })
            .await?;
        self.seen.confirm(&self.engine.version, Timestamp::now());
        Ok(())
    }

    /// An inspection for one event may tell of what later ones will: an end that no event has told of yet waits for them,
    /// for they say whether somebody stopped it.
    async fn inspect(&mut self, id: &str) -> Result<(), DockerError> {
        match look(&self.engine, id).await? {
            Some(facts) if self.seen.ended_unheard(&facts) => {
                self.dying.entry(id.to_owned()).or_insert_with(|| Instant::now() + STOP_AFTER_DEATH);
            }
            Some(facts) => put(self.seen, self.compose, facts).await,
            None => self.seen.remove(id),
        }
        Ok(())
    }

    fn is_ours(&self, event: &EventMessage) -> bool {
        let Some(attributes) = event.actor.as_ref().and_then(|a| a.attributes.as_ref()) else { return false };
        let labels = attributes.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.seen.allow().permits(attributes.get("name").map_or("", String::as_str), &labels)
    }
}

/// Before an end with an error is told, its compose file is asked whether anything is to start it again.
async fn put(seen: &ContainerCache, compose: &Compose, facts: ContainerFacts) {
    if let Some((name, service, project)) = seen.unasked(&facts) {
        let wanted = ComposeRequest { name: &name, project: &project, service: &service, pull: false };
        let never = compose.never_restarts(&wanted).await.unwrap_or_else(|error| {
            tracing::info!(project = name, service, %error, "cannot read the restart policy from the compose file");
            false
        });
        seen.learn_restart(&name, &service, never);
    }
    seen.put(facts);
}

async fn inspect(engine: &DockerEngine, seen: &ContainerCache, compose: &Compose, id: &str) -> Result<(), DockerError> {
    match look(engine, id).await? {
        Some(facts) => put(seen, compose, facts).await,
        None => seen.remove(id),
    }
    Ok(())
}

/// Inspects a container; `None` when it is gone, or is no container as engines describe them.
pub async fn look(engine: &DockerEngine, id: &str) -> Result<Option<ContainerFacts>, DockerError> {
    let seen = match engine.inspect(id).await {
        Ok(seen) => seen,
        Err(DockerError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(mut facts) = ContainerFacts::read(seen) else {
        tracing::warn!(id, "cannot read the engine's description of the container");
        return Ok(None);
    };
    if !facts.runs() && !facts.image.is_empty() {
        facts.report.image_missing = !engine.has_image(&facts.image).await?;
    }
    Ok(Some(facts))
}

/// Whether an engine that tells of this past is the one that told the last event: another one knows nothing of it. One that
/// keeps as many events as it can has lived for long; and nobody can say of the first that is met.
fn has_lived(past: &[EventMessage], last_event: i64) -> bool {
    last_event == 0 || past.len() >= KEPT_EVENTS || past.iter().any(|event| event.time_nano == Some(last_event))
}

fn of_container(event: &EventMessage) -> Option<(&str, &str)> {
    if event.typ != Some(EventMessageTypeEnum::CONTAINER) {
        return None;
    }
    let id = event.actor.as_ref()?.id.as_deref()?;
    // `health_status: healthy`
    let action = event.action.as_deref()?.split(':').next()?;
    Some((id, action))
}

fn name_of(event: &EventMessage) -> Option<&str> {
    attribute(event, "name")
}

fn attribute<'a>(event: &'a EventMessage, name: &str) -> Option<&'a str> {
    Some(event.actor.as_ref()?.attributes.as_ref()?.get(name)?.as_str())
}

fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_does_not_know_the_last_event_is_another_one() {
        let event = |time| EventMessage { time_nano: Some(time), ..Default::default() };
        let full = || (1000..).take(KEPT_EVENTS).map(event).collect::<Vec<_>>();
        for (name, past, last_event, lived) in [
            ("it tells the last one again", vec![event(5), event(7), event(9)], 7, true),
            ("it tells only of later ones", vec![event(8), event(9)], 7, false),
            ("it tells of nothing", vec![], 7, false),
            ("it has forgotten so much that it must have lived", full(), 7, true),
            ("the first that is met", vec![event(8)], 0, true),
        ] {
            assert_eq!(has_lived(&past, last_event), lived, "{name}");
        }
    }
}

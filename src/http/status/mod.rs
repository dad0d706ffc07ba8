//! The one screen: what is not well first.

mod line_text;
mod lines;
mod queues;
#[cfg(test)]
mod tests;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api, ApiError,
    causes::{self, CauseView},
    extract::Query,
    resources::{self, InNamespace},
    types::{Item, LeaderView, Problem},
};
use crate::{api::Kind, causes::CauseSeverity, store::Pause};

pub(super) use line_text::{LinePart, LineText};
pub use lines::{BackendLine, Level, ResourceLine};
pub use queues::QueueLine;
pub(super) use queues::{WaitingLine, queue_lines, waiting_lines};

/// Everything that one screen shows.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The server's time, for ages.
    pub now: Timestamp,
    /// Whether everything that is declared, and not suspended, is as declared.
    pub healthy: bool,
    /// `None`: nobody leads, so nothing is observed or healed.
    pub leader: Option<LeaderView>,
    pub pause: Option<PauseView>,
    /// What is wrong, each once, worst first: without what heals by itself.
    #[serde(default)]
    pub causes: Vec<CauseView>,
    /// How many Notifiers are told of causes.
    pub told: Option<usize>,
    /// Worst first.
    pub backends: Vec<BackendLine>,
    /// Worst first.
    #[serde(default)]
    pub queues: Vec<QueueLine>,
    /// Worst first.
    pub agents: Vec<ResourceLine>,
    /// Checks of containers, worst first.
    #[serde(default)]
    pub containers: Vec<ResourceLine>,
    /// Worst first.
    #[serde(default)]
    pub experts: Vec<ResourceLine>,
    /// Worst first.
    #[serde(default)]
    pub pools: Vec<ResourceLine>,
    /// Worst first.
    #[serde(default)]
    pub schedules: Vec<ResourceLine>,
    /// Worst first.
    #[serde(default)]
    pub notifiers: Vec<ResourceLine>,
    /// Manifests that are not in force.
    pub problems: Vec<Problem>,
}

impl Overview {
    /// Whether names need their namespace to tell them apart.
    pub fn several_namespaces(&self) -> bool {
        let Self { agents, containers, experts, pools, schedules, notifiers, .. } = self;
        let lines = [agents, containers, experts, pools, schedules, notifiers].into_iter().flatten();
        let mut all: Vec<&str> = lines.map(|line| line.namespace.as_str()).collect();
        all.extend(self.backends.iter().map(|line| line.namespace.as_str()));
        all.extend(self.queues.iter().map(|line| line.namespace.as_str()));
        all.windows(2).any(|pair| pair[0] != pair[1])
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseView {
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    pub by: String,
}

/// The one screen's data, worst first.
#[utoipa::path(get, path = "/api/v1/status", params(InNamespace), responses((status = 200, body = Overview)))]
pub(super) async fn status(
    State(api): State<Api>,
    Query(query): Query<InNamespace>,
) -> Result<Json<Overview>, ApiError> {
    let (namespace, now) = (query.namespace.as_deref(), Timestamp::now());
    let items = async |kind| resources::items(&api, kind, namespace).await;
    let seen = Seen {
        namespace,
        backends: items(Kind::LLMBackend).await?,
        agents: items(Kind::HostAgent).await?,
        checks: items(Kind::ContainerHealthCheck).await?,
        experts: items(Kind::Expert).await?,
        pools: items(Kind::WorkerPool).await?,
        schedules: items(Kind::TaskSchedule).await?,
        notifiers: items(Kind::Notifier).await?,
        told: told(&resources::items(&api, Kind::Notifier, None).await?),
        causes: causes::open(&api, namespace, now).await?,
        queues: queue_lines(&api, namespace, &items(Kind::TaskQueue).await?, now).await?,
        leader: api.store.leader().await?.and_then(LeaderView::of),
        pause: api.store.controls().await?.pause,
        problems: api.all_problems(),
    };
    Ok(Json(overview(seen, now)))
}

/// What the screen is made of.
struct Seen<'a> {
    /// The only one that was asked for.
    namespace: Option<&'a str>,
    backends: Vec<Item>,
    agents: Vec<Item>,
    checks: Vec<Item>,
    experts: Vec<Item>,
    pools: Vec<Item>,
    schedules: Vec<Item>,
    notifiers: Vec<Item>,
    told: usize,
    causes: Vec<CauseView>,
    queues: Vec<QueueLine>,
    leader: Option<LeaderView>,
    pause: Option<Pause>,
    problems: Vec<Problem>,
}

fn overview(seen: Seen<'_>, now: Timestamp) -> Overview {
    let mut backends: Vec<BackendLine> = seen.backends.iter().map(|item| BackendLine::of(item, now)).collect();
    backends.sort_by(|a, b| (b.level, &a.namespace, &a.name).cmp(&(a.level, &b.namespace, &b.name)));
    let lines = |items: &[Item], of: &dyn Fn(&Item) -> ResourceLine| {
        let mut lines: Vec<ResourceLine> = items.iter().map(of).collect();
        lines.sort_by(|a, b| (b.level, &a.namespace, &a.name).cmp(&(a.level, &b.namespace, &b.name)));
        lines
    };
    let declared = |item: &Item| ResourceLine::of_declared(item, now);
    let agents = lines(&seen.agents, &ResourceLine::of_agent);
    let containers = lines(&seen.checks, &|item| ResourceLine::of_check(item, now));
    let [experts, pools, schedules, notifiers] =
        [&seen.experts, &seen.pools, &seen.schedules, &seen.notifiers].map(|items| lines(items, &declared));
    let mut problems = seen.problems;
    let others = [&agents, &containers, &experts, &pools, &schedules, &notifiers];
    if let Some(namespace) = seen.namespace
        && backends.is_empty()
        && seen.queues.is_empty()
        && others.iter().all(|lines| lines.is_empty())
    {
        problems.push(nothing_in(namespace));
    }
    let over = |pause: &Pause| pause.until.is_some_and(|until| until <= now);
    Overview {
        now,
        healthy: seen.leader.is_some()
            && backends.iter().all(|b| b.healthy)
            && others.iter().all(|lines| lines.iter().all(|line| line.healthy))
            && seen.queues.iter().all(|q| q.healthy)
            && !problems.iter().any(|p| p.error),
        leader: seen.leader,
        pause: seen.pause.filter(|pause| !over(pause)).map(|Pause { since, until, by }| PauseView { since, until, by }),
        causes: seen.causes.into_iter().filter(|cause| cause.severity > CauseSeverity::Info).collect(),
        told: Some(seen.told),
        backends,
        queues: seen.queues,
        agents,
        containers,
        experts,
        pools,
        schedules,
        notifiers,
        problems,
    }
}

/// Those that are told of causes: not suspended, and no mere heartbeat.
fn told(notifiers: &[Item]) -> usize {
    let is_told =
        |item: &&Item| item.spec.get("type").is_some_and(|type_| type_ != "Heartbeat") && !lines::is_suspended(item);
    notifiers.iter().filter(is_told).count()
}

/// A namespace that is asked for by name and holds nothing is most likely mistyped.
fn nothing_in(namespace: &str) -> Problem {
    Problem {
        error: true,
        message: format!("nothing is declared in namespace {namespace:?}: correct -n, or leave it out to see all"),
        ..Problem::default()
    }
}

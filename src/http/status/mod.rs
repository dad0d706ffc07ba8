//! The one screen: what is not well first.

mod lines;
mod queues;
#[cfg(test)]
mod tests;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api, ApiError, KINDS,
    extract::Query,
    resources::{self, InNamespace},
    types::{Item, LeaderView, Problem},
};
use crate::store::Pause;

pub use lines::{BackendLine, Level, ResourceLine};
pub use queues::QueueLine;

/// Everything that one screen shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The server's time, for ages.
    pub now: Timestamp,
    /// Whether everything that is declared, and not suspended, is as declared.
    pub healthy: bool,
    /// `None`: nobody leads, so nothing is observed or healed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseView>,
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
    /// Manifests that are not in force.
    pub problems: Vec<Problem>,
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
    let [backends, agents, .., checks] = KINDS;
    let seen = Seen {
        backends: resources::items(&api, backends, namespace).await?,
        agents: resources::items(&api, agents, namespace).await?,
        checks: resources::items(&api, checks, namespace).await?,
        queues: queues::queue_lines(&api, namespace, now).await?,
        leader: api.store.leader().await?.and_then(LeaderView::of),
        pause: api.store.controls().await?.pause,
        problems: (api.problems)(),
    };
    Ok(Json(overview(seen, now)))
}

/// What the screen is made of.
struct Seen {
    backends: Vec<Item>,
    agents: Vec<Item>,
    checks: Vec<Item>,
    queues: Vec<QueueLine>,
    leader: Option<LeaderView>,
    pause: Option<Pause>,
    problems: Vec<Problem>,
}

fn overview(seen: Seen, now: Timestamp) -> Overview {
    let mut backends: Vec<BackendLine> = seen.backends.iter().map(|item| BackendLine::of(item, now)).collect();
    let mut agents: Vec<ResourceLine> = seen.agents.iter().map(ResourceLine::of_agent).collect();
    let mut containers: Vec<ResourceLine> = seen.checks.iter().map(|item| ResourceLine::of_check(item, now)).collect();
    backends.sort_by(|a, b| (b.level, &a.namespace, &a.name).cmp(&(a.level, &b.namespace, &b.name)));
    for lines in [&mut agents, &mut containers] {
        lines.sort_by(|a, b| (b.level, &a.namespace, &a.name).cmp(&(a.level, &b.namespace, &b.name)));
    }
    let over = |pause: &Pause| pause.until.is_some_and(|until| until <= now);
    Overview {
        now,
        healthy: seen.leader.is_some()
            && backends.iter().all(|b| b.healthy)
            && agents.iter().all(|a| a.healthy)
            && containers.iter().all(|c| c.healthy)
            && seen.queues.iter().all(|q| q.healthy)
            && !seen.problems.iter().any(|p| p.error),
        leader: seen.leader,
        pause: seen.pause.filter(|pause| !over(pause)).map(|Pause { since, until, by }| PauseView { since, until, by }),
        backends,
        queues: seen.queues,
        agents,
        containers,
        problems: seen.problems,
    }
}

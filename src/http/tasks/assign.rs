//! A round of assignment on request, under the epoch of whoever leads.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::world::{expert_view, load_of, queue_view};
use crate::{
    http::{Api, ApiError, ErrorReply, types::LeaderView},
    store::{DeclaredRow, ExpertLoad, Fence},
    tasks::{
        TaskState, Unassigned,
        assign::{AssignReport, Roster, Tally},
    },
};

const BATCH: i64 = 1_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Round {
    /// Only tasks of this namespace.
    pub namespace: Option<String>,
    /// Only say what would be assigned.
    pub dry_run: bool,
}

/// Gives every pending task that has nobody to somebody, as the leader does all the time, and reports: how many were pending,
/// how many had nobody, who got how many, how many had somebody already, and which nobody can take and why.
#[utoipa::path(post, path = "/api/v1/tasks/assign", params(Round), tag = "tasks",
    responses((status = 200, body = AssignReport), (status = 503, description = "nobody leads", body = ErrorReply)))]
pub async fn assign(State(api): State<Api>, Query(round): Query<Round>) -> Result<Json<AssignReport>, ApiError> {
    let Round { namespace, dry_run } = round;
    let leader = api.store.leader().await?.and_then(LeaderView::of);
    let fence = match leader {
        Some(leader) => Some(Fence { holder: leader.holder, epoch: leader.epoch }),
        None if dry_run => None,
        None => return Err(ApiError::NoLeader),
    };
    let mut roster = roster(
        &api.store.declared("Expert").await?,
        &api.store.declared("TaskQueue").await?,
        &api.store.expert_loads().await?,
    );
    let pending = crate::store::TaskFilter {
        namespace: namespace.clone(),
        states: vec![TaskState::Pending],
        ..Default::default()
    };
    let pending = api.store.count_tasks(&pending).await?;
    let (mut tally, mut after) = (Tally::default(), 0);
    loop {
        let page = api.store.unassigned(after, BATCH).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        let ours: Vec<Unassigned> =
            page.into_iter().filter(|t| namespace.as_ref().is_none_or(|n| t.queue.namespace == *n)).collect();
        let batch = roster.assign(&ours);
        if let Some(fence) = fence.as_ref().filter(|_| !dry_run && !batch.assignments.is_empty()) {
            api.store.assign(fence, &batch.assignments).await?;
        }
        tally.add(&ours, &batch);
    }
    Ok(Json(tally.report(pending, dry_run)))
}

fn roster(experts: &[DeclaredRow], queues: &[DeclaredRow], loads: &[ExpertLoad]) -> Roster {
    let experts = experts.iter().map(|row| expert_view(row, load_of(row, loads)));
    Roster::new(experts.collect(), queues.iter().map(queue_view).collect())
}

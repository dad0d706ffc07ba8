//! What people do to tasks: one, or all that match.

use std::time::Duration;

use axum::{Extension, Json, extract::State};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    check::KnownNames,
    filter::{Purged, is_open, narrowed},
    types::{CommandReply, CommandRequest, TaskVerb},
};
use crate::{
    http::{
        Api, ApiError, ErrorReply, MOST_REASON_CHARS, Person, bounded,
        extract::{JsonBody, Query},
        resources::InNamespace,
        types::LeaderView,
    },
    store::{DeclaredRow, TaskCommand, TaskFilter, TaskPage, rounds},
    tasks::{TaskId, assign::AssignReport},
};

/// Tasks that one transaction changes.
const BATCH: usize = 1_000;
/// Ids that an answer names.
const MOST_IDS: usize = 10_000;

/// Cancels, retries, resumes, reassigns or closes tasks: those of `ids`, those that match, or `all`. Those to which the command does
/// not apply are left as they are.
#[utoipa::path(post, path = "/api/v1/tasks/commands", params(InNamespace), request_body = CommandRequest, tag = "tasks",
    responses((status = 200, body = CommandReply), (status = 400, body = ErrorReply)))]
pub async fn command(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Query(query): Query<InNamespace>,
    JsonBody(request): JsonBody<CommandRequest>,
) -> Result<Json<CommandReply>, ApiError> {
    bounded("reason", &request.reason, MOST_REASON_CHARS)?;
    let (all, dry_run, reason) = (request.all, request.dry_run, request.reason.clone());
    let experts = if request.command == TaskVerb::Reassign { api.store.declared("Expert").await? } else { Vec::new() };
    let (filter, command) = read(request, query.namespace, &experts, api.store.now().await?)?;
    carry_out(&api, &person, filter, command, Extent { all, dry_run }, &reason).await.map(Json)
}

/// Deletes ended tasks, with their keys: those that match, or `all`.
#[utoipa::path(delete, path = "/api/v1/tasks", params(Purged), tag = "tasks",
    responses((status = 200, body = CommandReply), (status = 400, body = ErrorReply)))]
pub async fn purge(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Query(which): Query<Purged>,
) -> Result<Json<CommandReply>, ApiError> {
    let extent = Extent { all: which.all.unwrap_or(false), dry_run: which.dry_run.unwrap_or(false) };
    carry_out(&api, &person, which.filter(api.store.now().await?)?, TaskCommand::Purge, extent, "").await.map(Json)
}

/// How far a command goes.
#[derive(Clone, Copy)]
struct Extent {
    all: bool,
    dry_run: bool,
}

/// The filter and the command of a request.
fn read(
    request: CommandRequest,
    namespace: Option<String>,
    experts: &[DeclaredRow],
    now: Timestamp,
) -> Result<(TaskFilter, TaskCommand), ApiError> {
    let CommandRequest {
        command,
        ids,
        queue,
        states,
        domain,
        role,
        expert,
        unassigned,
        key,
        labels,
        since,
        until,
        to,
        ..
    } = request;
    if to.is_some() && command != TaskVerb::Reassign {
        return Err(ApiError::BadRequest("to: only `reassign` has it".to_owned()));
    }
    let command = match command {
        TaskVerb::Cancel => TaskCommand::Cancel,
        TaskVerb::Retry => TaskCommand::Retry,
        TaskVerb::Resume => TaskCommand::Resume,
        TaskVerb::Close => TaskCommand::Close,
        TaskVerb::Reassign => reassign(to, namespace.as_deref(), experts)?,
    };
    let filter = TaskFilter {
        ids,
        namespace,
        queue,
        states,
        domain,
        role,
        expert,
        unassigned,
        key,
        labels,
        since: since.map(|since| since.ago(now)),
        until: until.map(|until| until.ago(now)),
        created_before: None,
    };
    Ok((filter, command))
}

/// An expert of the same namespace as the tasks, and its model.
fn reassign(to: Option<String>, namespace: Option<&str>, experts: &[DeclaredRow]) -> Result<TaskCommand, ApiError> {
    let namespace = namespace.unwrap_or(crate::http::services::DEFAULT_NAMESPACE);
    let expert = to.ok_or_else(|| ApiError::BadRequest("to: say which expert gets them".to_owned()))?;
    let Some(row) = experts.iter().find(|row| row.namespace == namespace && row.name == expert) else {
        let there = KnownNames::of(namespace, &[], experts).experts.into_iter().collect::<Vec<_>>().join(", ");
        return Err(ApiError::BadRequest(format!(
            "to: there is no Expert {expert:?} in namespace {namespace}; there are: {there}"
        )));
    };
    if row.suspended {
        return Err(ApiError::BadRequest(format!("to: Expert {namespace}/{expert} is suspended")));
    }
    Ok(TaskCommand::Reassign { expert, model: super::counts::model_of(row) })
}

async fn carry_out(
    api: &Api,
    Person(by): &Person,
    filter: TaskFilter,
    command: TaskCommand,
    Extent { all, dry_run }: Extent,
    reason: &str,
) -> Result<CommandReply, ApiError> {
    if is_open(&filter) != all {
        return Err(ApiError::BadRequest(match all {
            true => "all cannot be combined with ids or filters: remove one of them".to_owned(),
            false => "no task is selected: set ids, a filter, or all".to_owned(),
        }));
    }
    // An expert is one of a namespace: tasks of others can't be its.
    let namespace = match (&command, &filter.namespace) {
        (TaskCommand::Reassign { .. }, None) => Some(crate::http::services::DEFAULT_NAMESPACE.to_owned()),
        (_, given) => given.clone(),
    };
    let Some(filter) = narrowed(TaskFilter { namespace, ..filter }, &command) else {
        return Ok(CommandReply { count: 0, ids: Vec::new() });
    };
    if dry_run {
        return Ok(CommandReply { count: api.store.count_tasks(&filter).await?, ids: Vec::new() });
    }
    let reason = if reason.trim().is_empty() { format!("by {by}") } else { format!("by {by}: {}", reason.trim()) };
    each(api, &filter, &command, &reason).await
}

/// In batches, from the newest down, so that each task is met once and no transaction is long.
async fn each(api: &Api, filter: &TaskFilter, command: &TaskCommand, reason: &str) -> Result<CommandReply, ApiError> {
    let batch = i64::try_from(BATCH).unwrap_or(i64::MAX);
    let (mut before, mut count, mut changed) = (None, 0, Vec::new());
    loop {
        let page = TaskPage { before, limit: batch, brief: true };
        let ids: Vec<TaskId> = api.store.tasks(filter, &page).await?.iter().map(|task| task.id).collect();
        let Some(last) = ids.last().copied() else { break };
        let full = ids.len() == BATCH;
        let these = TaskFilter { ids, ..filter.clone() };
        let done = api.store.command_tasks(&these, command, reason, batch).await?;
        count += i64::try_from(done.len()).unwrap_or(0);
        let room = MOST_IDS.saturating_sub(changed.len());
        changed.extend(done.into_iter().take(room));
        before = Some(last);
        if !full {
            break;
        }
    }
    Ok(CommandReply { count, ids: changed })
}

/// A leader that is well answers at once; 50,000 tasks take a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AssignQuery {
    /// Only tasks of this namespace.
    #[serde(deserialize_with = "crate::http::extract::given")]
    pub namespace: Option<String>,
    /// Only print what would be assigned.
    pub dry_run: bool,
}

/// Gives every pending task that has nobody to somebody, as the leader does all the time, and reports: how many were pending,
/// how many had nobody, who got how many, how many had somebody already, and which nobody can take and why.
#[utoipa::path(post, path = "/api/v1/tasks/assign", params(AssignQuery), tag = "tasks",
    responses((status = 200, body = AssignReport), (status = 503, description = "nobody leads", body = ErrorReply)))]
pub async fn assign(State(api): State<Api>, Query(round): Query<AssignQuery>) -> Result<Json<AssignReport>, ApiError> {
    let namespace = round.namespace.as_deref();
    if round.dry_run {
        return Ok(Json(rounds::assign_once(&*api.store, None, namespace).await?));
    }
    // What nobody will answer need not be waited for.
    api.store.leader().await?.and_then(LeaderView::of).ok_or(ApiError::NoLeader)?;
    let report = rounds::ask_for_round(&*api.store, namespace, PATIENCE).await?;
    report.map(Json).ok_or(ApiError::NoLeader)
}

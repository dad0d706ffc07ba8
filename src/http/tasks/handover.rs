//! Tasks that were handed over to somebody's own agent: it keeps them by heartbeats, and ends them.

use std::time::Duration;

use axum::{Extension, Json, extract::State};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    claim_types::ClaimToken,
    claims::release,
    read::find,
    types::{CompleteReply, CompleteRequest, HeartbeatReply, HeartbeatRequest},
};
use crate::{
    host::{
        SigningSecret,
        sign::{named_claim, verify_claim},
    },
    http::{
        Api, ApiError, AuthError, ErrorReply, ResourceHome,
        extract::{JsonBody, OptionalBody, Path, Query},
        resources::InNamespace,
    },
    store::{self, CallLife, DeclaredRow, Recorded, StoreError, seal},
    tasks::{
        Attempt, Finished, Task, TaskId, TaskState, Verdict,
        retry::{Ended, RetryPolicy},
        schema::{self, Mismatch},
    },
};

/// The key of an agent's Secret that requests to it are signed with.
const SECRET_KEY: &str = "signingSecret";
const LEASE: Duration = Duration::from_secs(90);

/// The longest error that an agent may give, in characters.
const MOST_ERROR_CHARS: usize = 4_096;

/// A claim that somebody has, as the guard found by its token.
#[derive(Clone, Copy, Debug)]
pub struct Proven {
    epoch: i64,
}

/// Keeps a task that was handed over, for another lease of its queue. Let in by the claim token that came with it, or as for any
/// change of tasks with the epoch in the body.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/heartbeat", params(("id" = i64, Path), InNamespace), tag = "tasks",
    request_body = Option<HeartbeatRequest>,
    responses((status = 200, body = HeartbeatReply), (status = 409, description = "not yours any more: stop", body = ErrorReply)))]
pub async fn heartbeat(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<InNamespace>,
    proven: Option<Extension<Proven>>,
    OptionalBody(body): OptionalBody<HeartbeatRequest>,
) -> Result<Json<HeartbeatReply>, ApiError> {
    let HeartbeatRequest { epoch, claim } = body.unwrap_or_default();
    let Claim { task, epoch, token } =
        proven_claim(&api, id, query.namespace.as_deref(), proven, epoch, claim.as_deref()).await?;
    let lease = lease_of(&api, &task).await?;
    api.store.hand_over(id, epoch, lease).await.map_err(|error| lost(&task, error))?;
    if let Some(ClaimToken { slot: Some(slot), .. }) = &token {
        match api.store.renew_slot(slot, lease, CallLife::default()).await {
            Err(StoreError::Fenced(_)) => {
                let why =
                    "its slot was taken away, because the backend hangs or is being mended, or its call took too long"
                        .to_owned();
                tracing::info!(task = id, why, "a claim ends with its slot");
                end(&api, &task, epoch, token.as_ref(), Ended::Unavailable { why, retry_after: None }).await?;
                return Err(lost(&task, StoreError::Fenced(String::new())));
            }
            renewed => renewed?,
        }
    }
    Ok(Json(HeartbeatReply { lease_seconds: seconds_of(lease) }))
}

/// Ends a task that was handed over, with `result` or with `error`. Let in as for heartbeats.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/complete", params(("id" = i64, Path), InNamespace), tag = "tasks",
    request_body = CompleteRequest,
    responses((status = 200, body = CompleteReply), (status = 400, body = ErrorReply),
        (status = 409, description = "not yours any more: nothing was changed", body = ErrorReply),
        (status = 422, description = "the database refuses the result: recorded as a failed attempt", body = ErrorReply)))]
pub async fn complete(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<InNamespace>,
    proven: Option<Extension<Proven>>,
    JsonBody(body): JsonBody<CompleteRequest>,
) -> Result<Json<CompleteReply>, ApiError> {
    let said = ended(&body)?;
    let CompleteRequest { epoch, claim, .. } = &body;
    let Claim { task, epoch, token } =
        proven_claim(&api, id, query.namespace.as_deref(), proven, *epoch, claim.as_deref()).await?;
    let said = if token.is_some() { matched(&task, said).await } else { said };
    end(&api, &task, epoch, token.as_ref(), said).await.map(|state| Json(CompleteReply { state }))
}

/// Records the end of an execution, and gives its slot back.
async fn end(
    api: &Api,
    task: &Task,
    epoch: i64,
    token: Option<&ClaimToken>,
    ended: Ended,
) -> Result<TaskState, ApiError> {
    let policy = policy(queue_of(api, task).await?.as_ref());
    let now = api.store.now().await?;
    let attempt = attempt(task, token, &ended, now);
    let finished = Finished::new((task.id, epoch), task, &policy, ended, attempt, now, rand::random());
    let state = state_after(&finished.completion.verdict);
    let recorded = store::record(&*api.store, &finished).await?;
    if let Some(slot) = token.and_then(|token| token.slot.as_ref()) {
        release(api, slot).await;
    }
    if !recorded.changed() {
        return Err(lost(task, StoreError::Fenced(String::new())));
    }
    match recorded {
        Recorded::AsItIs(_) => Ok(state),
        // Its claim is over all the same: the attempt is recorded.
        Recorded::Refused { why, .. } => Err(StoreError::Refused(why).into()),
    }
}

/// A result that does not match the task's schema is another attempt, as of our own workers. Where they write an answer under `json`,
/// clients may, too.
async fn matched(task: &Task, ended: Ended) -> Ended {
    let (Some(schema), Ended::Ok { result }) = (&task.payload.schema, &ended) else { return ended };
    let answer = result.get("json").filter(|_| task.assigned_model.is_some()).unwrap_or(result).clone();
    match schema::matches(schema, answer).await {
        Ok(_) => ended,
        Err(Mismatch::Schema(why)) => Ended::Permanent { why },
        Err(Mismatch::Answer(why)) => Ended::Retryable { why, retry_after: None },
    }
}

/// Whole seconds, for JSON.
pub(super) fn seconds_of(length: Duration) -> i64 {
    i64::try_from(length.as_secs()).unwrap_or(i64::MAX)
}

/// What the agent says.
fn ended(body: &CompleteRequest) -> Result<Ended, ApiError> {
    match (&body.result, &body.error) {
        (Some(result), None) if body.retryable.is_none() && body.unavailable.is_none() => {
            Ok(Ended::Ok { result: result.clone() })
        }
        (Some(_), None) => Err(ApiError::BadRequest("retryable and unavailable: only go with error".to_owned())),
        (None, Some(why)) if why.trim().is_empty() => {
            Err(ApiError::BadRequest("error: is empty: say what went wrong".to_owned()))
        }
        (None, Some(why)) if why.chars().count() > MOST_ERROR_CHARS => {
            Err(ApiError::BadRequest(format!("error: has more than {MOST_ERROR_CHARS} characters: give the end of it")))
        }
        (None, Some(why)) if body.unavailable == Some(true) => {
            Ok(Ended::Unavailable { why: why.clone(), retry_after: None })
        }
        (None, Some(why)) if body.retryable.unwrap_or(true) => {
            Ok(Ended::Retryable { why: why.clone(), retry_after: None })
        }
        (None, Some(why)) => Ok(Ended::Permanent { why: why.clone() }),
        _ => Err(ApiError::BadRequest("give result, or error: one of them".to_owned())),
    }
}

fn attempt(task: &Task, token: Option<&ClaimToken>, ended: &Ended, now: Timestamp) -> Attempt {
    Attempt {
        expert: task.expert.clone().unwrap_or_default(),
        backend: token.and_then(|token| token.backend.clone()),
        model: token.and_then(|token| token.model.clone()),
        holder: token.map_or_else(|| format!("task/{}", task.id), |token| token.worker.clone()),
        started_at: task.state_since,
        ended_at: now,
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class: ended.class(),
        error: ended.error(),
    }
}

fn state_after(verdict: &Verdict) -> TaskState {
    match verdict {
        Verdict::Completed { .. } => TaskState::Completed,
        Verdict::Retry { .. } | Verdict::Requeue { .. } => TaskState::Pending,
        Verdict::Failed { .. } => TaskState::Failed,
        Verdict::DeferredToHuman { .. } => TaskState::DeferredToHuman,
        Verdict::Cancelled { .. } => TaskState::Cancelled,
    }
}

/// A task whose claim somebody proved to have.
struct Claim {
    task: Task,
    epoch: i64,
    /// Of a client that claimed it.
    token: Option<ClaimToken>,
}

async fn proven_claim(
    api: &Api,
    id: TaskId,
    namespace: Option<&str>,
    proven: Option<Extension<Proven>>,
    said: Option<i64>,
    claim: Option<&str>,
) -> Result<Claim, ApiError> {
    let token = claim.map(ClaimToken::read).transpose()?;
    let said = said.or_else(|| token.as_ref().map(|token| token.epoch));
    let epoch = match proven {
        Some(Extension(Proven { epoch })) => epoch,
        None => said.ok_or_else(|| {
            ApiError::BadRequest("epoch: is required without a claim token (or send the claim)".to_owned())
        })?,
    };
    let task = find(api, id, namespace).await?;
    if said.is_some_and(|said| said != epoch) {
        return Err(ApiError::BadRequest(format!("epoch: the claim token is for epoch {epoch}")));
    }
    if task.state != TaskState::InProgress || task.epoch != epoch {
        return Err(lost(&task, StoreError::Fenced(String::new())));
    }
    Ok(Claim { task, epoch, token })
}

/// Whether a token is that of a claim on the task of the path, made with the secret of the task's expert. Whatever is wrong with it, the
/// answer is the same, and no API server is asked: tokens can be guessed, and such a request shall neither cost nor tell anything.
pub async fn prove(api: &Api, id: Option<&str>, token: &str) -> Result<Proven, ApiError> {
    let refused = || ApiError::Auth(AuthError::BadToken);
    let id: TaskId = id.and_then(|id| id.parse().ok()).ok_or_else(refused)?;
    let (_, epoch) = named_claim(token).filter(|(task, _)| *task == id).ok_or_else(refused)?;
    let task = api.store.task(id).await?.ok_or_else(refused)?;
    let expert = task.expert.as_deref().ok_or_else(refused)?;
    let rows = api.store.declared("Expert").await?;
    let row = rows.iter().find(|row| row.namespace == task.namespace && row.name == expert).ok_or_else(refused)?;
    let name = row.spec.pointer("/webhook/secretRef/name").and_then(Value::as_str).ok_or_else(refused)?;
    let secret = secret(api, &task.namespace, name).await?.ok_or_else(refused)?;
    let text = secret.get(SECRET_KEY).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(refused)?;
    let secret = SigningSecret::parse(text).map_err(|_| refused())?;
    if verify_claim(&secret, token) { Ok(Proven { epoch }) } else { Err(refused()) }
}

/// The data of an expert's Secret: from the folder, or as the leader sealed it in the database for workers, who sign with it.
pub(super) async fn secret(
    api: &Api,
    namespace: &str,
    name: &str,
) -> Result<Option<std::collections::BTreeMap<String, Vec<u8>>>, ApiError> {
    if api.home == ResourceHome::Folder {
        return Ok(api.platform.secret(namespace, name).await.ok());
    }
    let rows = api.store.declared(seal::KIND).await?;
    let row = rows.iter().find(|row| row.namespace == namespace && row.name == name);
    let opened = row.zip(api.sealing.as_ref()).map(|(row, key)| seal::open(key, row));
    Ok(opened.and_then(|opened| {
        opened.inspect_err(|error| tracing::warn!(namespace, name, %error, "can't open the Secret of a claim")).ok()
    }))
}

fn lost(task: &Task, error: StoreError) -> ApiError {
    match error {
        StoreError::Fenced(_) => ApiError::NotHere {
            message: format!("this claim of task {} is over", task.id),
            hint: "stop working on it: it was cancelled, its lease lapsed, or it ended; `ostler tasks show` tells"
                .to_owned(),
        },
        other => other.into(),
    }
}

async fn queue_of(api: &Api, task: &Task) -> Result<Option<DeclaredRow>, ApiError> {
    let rows = api.store.declared("TaskQueue").await?;
    Ok(rows.into_iter().find(|row| row.namespace == task.namespace && row.name == task.queue))
}

async fn lease_of(api: &Api, task: &Task) -> Result<Duration, ApiError> {
    let seconds = queue_of(api, task).await?.and_then(|row| row.spec.get("leaseSeconds").and_then(Value::as_u64));
    Ok(seconds.map_or(LEASE, Duration::from_secs))
}

/// `retry` of the queue.
fn policy(queue: Option<&DeclaredRow>) -> RetryPolicy {
    let read = |field: &str| queue.and_then(|row| row.spec.get("retry")?.get(field)?.as_u64());
    let RetryPolicy { max_attempts, backoff, max_backoff } = RetryPolicy::default();
    RetryPolicy {
        max_attempts: read("maxAttempts").and_then(|n| i32::try_from(n).ok()).unwrap_or(max_attempts),
        backoff: read("backoffSeconds").map_or(backoff, Duration::from_secs),
        max_backoff: read("maxBackoffSeconds").map_or(max_backoff, Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_agent_says_a_result_or_an_error() {
        let said =
            |body: Value| ended(&serde_json::from_value(body).unwrap()).map(|e| e.class()).map_err(|e| e.to_string());
        use crate::tasks::AttemptClass::{Ok as Done, Permanent, Retryable};
        assert_eq!(said(json!({"result": {"text": "a"}})), Ok(Done));
        assert_eq!(said(json!({"error": "no"})), Ok(Retryable));
        assert_eq!(said(json!({"error": "no", "retryable": true})), Ok(Retryable));
        assert_eq!(said(json!({"error": "no", "retryable": false})), Ok(Permanent));
        for (bad, word) in [
            (json!({}), "give result"),
            (json!({"result": 1, "error": "a"}), "give result"),
            (json!({"error": " "}), "is empty"),
            (json!({"result": 1, "retryable": false}), "retryable"),
        ] {
            assert!(said(bad.clone()).is_err_and(|e| e.contains(word)), "{bad}");
        }
    }
}

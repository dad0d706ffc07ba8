//! The agent's paths.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep_until};

use super::{
    admit::{UnverifiedRequest, admit, admit_webhook, on_disk, watch},
    app::App,
    containers, operate,
    recover::{RecoverReply, recover},
};
use crate::{
    agent::{callers, config::ManagerSpec, gate::Refused, service::log},
    host::{
        AgentRefusal, AgentReport, CareRequest, LogPart, LogRequest, MAX_WAIT_SECONDS, MOST_LOG_BYTES,
        OperationRequest, OperationStatus,
    },
};

pub(super) type AppState = State<Arc<App>>;

/// Where a controller says that it looks after services.
pub const CARE: &str = "/v1/care";
/// The longest care that a controller may ask for: one that is gone must not keep the agent from healing.
const LONGEST_CARE_SECONDS: u32 = 3600;

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/report", get(report))
        .route("/v1/operations", post(operate))
        .route("/v1/operations/{id}", get(operation))
        .route(CARE, post(care))
        .route("/v1/logs", post(logs))
        .route("/v1/containers", post(containers::list))
        .route("/v1/containers/logs", post(containers::logs))
        .route("/v1/containers/exec", post(containers::exec))
        .route("/v1/containers/operations", post(containers::operate))
        .route("/v1/containers/operations/{id}", get(containers::operation))
        .route("/recover", post(recover_signed))
        .route("/recover/{token}", post(recover_by_token))
        .route("/livez", get(livez))
        .route("/metrics", get(metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), watch))
        .with_state(app)
}

async fn operate(
    State(app): AppState,
    asked: UnverifiedRequest,
) -> Result<(StatusCode, Json<OperationStatus>), Refused> {
    let (headers, body) = admit(&app, asked).await?;
    let request: OperationRequest = json(&body)?;
    app.service(&request.service)?;
    operate::check_caller(&app, &headers, callers::may_omit_epoch(&request)).await?;
    let key = operate::key(&headers)?;
    let status = operate::accept(&app, request, key).await?;
    Ok((StatusCode::ACCEPTED, Json(status)))
}

async fn operation(
    State(app): AppState,
    id: Result<Path<String>, PathRejection>,
    asked: UnverifiedRequest,
) -> Result<Json<OperationStatus>, Refused> {
    let Path(id) = id.map_err(unreadable)?;
    admit(&app, asked).await?;
    app.book.get(&id).map(|entry| Json(entry.status)).ok_or_else(no_such_operation)
}

pub(super) fn no_such_operation() -> Refused {
    Refused::new(AgentRefusal::UnknownOperation, "no such operation; they are kept for a day after their end")
}

async fn care(State(app): AppState, asked: UnverifiedRequest) -> Result<StatusCode, Refused> {
    let (headers, body) = admit(&app, asked).await?;
    let request: CareRequest = json(&body)?;
    if !(1..=LONGEST_CARE_SECONDS).contains(&request.seconds) {
        return Err(Refused::new(AgentRefusal::BadRequest, format!("seconds: 1 to {LONGEST_CARE_SECONDS}")));
    }
    let services: Vec<_> = request.services.iter().map(|name| app.service(name)).collect::<Result<_, _>>()?;
    operate::check_caller(&app, &headers, false).await?;
    let until = Instant::now() + Duration::from_secs(request.seconds.into());
    for runs in services {
        runs.service.live().care_until = Some(until);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn logs(State(app): AppState, asked: UnverifiedRequest) -> Result<Json<LogPart>, Refused> {
    let (_, body) = admit(&app, asked).await?;
    let request: LogRequest = json(&body)?;
    let file = match &app.service(&request.service)?.service.spec.manager {
        ManagerSpec::Process(process) => process.log.file.clone(),
        ManagerSpec::Command(_) => {
            return Err(no_log(&request.service, "a command starts it, which decides where it logs"));
        }
        ManagerSpec::Container(_) => return Err(no_log(&request.service, "it runs in a container: see `docker logs`")),
    };
    on_disk(&app, move |_| {
        log::part(&file, request.after, u64::from(request.bytes.min(MOST_LOG_BYTES))).map(Json).map_err(|error| {
            Refused::new(AgentRefusal::BadRequest, format!("{} can't be read: {error}", file.display()))
        })
    })
    .await
}

fn no_log(service: &str, why: &str) -> Refused {
    Refused::new(AgentRefusal::BadRequest, format!("the agent has no log of {service}: {why}"))
}

async fn recover_signed(
    State(app): AppState,
    asked: UnverifiedRequest,
) -> Result<(StatusCode, Json<RecoverReply>), Refused> {
    recover_admitted(app, asked, None).await
}

async fn recover_by_token(
    State(app): AppState,
    token: Result<Path<String>, PathRejection>,
    asked: UnverifiedRequest,
) -> Result<(StatusCode, Json<RecoverReply>), Refused> {
    let Path(token) = token.map_err(unreadable)?;
    recover_admitted(app, asked, Some(token)).await
}

async fn recover_admitted(
    app: Arc<App>,
    asked: UnverifiedRequest,
    token: Option<String>,
) -> Result<(StatusCode, Json<RecoverReply>), Refused> {
    let (headers, body) = admit_webhook(&app, asked, token).await?;
    let key = operate::key(&headers)?;
    Ok((StatusCode::ACCEPTED, Json(recover(&app, &body, key).await?)))
}

async fn livez(State(app): AppState) -> Response {
    match app.loops.stuck().as_slice() {
        [] => "ok\n".into_response(),
        stuck => {
            let names: Vec<_> = stuck.iter().map(|s| s.name.as_str()).collect();
            let text = format!("nobody looks after {}: restart the agent\n", names.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn metrics(State(app): AppState) -> Result<Response, Refused> {
    let page = on_disk(&app, |app| Ok(app.metrics_page()));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], page.await?).into_response())
}

pub(super) fn unreadable(rejection: PathRejection) -> Refused {
    Refused::new(AgentRefusal::BadPath, rejection.body_text())
}

async fn no_such_path(uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(120).collect();
    Refused::new(AgentRefusal::BadPath, format!("there is no path {path:?}"))
}

async fn no_such_method() -> Refused {
    Refused::new(AgentRefusal::BadMethod, "this path is there, with another method")
}

pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|e| Refused::new(AgentRefusal::BadRequest, format!("the body can't be read: {e}")))
}

/// How many callers may wait at once. One more is answered at once, and knows by the revision that nothing has changed.
pub const WAITERS: usize = 16;

/// How often a waiting report is looked at again without being told of a change: a port's owner can change unheard.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// The revision that the caller knows.
    after: Option<u64>,
    #[serde(default = "default_wait")]
    wait_seconds: u32,
}

fn default_wait() -> u32 {
    20
}

pub async fn report(
    State(app): AppState,
    query: Result<Query<Wait>, QueryRejection>,
    asked: UnverifiedRequest,
) -> Result<Json<AgentReport>, Refused> {
    admit(&app, asked).await?;
    let Query(wait) = query.map_err(|e| Refused::new(AgentRefusal::BadRequest, e.body_text()))?;
    if wait.wait_seconds > MAX_WAIT_SECONDS {
        return Err(Refused::new(AgentRefusal::BadRequest, format!("waitSeconds: 0 to {MAX_WAIT_SECONDS}")));
    }
    let place = app.waiters.try_acquire();
    let deadline = match (wait.after, &place) {
        (Some(_), Ok(_)) => Instant::now() + Duration::from_secs(wait.wait_seconds.into()),
        _ => Instant::now(),
    };
    let mut changes = app.changes.subscribe();
    loop {
        changes.mark_unchanged();
        let waits = wait.after.is_some();
        let report = on_disk(&app, move |app| Ok(if waits { app.report_of_changes() } else { app.report() })).await?;
        let now = Instant::now();
        if report.revision != wait.after || now >= deadline || app.shutdown.is_cancelled() {
            return Ok(Json(report));
        }
        tokio::select! {
            // It ends with the agent only.
            _ = changes.changed() => {}
            () = sleep_until(deadline.min(now + LOOK)) => {}
            () = app.shutdown.cancelled() => {}
        }
    }
}

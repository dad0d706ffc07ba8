//! A person's holds on services of host agents.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    Api, ApiError, Person,
    extract::{OptionalBody, Path, Query},
    resources::InNamespace,
    types::{LeaderView, OperationView, ReasonRequest},
};
use crate::{
    api::{HostAgent, Kind, ObjectKey},
    host::{Action, Caller, HoldOwner, HttpHost, LogPart, LogRequest, MAX_REASON_CHARS, OperationRequest},
    platform::{self, HostAgentError, Secrets},
};

pub(super) const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ServicePath {
    /// Name of a HostAgent.
    agent: String,
    /// A service in that agent's file.
    service: String,
}

/// Stops a service and keeps it stopped, until somebody starts it.
#[utoipa::path(post, path = "/api/v1/services/{agent}/{service}/stop", params(ServicePath, InNamespace),
    request_body = Option<ReasonRequest>,
    responses((status = 202, body = OperationView), (status = 404, body = super::ErrorReply), (status = 502, body = super::ErrorReply)))]
pub(super) async fn stop(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Path(service): Path<ServicePath>,
    Query(query): Query<InNamespace>,
    OptionalBody(body): OptionalBody<ReasonRequest>,
) -> Result<(StatusCode, Json<OperationView>), ApiError> {
    operate(&api, &person, service, query, body, Action::Stop).await
}

/// Ends a person's hold on a service and starts it.
#[utoipa::path(post, path = "/api/v1/services/{agent}/{service}/start", params(ServicePath, InNamespace),
    request_body = Option<ReasonRequest>,
    responses((status = 202, body = OperationView), (status = 404, body = super::ErrorReply), (status = 502, body = super::ErrorReply)))]
pub(super) async fn start(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Path(service): Path<ServicePath>,
    Query(query): Query<InNamespace>,
    OptionalBody(body): OptionalBody<ReasonRequest>,
) -> Result<(StatusCode, Json<OperationView>), ApiError> {
    operate(&api, &person, service, query, body, Action::Start).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OneOperation {
    /// Name of a HostAgent.
    agent: String,
    /// As the stop or start answered it.
    id: String,
}

/// How far an operation is.
#[utoipa::path(get, path = "/api/v1/operations/{agent}/{id}", params(OneOperation, InNamespace),
    responses((status = 200, body = OperationView), (status = 404, body = super::ErrorReply)))]
pub(super) async fn operation(
    State(api): State<Api>,
    Path(OneOperation { agent, id }): Path<OneOperation>,
    Query(query): Query<InNamespace>,
) -> Result<Json<OperationView>, ApiError> {
    let host = client(&api, namespace(&query), &agent).await?;
    Ok(Json(OperationView::of(&agent, host.operation(&id).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// Of the HostAgent; `default` when absent.
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    namespace: Option<String>,
    /// Only what was written after this offset, which an earlier answer gave as `next`; without it, the end of the log.
    after: Option<u64>,
    /// At most so many bytes, 65,536 when absent.
    bytes: Option<u32>,
}

const USUAL_LOG_BYTES: u32 = 65_536;

/// A part of what a service wrote, in whole lines.
#[utoipa::path(get, path = "/api/v1/services/{agent}/{service}/log", params(ServicePath, LogQuery),
    responses(
        (status = 200, description = "Lines of the log", body = LogPart),
        (status = 404, description = "No such agent or service", body = super::ErrorReply),
        (status = 502, description = "The agent refused or did not answer", body = super::ErrorReply)))]
pub(super) async fn log(
    State(api): State<Api>,
    Path(ServicePath { agent, service }): Path<ServicePath>,
    Query(LogQuery { namespace, after, bytes }): Query<LogQuery>,
) -> Result<Json<LogPart>, ApiError> {
    let host = client(&api, namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE), &agent).await?;
    let request = LogRequest { service, after, bytes: bytes.unwrap_or(USUAL_LOG_BYTES) };
    Ok(Json(host.log(&request).await?))
}

async fn operate(
    api: &Api,
    Person(by): &Person,
    ServicePath { agent, service }: ServicePath,
    query: InNamespace,
    body: Option<ReasonRequest>,
    action: Action,
) -> Result<(StatusCode, Json<OperationView>), ApiError> {
    let body = body.unwrap_or_default();
    super::bounded("reason", &body.reason, super::MOST_REASON_CHARS)?;
    let namespace = namespace(&query);
    let host = client(api, namespace, &agent).await?;
    // Whoever acts does so under the leader's epoch, so that agents refuse those that were replaced.
    let leader = api.store.leader().await?.and_then(LeaderView::of).ok_or(ApiError::NoLeader)?;
    let caller = Caller { installation: api.store.installation().await?, epoch: leader.epoch };
    let reason = match body.reason.trim() {
        "" => format!("by {by}"),
        reason => format!("by {by}: {reason}"),
    };
    if reason.chars().count() > MAX_REASON_CHARS {
        let count = reason.chars().count();
        return Err(ApiError::BadRequest(format!(
            "reason: with the name of who gives it, it has {count} characters, and {MAX_REASON_CHARS} at most are kept: shorten it"
        )));
    }
    let request = OperationRequest::new(&service, action, &reason).owned_by(HoldOwner::Person);
    let operation = host.operate(&request, &Uuid::now_v7().to_string(), caller).await?;
    let about = ObjectKey::new(Kind::HostAgent, namespace, &agent);
    let asked = if action == Action::Stop { "StopRequested" } else { "StartRequested" };
    api.note(about, asked, format!("{service}, {reason}")).await;
    Ok((StatusCode::ACCEPTED, Json(OperationView::of(&agent, operation))))
}

fn namespace(query: &InNamespace) -> &str {
    query.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
}

async fn client(api: &Api, namespace: &str, name: &str) -> Result<HttpHost, ApiError> {
    let missing = || ApiError::NotFound(format!("HostAgent {namespace}/{name} does not exist"));
    let object = api
        .platform
        .list(Kind::HostAgent.as_str())
        .await?
        .into_iter()
        .find(|o| o.metadata.name.as_deref() == Some(name) && o.metadata.namespace.as_deref() == Some(namespace))
        .ok_or_else(missing)?;
    let agent: HostAgent = object.try_parse().map_err(|e| ApiError::Broken(format!("HostAgent {name}: {e}")))?;
    let secrets = Secrets::new(Arc::clone(&api.platform));
    match platform::host_agent(&secrets, &api.http, (namespace, name), &agent.spec).await {
        Ok(access) => Ok(access.host),
        Err(HostAgentError::Host(error)) => Err(ApiError::Agent(error)),
        Err(error) => Err(ApiError::NotHere {
            message: error.to_string(),
            hint: format!("`ostler get ha {name} -o yaml` shows what it refers to"),
        }),
    }
}

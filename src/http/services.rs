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
    api::HostAgent,
    host::{Action, Caller, HoldOwner, HostApi, HttpHost, OperationRequest},
    platform::{self, HostAgentError, Secrets},
    store::ResourceKey,
};

pub(super) const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Service {
    /// Name of a HostAgent.
    agent: String,
    /// A service in that agent's file.
    service: String,
}

/// Stops a service and keeps it stopped, until somebody starts it.
#[utoipa::path(post, path = "/api/v1/services/{agent}/{service}/stop", params(Service, InNamespace),
    request_body = Option<ReasonRequest>,
    responses((status = 202, body = OperationView), (status = 404, body = super::ErrorReply), (status = 502, body = super::ErrorReply)))]
pub(super) async fn stop(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Path(service): Path<Service>,
    Query(query): Query<InNamespace>,
    OptionalBody(body): OptionalBody<ReasonRequest>,
) -> Result<(StatusCode, Json<OperationView>), ApiError> {
    operate(&api, &person, service, query, body, Action::Stop).await
}

/// Ends a person's hold on a service and starts it.
#[utoipa::path(post, path = "/api/v1/services/{agent}/{service}/start", params(Service, InNamespace),
    request_body = Option<ReasonRequest>,
    responses((status = 202, body = OperationView), (status = 404, body = super::ErrorReply), (status = 502, body = super::ErrorReply)))]
pub(super) async fn start(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Path(service): Path<Service>,
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

async fn operate(
    api: &Api,
    Person(by): &Person,
    Service { agent, service }: Service,
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
    let request = OperationRequest::new(&service, action, &reason).owned_by(HoldOwner::Person);
    let operation = host.operate(&request, &Uuid::now_v7().to_string(), caller).await?;
    let about = ResourceKey { kind: "HostAgent".to_owned(), namespace: namespace.to_owned(), name: agent.clone() };
    let asked = if action == Action::Stop { "StopRequested" } else { "StartRequested" };
    api.note(about, asked, format!("{service}, {reason}")).await;
    Ok((StatusCode::ACCEPTED, Json(OperationView::of(&agent, operation))))
}

fn namespace(query: &InNamespace) -> &str {
    query.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
}

async fn client(api: &Api, namespace: &str, name: &str) -> Result<HttpHost, ApiError> {
    let missing = || ApiError::NotFound(format!("HostAgent {namespace}/{name} is not there"));
    let object = api
        .platform
        .list("HostAgent")
        .await?
        .into_iter()
        .find(|o| o.metadata.name.as_deref() == Some(name) && o.metadata.namespace.as_deref() == Some(namespace))
        .ok_or_else(missing)?;
    let agent: HostAgent = object.try_parse().map_err(|e| ApiError::Broken(format!("HostAgent {name}: {e}")))?;
    let secrets = Secrets::new(Arc::clone(&api.platform));
    match platform::host_agent(&secrets, &api.http, namespace, &agent.spec).await {
        Ok(access) => Ok(access.host),
        Err(HostAgentError::Host(error)) => Err(ApiError::Agent(error)),
        Err(error) => Err(ApiError::NotHere {
            message: error.to_string(),
            hint: format!("`ostler get ha {name} -o yaml` shows what it refers to"),
        }),
    }
}

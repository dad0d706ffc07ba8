//! Paths of the containers: who may ask is settled here, what is permitted by [`crate::agent::docker`].

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};

use super::{
    admit::{UnverifiedRequest, admit, on_disk},
    app::App,
    operate,
    routes::{AppState, json, no_such_operation, unreadable},
};
use crate::{
    agent::{docker::Containers, gate::Refused},
    host::{
        AgentRefusal, ContainerExecResult, ContainerList, ContainerLogs, ContainerOperation, ContainerOperationRequest,
    },
};

impl App {
    /// The agent's Docker side, if its file has one.
    pub fn containers(&self) -> Result<&Arc<Containers>, Refused> {
        self.docker.as_ref().ok_or_else(|| {
            Refused::new(
                AgentRefusal::ContainerNotAllowed,
                "the agent's file permits no containers: give it spec.docker with what it allows",
            )
        })
    }
}

pub async fn list(State(app): AppState, asked: UnverifiedRequest) -> Result<Json<ContainerList>, Refused> {
    let (_, body) = admit(&app, asked).await?;
    app.containers()?.list(&json(&body)?).map(Json)
}

pub async fn logs(State(app): AppState, asked: UnverifiedRequest) -> Result<Json<ContainerLogs>, Refused> {
    let (_, body) = admit(&app, asked).await?;
    app.containers()?.logs(&json(&body)?).await.map(Json)
}

pub async fn exec(State(app): AppState, asked: UnverifiedRequest) -> Result<Json<ContainerExecResult>, Refused> {
    let (headers, body) = admit(&app, asked).await?;
    let request = json(&body)?;
    let containers = app.containers()?;
    operate::check_caller(&app, &headers, false).await?;
    containers.exec(&request).await.map(Json)
}

pub async fn operate(
    State(app): AppState,
    asked: UnverifiedRequest,
) -> Result<(StatusCode, Json<ContainerOperation>), Refused> {
    let (headers, body) = admit(&app, asked).await?;
    let request: ContainerOperationRequest = json(&body)?;
    app.containers()?;
    operate::check_reason(&request.reason)?;
    operate::check_caller(&app, &headers, false).await?;
    let key = operate::key(&headers)?;
    let status = on_disk(&app, move |app| app.containers()?.accept(request, key)).await?;
    Ok((StatusCode::ACCEPTED, Json(status)))
}

pub async fn operation(
    State(app): AppState,
    id: Result<Path<String>, PathRejection>,
    asked: UnverifiedRequest,
) -> Result<Json<ContainerOperation>, Refused> {
    let Path(id) = id.map_err(unreadable)?;
    admit(&app, asked).await?;
    app.containers()?.operation(&id).map(Json).ok_or_else(no_such_operation)
}

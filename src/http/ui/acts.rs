//! What is done to resources and to the whole installation, by the same handlers as the API's.

use axum::{Extension, extract::State, response::Response};

use super::visit::{UiVisit, see_other};
use crate::http::{
    AcknowledgeRequest, Api, ApiError, PauseRequest, Person, causes, controls,
    extract::{JsonBody, OptionalBody, Path, Query},
    resources::{InNamespace, Named},
};

/// `reconcile`, `suspend`, `resume` or `run`, as the path says.
pub async fn on_resource(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Extension(visit): Extension<UiVisit>,
) -> Response {
    let [kind, namespace, name] = ["kind", "namespace", "name"].map(|part| visit.param(part).to_owned());
    let back = [kind.clone(), namespace.clone(), name.clone()];
    let verb = visit.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let (state, person, named) = (State(api), Extension(person), Path(Named { kind, namespace, name }));
    let done = match verb.as_str() {
        "reconcile" => controls::reconcile(state, person, named).await.map(drop),
        "suspend" => controls::suspend(state, person, named).await.map(drop),
        "resume" => controls::resume(state, person, named).await.map(drop),
        "run" => controls::run(state, person, named).await.map(drop),
        other => Err(ApiError::NotFound(format!("there is no {other:?}"))),
    };
    let [kind, namespace, name] = &back;
    answer(&visit, done, &[kind, namespace, name], &verb)
}

pub async fn pause(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Extension(visit): Extension<UiVisit>,
) -> Response {
    let for_seconds = match visit.field("seconds").filter(|text| !text.is_empty()).map(str::parse) {
        Some(Ok(seconds)) => Some(seconds),
        None => None,
        Some(Err(_)) => return visit.answer(Err(ApiError::BadRequest("seconds: is no number".to_owned()))),
    };
    let body = OptionalBody(Some(PauseRequest { for_seconds }));
    let done = controls::pause(State(api), Extension(person), body).await.map(drop);
    answer(&visit, done, &[], "pause")
}

/// Takes a cause into the person's hands, for as long as the API does without being told.
pub async fn acknowledge(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Extension(visit): Extension<UiVisit>,
) -> Response {
    let cause = visit.field("cause").unwrap_or_default().to_owned();
    let body = JsonBody(AcknowledgeRequest { cause, for_seconds: None });
    let query = Query(InNamespace { namespace: visit.namespace.clone() });
    let done = causes::acknowledge(State(api), Extension(person), query, body).await.map(drop);
    answer(&visit, done, &[], "acknowledge")
}

pub async fn unpause(
    State(api): State<Api>,
    Extension(person): Extension<Person>,
    Extension(visit): Extension<UiVisit>,
) -> Response {
    let done = controls::unpause(State(api), Extension(person)).await.map(drop);
    answer(&visit, done, &[], "unpause")
}

fn answer(visit: &UiVisit, done: Result<(), ApiError>, page: &[&str], said: &str) -> Response {
    match done {
        Ok(()) => see_other(&visit.link(page, &[("done", said)])),
        Err(error) => visit.answer(Err(error)),
    }
}

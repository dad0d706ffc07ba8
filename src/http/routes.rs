//! Every route with what it needs: one table, so that none is forgotten by the authorization or by the description.

use std::{collections::HashMap, io};

use axum::{
    Extension, Router,
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderMap, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::trace::TraceLayer;

use super::{
    Api, ApiError, AuthError,
    auth::Rule,
    calls, causes, controls, events,
    extract::{BODIES_BYTES, Bodies, BodyLimit, USUAL_BODY},
    health, openapi, resources, services, status, tasks, ui,
};
use crate::{
    host::sign::named_claim,
    listener::{self, Limits, Tls},
};

/// Ten thousand tasks of some kilobytes.
pub(super) const MAX_TASKS_BYTES: usize = BODIES_BYTES;
/// The answer of somebody's agent, or the ids of a command.
const MAX_TASK_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn table() -> Vec<(&'static str, Rule, MethodRouter<Api>)> {
    use Rule::{OfAgent, OfAll, OfBackends, OfCalls, OfPath, Open};
    let mut table = vec![
        ("/livez", Open, get(health::livez)),
        ("/readyz", Open, get(health::readyz)),
        ("/metrics", Open, get(health::metrics)),
        ("/api/v1/openapi.json", Open, get(openapi::openapi)),
        ("/api/v1/status", OfBackends("list"), get(status::status)),
        ("/api/v1/events", OfBackends("list"), get(events::events)),
        ("/api/v1/problems", OfAll("list", "problems"), get(events::problems)),
        ("/api/v1/causes", OfBackends("list"), get(causes::list)),
        ("/api/v1/causes/acknowledge", OfBackends("patch"), post(causes::acknowledge)),
        ("/api/v1/report", OfBackends("list"), get(causes::report)),
        ("/api/v1/pause", OfAll("create", "pauses"), post(controls::pause)),
        ("/api/v1/pause", OfAll("delete", "pauses"), delete(controls::unpause)),
        ("/api/v1/down", OfAll("delete", "installations"), post(controls::down)),
        ("/api/v1/links", OfBackends("list"), post(ui::sign::create_link)),
        ("/api/v1/services/{agent}/{service}/stop", OfAgent("update", Some("services")), post(services::stop)),
        ("/api/v1/services/{agent}/{service}/start", OfAgent("update", Some("services")), post(services::start)),
        ("/api/v1/services/{agent}/{service}/log", OfAgent("get", Some("log")), get(services::log)),
        ("/api/v1/operations/{agent}/{id}", OfAgent("get", None), get(services::operation)),
        ("/api/v1/calls", OfCalls("list"), get(calls::list)),
        ("/api/v1/calls/{id}/cancel", OfCalls("update"), post(calls::cancel)),
        ("/api/v1/{kind}", OfPath("list"), get(resources::list)),
        ("/api/v1/{kind}/{namespace}/{name}", OfPath("get"), get(resources::get)),
        ("/api/v1/{kind}/{namespace}/{name}/reconcile", OfPath("patch"), post(controls::reconcile)),
        ("/api/v1/{kind}/{namespace}/{name}/run", OfPath("patch"), post(controls::run)),
        ("/api/v1/{kind}/{namespace}/{name}/test", OfPath("patch"), post(causes::test)),
        ("/api/v1/{kind}/{namespace}/{name}/suspend", OfPath("patch"), post(controls::suspend)),
        ("/api/v1/{kind}/{namespace}/{name}/resume", OfPath("patch"), post(controls::resume)),
    ];
    table.extend(of_tasks());
    table
}

fn of_tasks() -> Vec<(&'static str, Rule, MethodRouter<Api>)> {
    use Rule::{OfClaim, OfNewTasks, OfTasks};
    let up_to = |bytes| Extension(BodyLimit(bytes));
    vec![
        ("/api/v1/tasks", OfTasks("list"), get(tasks::read::list)),
        ("/api/v1/tasks", OfNewTasks("create"), post(tasks::insert::insert).layer(up_to(MAX_TASKS_BYTES))),
        ("/api/v1/tasks", OfTasks("delete"), delete(tasks::command::purge)),
        ("/api/v1/tasks/results", OfTasks("list"), get(tasks::read::results)),
        ("/api/v1/tasks/events", OfTasks("watch"), get(tasks::events::events)),
        ("/api/v1/tasks/commands", OfTasks("update"), post(tasks::command::command).layer(up_to(MAX_TASK_BYTES))),
        ("/api/v1/tasks/assign", OfTasks("update"), post(tasks::command::assign)),
        ("/api/v1/tasks/queues", OfTasks("list"), get(tasks::counts::queues)),
        ("/api/v1/tasks/experts", OfTasks("list"), get(tasks::counts::experts)),
        ("/api/v1/tasks/workers", OfTasks("list"), get(tasks::counts::workers)),
        ("/api/v1/tasks/{id}", OfTasks("get"), get(tasks::read::get)),
        ("/api/v1/tasks/{id}/explain", OfTasks("get"), get(tasks::read::explain)),
        ("/api/v1/tasks/{id}/heartbeat", OfClaim, post(tasks::handover::heartbeat)),
        ("/api/v1/claims", OfNewTasks("update"), post(tasks::claims::claim)),
        ("/api/v1/tasks/{id}/complete", OfClaim, post(tasks::handover::complete).layer(up_to(MAX_TASK_BYTES))),
    ]
}

/// Serves the API until `shutdown`, then finishes what is open.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) -> io::Result<()> {
    serve_by(listener, None, api, shutdown).await
}

/// The same, by TLS where there is a certificate.
pub async fn serve_by(
    listener: TcpListener,
    tls: Option<Tls>,
    api: Api,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = router(api, shutdown.clone());
    listener::serve(listener, tls, router, Limits::of_process(), shutdown).await
}

/// The whole API.
pub(super) fn router(api: Api, closing: CancellationToken) -> Router {
    let door = ui::UiDoor::new(&api);
    let mut router = ui::router(&api, &door);
    for (path, rule, handler) in table() {
        let guarded = handler.route_layer(middleware::from_fn_with_state((api.clone(), rule), guard));
        router = router.route(path, guarded);
    }
    router
        .fallback(|request: Request| async move {
            ApiError::NotFound(format!("there is no {} {}", request.method(), request.uri().path()))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            ApiError::MethodNotAllowed(format!("there is no {} {}", request.method(), request.uri().path()))
        })
        .layer(Extension(door))
        .layer(Extension(tasks::Closing(closing)))
        .layer(Extension(health::StoreCheck::default()))
        .layer(Extension(USUAL_BODY))
        .layer(Extension(Bodies::default()))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .with_state(api)
}

/// The query is left out: it is long, and nobody's business.
fn span(request: &Request) -> tracing::Span {
    tracing::info_span!("request", method = %request.method(), path = request.uri().path())
}

/// Lets through who may, and tells the handler who it is.
async fn guard(
    State((api, rule)): State<(Api, Rule)>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = match path {
        Ok(path) => path,
        Err(error) => return ApiError::BadRequest(format!("path: {}", error.body_text())).into_response(),
    };
    let path: HashMap<_, _> = path.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let namespace = query_namespace(request.uri().query().unwrap_or_default());
    // A claim is proven here or nowhere: no API server is asked about a token that anybody can make up.
    let claim = bearer(request.headers()).filter(|token| named_claim(token).is_some()).map(str::to_owned);
    if let Some(token) = claim.filter(|_| rule != Rule::Open) {
        let id = path.get("id").filter(|_| rule == Rule::OfClaim);
        match tasks::prove(&api, id.map(String::as_str), &token).await {
            Ok(proven) => request.extensions_mut().insert(proven),
            Err(error) => return error.into_response(),
        };
    } else if let Some(access) = rule.access(&path, namespace.as_deref()) {
        let person = match bearer(request.headers()) {
            Some(token) => api.authorizer.authorize(token, &access).await,
            None => Err(AuthError::NoToken),
        };
        match person {
            Ok(person) => request.extensions_mut().insert(person),
            Err(error) => return ApiError::Auth(error).into_response(),
        };
    }
    next.run(request).await
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Of any query, whatever else it says.
#[derive(serde::Deserialize)]
struct Namespace {
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    namespace: Option<String>,
}

/// The namespace that the handler will read from the same query.
pub(super) fn query_namespace(query: &str) -> Option<String> {
    let uri = format!("/?{query}").parse().ok()?;
    axum::extract::Query::<Namespace>::try_from_uri(&uri).ok()?.0.namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every route, and every described one, as `METHOD path`.
    #[test]
    fn every_route_is_described_and_every_description_is_a_route() {
        let json = openapi::description();
        let mut described: Vec<&String> = json["paths"].as_object().unwrap().keys().collect();
        let mut routed: Vec<&str> = table().iter().map(|(path, ..)| *path).collect();
        described.sort();
        routed.sort_unstable();
        routed.dedup();
        assert_eq!(described, routed);
        let operations: usize = json["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|item| ["get", "post", "delete"].iter().filter(|m| item.get(**m).is_some()).count())
            .sum();
        assert_eq!(operations, table().len(), "each row of the table is one operation");
    }

    #[test]
    fn only_health_metrics_and_the_description_are_open() {
        let open: Vec<&str> =
            table().iter().filter(|(_, rule, _)| *rule == Rule::Open).map(|(path, ..)| *path).collect();
        assert_eq!(open, ["/livez", "/readyz", "/metrics", "/api/v1/openapi.json"]);
    }

    #[test]
    fn the_namespace_that_is_checked_is_the_one_that_is_read() {
        for (query, expected) in [
            ("", None),
            ("namespace=", None),
            ("namespace=team", Some("team")),
            ("limit=3&namespace=te%61m", Some("team")),
        ] {
            assert_eq!(query_namespace(query).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn a_token_is_read_from_a_bearer_header_only() {
        let request = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&request("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&request("bearer  abc ")), Some("abc"));
        for none in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer(&request(none)), None, "{none:?}");
        }
    }
}

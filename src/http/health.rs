//! Health and metrics page: no token needed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{FromRef, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Api, KINDS};
use crate::{
    listener::{self, Limits},
    platform::Platform,
    store::Store,
    telemetry::{Loops, Metrics},
};

const STORE_WITHIN: Duration = Duration::from_secs(3);

/// What health and metrics are made of.
#[derive(Clone)]
pub struct Health {
    pub store: Arc<dyn Store>,
    pub metrics: Metrics,
    pub loops: Loops,
    /// `None`: this process reads no resources.
    pub platform: Option<Arc<dyn Platform>>,
}

impl Health {
    /// A line for each namespace of which something can't be read. The others are served, so this is no reason to be not ready.
    fn unreadable(&self) -> String {
        let mut kinds: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for kind in KINDS {
            for namespace in self.platform.iter().flat_map(|platform| platform.unreadable(kind.kind).into_keys()) {
                kinds.entry(namespace).or_default().push(kind.plural);
            }
        }
        let line = |(namespace, kinds): (String, Vec<&str>)| match namespace.as_str() {
            "" => format!("can't read {}\n", kinds.join(", ")),
            namespace => format!("namespace {namespace}: can't read {}\n", kinds.join(", ")),
        };
        kinds.into_iter().map(line).collect()
    }
}

impl FromRef<Api> for Health {
    fn from_ref(api: &Api) -> Self {
        Self {
            store: Arc::clone(&api.store),
            metrics: api.metrics.clone(),
            loops: api.loops.clone(),
            platform: Some(Arc::clone(&api.platform)),
        }
    }
}

/// Serves health and metrics alone, for processes without an API, until `shutdown`.
pub async fn serve_health(listener: TcpListener, health: Health, shutdown: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    listener::serve(listener, None, router, Limits::of_process(), shutdown).await
}

/// 200 while every loop runs; else 503 with the names of those that are stuck.
#[utoipa::path(get, path = "/livez", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    let stuck = health.loops.stuck();
    if stuck.is_empty() {
        return (StatusCode::OK, format!("ok: {} loops run\n", health.loops.len()));
    }
    let lines = stuck.iter().map(|l| {
        if l.died {
            format!("loop {} died\n", l.name)
        } else {
            format!(
                "loop {} is silent for {} s, {} s are allowed\n",
                l.name,
                l.silent.as_secs(),
                l.may_be_silent.as_secs()
            )
        }
    });
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

/// 200 when the database answers, and takes what this process writes; followers are ready too. Else 503 with the reasons. Namespaces
/// that can't be read are named, and make nothing unready.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    match tokio::time::timeout(STORE_WITHIN, health.store.leader()).await {
        Ok(Ok(_)) => {
            let troubles: String =
                health.metrics.troubles.all().iter().filter(|one| one.vital).map(|one| format!("{one}\n")).collect();
            if troubles.is_empty() {
                (StatusCode::OK, format!("ok\n{}", health.unreadable()))
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, troubles)
            }
        }
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the database does not answer within {} s\n", STORE_WITHIN.as_secs()),
        ),
    }
}

/// What Prometheus reads.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.render(Timestamp::now()))
}

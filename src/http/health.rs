//! Health and metrics page: no token needed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{FromRef, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use jiff::Timestamp;
use tokio::{net::TcpListener, sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::Api;
use crate::{
    api::Kind,
    listener::{self, Limits},
    platform::Platform,
    store::Store,
    telemetry::{Loops, Metrics},
};

const STORE_WITHIN: Duration = Duration::from_secs(3);
/// How long an answer of the database holds for other probes.
const FRESH: Duration = Duration::from_secs(1);

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
        for kind in Kind::ALL {
            for namespace in self.platform.iter().flat_map(|platform| platform.unreadable(*kind).into_keys()) {
                kinds.entry(namespace).or_default().push(kind.plural());
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

/// The database's last answer, so that many probes ask it once a second.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreCheck(Arc<Mutex<Option<StoreAnswer>>>);

/// When the database was asked, and why it did not answer.
type StoreAnswer = (Instant, Result<(), String>);

impl StoreCheck {
    /// The last answer while it is fresh, else a new one. Who comes while the database is asked waits for that answer.
    async fn answer(&self, ask: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        let mut last = self.0.lock().await;
        match &*last {
            Some((at, answer)) if at.elapsed() < FRESH => answer.clone(),
            _ => {
                let answer = ask.await;
                *last = Some((Instant::now(), answer.clone()));
                answer
            }
        }
    }
}

/// Whether the database answers in time.
async fn ask(store: &dyn Store) -> Result<(), String> {
    match tokio::time::timeout(STORE_WITHIN, store.leader()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{error}\n")),
        Err(_) => Err(format!("the database does not answer within {} s\n", STORE_WITHIN.as_secs())),
    }
}

/// Serves health and metrics alone, for processes without an API, until `shutdown`.
pub async fn serve_health(listener: TcpListener, health: Health, shutdown: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .layer(Extension(StoreCheck::default()))
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

/// 200 when the database answers (it is asked once a second at most), and takes what this process writes; followers are ready too.
/// Else 503 with the reasons. Namespaces that can't be read are named, and make nothing unready.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn readyz(
    State(health): State<Health>,
    Extension(check): Extension<StoreCheck>,
) -> (StatusCode, String) {
    if let Err(why) = check.answer(ask(&*health.store)).await {
        return (StatusCode::SERVICE_UNAVAILABLE, why);
    }
    let troubles: String =
        health.metrics.troubles.all().iter().filter(|one| one.vital).map(|one| format!("{one}\n")).collect();
    if troubles.is_empty() {
        (StatusCode::OK, format!("ok\n{}", health.unreadable()))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, troubles)
    }
}

/// What Prometheus reads.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.render(Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_probes_ask_the_database_once_a_second() {
        let (check, asked) = (StoreCheck::default(), AtomicUsize::new(0));
        let probe = || {
            check.answer(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let count = asked.fetch_add(1, Ordering::Relaxed);
                if count == 0 { Ok(()) } else { Err("away".to_owned()) }
            })
        };
        let answers = futures::future::join_all((0..100).map(|_| probe())).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::sleep(FRESH).await;
        assert_eq!((probe().await, asked.load(Ordering::Relaxed)), (Err("away".to_owned()), 2));
    }
}

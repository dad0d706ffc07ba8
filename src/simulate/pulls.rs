//! Ollama's `/api/pull`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Fault;
use super::asked::Lenient;
use super::generate::Context;
use super::in_force::checked;
use super::ollama::digest;
use super::reply::{self, NDJSON};
use super::state::SimulatedState;

#[derive(Deserialize)]
pub(super) struct PullRequest {
    #[serde(default, alias = "name")]
    model: String,
    stream: Option<bool>,
}

const FAILED: &str = "pull model manifest: file does not exist";
const USUAL_TIME: Duration = Duration::from_millis(50);
const TOTAL: u64 = 1_000_000_000;
/// Between two lines of a pull that is stuck.
const REPEATS: Duration = Duration::from_millis(200);

pub(super) async fn pull(
    State(shared): State<Arc<SimulatedState>>,
    Extension(context): Extension<Context>,
    Lenient(request): Lenient<PullRequest>,
) -> Response {
    context.call.note(|record| record.model = Some(request.model.clone()));
    let fails = shared.has(|fault| matches!(fault, Fault::FailPull {}));
    let stuck = shared.has(|fault| matches!(fault, Fault::StuckPull {}));
    let slow = shared.fault(|fault| if let Fault::SlowPull { seconds } = fault { Some(*seconds) } else { None });
    let time = slow.map_or(USUAL_TIME, checked);
    if request.stream == Some(false) {
        tokio::time::sleep(time).await;
        if fails {
            return reply::json(500, &json!({"error": FAILED}));
        }
        shared.install(&request.model);
        return reply::json(200, &json!({"status": "success"}));
    }
    // A slow pull is steady: its lines come a second apart, where a hundred suffice.
    let parts = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).clamp(10, 100);
    let records = records(&request.model, parts, fails, stuck);
    let step = if stuck { REPEATS } else { time / parts };
    let lines = records.then(move |record| {
        let (shared, context, model) = (Arc::clone(&shared), context.clone(), request.model.clone());
        async move {
            if record.get("completed").is_some() {
                tokio::time::sleep(step).await;
            }
            if record["status"] == "success" {
                shared.install(&model);
            }
            if record["status"] == "success" || record.get("error").is_some() {
                context.call.finish();
            }
            Ok::<_, std::io::Error>(Bytes::from(format!("{record}\n")))
        }
    });
    reply::with_type(200, NDJSON, Body::from_stream(lines))
}

fn records(model: &str, parts: u32, fails: bool, stuck: bool) -> stream::BoxStream<'static, Value> {
    let status = |status: &str| json!({"status": status});
    let first = stream::iter([status("pulling manifest")]);
    if fails {
        return first.chain(stream::iter([json!({"error": FAILED})])).boxed();
    }
    let digest = digest(model);
    let completed = move |bytes: u64| {
        let status = format!("pulling {}", &digest[..12]);
        json!({"status": status, "digest": format!("sha256:{digest}"), "total": TOTAL, "completed": bytes})
    };
    if stuck {
        return first.chain(stream::repeat(completed(TOTAL / 100 * 99))).boxed();
    }
    let layers = stream::iter((1..=parts).map(move |part| completed(TOTAL * u64::from(part) / u64::from(parts))));
    let last = ["verifying sha256 digest", "writing manifest", "success"].map(status);
    first.chain(layers).chain(stream::iter(last)).boxed()
}

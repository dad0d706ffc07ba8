use std::time::Duration;

use reqwest::Method;

use super::{Endpoint, Engine, EngineKind, PathReply, ProbeVerdict, fold_paths, read_listing};
use crate::net::Broken;

/// A listing of thousands of models is below this; what is longer is no listing.
pub(super) const MAX_LISTING_BYTES: usize = 8 << 20;

pub(super) async fn probe_path(engine: EngineKind, at: &Endpoint, path: &str, timeout: Duration) -> PathReply {
    let asked = async {
        let reply = at.send(at.request(Method::GET, path), timeout).await?;
        let (status, headers) = (reply.status(), reply.headers().clone());
        let body = if status.is_success() { reply.whole(MAX_LISTING_BYTES).await? } else { reply.refusal().await };
        Ok::<_, Broken>(read_listing(engine, path, status, &headers, &body))
    };
    asked.await.unwrap_or_else(path_reply)
}

pub(super) async fn probe<E: Engine + ?Sized>(
    engine: &E,
    at: &Endpoint,
    paths: &[String],
    timeout: Duration,
) -> ProbeVerdict {
    let own: &[&str] = match engine.kind() {
        EngineKind::Ollama => &["/api/tags", "/v1/models"],
        EngineKind::Mlx => &["/v1/models", "/api/tags", "/health"],
        EngineKind::OpenAi => &["/v1/models"],
    };
    let paths: Vec<&str> = if paths.is_empty() { own.to_vec() } else { paths.iter().map(String::as_str).collect() };
    let mut replies = Vec::with_capacity(paths.len());
    for path in paths {
        let reply = engine.probe_path(at, path, timeout).await;
        let settled = reply.is_conclusive();
        replies.push(reply);
        if settled {
            break;
        }
    }
    fold_paths(&replies)
}

/// What a path that got no HTTP answer says of a server.
fn path_reply(broken: Broken) -> PathReply {
    match broken {
        Broken::Refused => PathReply::Refused,
        Broken::Reset => PathReply::Reset,
        Broken::Timeout => PathReply::Timeout,
        Broken::Unreachable(why) => PathReply::Unreachable(why),
        Broken::TooLong(_) => PathReply::BadBody,
        Broken::Tls(_) | Broken::NotHttp(_) | Broken::Invalid(_) => PathReply::Misconfigured(broken.to_string()),
    }
}

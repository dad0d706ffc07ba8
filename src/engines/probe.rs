use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use super::body::{MAX_LISTING_BYTES, beginning, of_refusal};
use super::transport::Broken;
use super::{Endpoint, Engine, EngineKind, PathReply, ProbeVerdict, fold_paths, read_listing};

pub(super) async fn probe_path(engine: EngineKind, at: &Endpoint, path: &str, timeout: Duration) -> PathReply {
    let deadline = Instant::now() + timeout;
    let asked = async {
        let response = at.request(Method::GET, path).send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match status.is_success() {
            true => beginning(response, MAX_LISTING_BYTES).await?,
            false => of_refusal(response, deadline - deadline.duration_since(Instant::now()) / 4).await,
        };
        Ok::<_, reqwest::Error>(read_listing(engine, path, status, &headers, &body))
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => match Broken::of(&error) {
            Broken::Refused => PathReply::Refused,
            Broken::Reset => PathReply::Reset,
            Broken::Timeout => PathReply::Timeout,
            Broken::Unreachable(why) => PathReply::Unreachable(why),
            Broken::Misconfigured(why) => PathReply::Misconfigured(why),
        },
        Err(_elapsed) => PathReply::Timeout,
    }
}

pub(super) async fn probe<E: Engine + ?Sized>(
    engine: &E,
    at: &Endpoint,
    paths: &[String],
    timeout: Duration,
) -> ProbeVerdict {
    let own = engine.kind().default_probe_paths();
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

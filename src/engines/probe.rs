use std::time::Duration;

use reqwest::{Method, Response};

use super::transport::Broken;
use super::{Endpoint, Engine, EngineKind, PathReply, ProbeVerdict, fold_paths, read_listing};

/// A listing of thousands of models is below this; what is longer is no listing.
const MAX_LISTING_BYTES: usize = 8 << 20;

pub(super) async fn probe_path(engine: EngineKind, at: &Endpoint, path: &str, timeout: Duration) -> PathReply {
    let asked = async {
        let response = at.request(Method::GET, path).send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_bounded(response).await?;
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

/// The body's beginning: a server that floods must not fill our memory. A cut body doesn't parse, and reads as bad.
pub(super) async fn read_bounded(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_LISTING_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == MAX_LISTING_BYTES {
            break;
        }
    }
    Ok(body)
}

//! Bodies read within bounds: a server that floods must fill neither memory nor time.

use std::time::Duration;

use reqwest::Response;
use tokio::time::{Instant, timeout_at};

/// A listing of thousands of models is below this; what is longer is no listing.
pub(super) const MAX_LISTING_BYTES: usize = 8 << 20;
/// Of a refusal only the first words matter.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
const MAX_REFUSAL_TIME: Duration = Duration::from_secs(5);

/// The body's beginning. A cut one doesn't parse, and reads as bad. The caller bounds the time.
pub(super) async fn beginning(mut response: Response, most: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(most - body.len())]);
        if body.len() == most {
            break;
        }
    }
    Ok(body)
}

/// The body of an answer that isn't a success, as far as it comes: its status counts without it.
pub(super) async fn of_refusal(mut response: Response, until: Instant) -> Vec<u8> {
    let until = until.min(Instant::now() + MAX_REFUSAL_TIME);
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout_at(until, response.chunk()).await {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL_BYTES - body.len())]);
        if body.len() == MAX_REFUSAL_BYTES {
            break;
        }
    }
    body
}

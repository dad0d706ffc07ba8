//! Reading a request's body, within what one and all bodies may take.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header},
};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::protocols::{Refusal, RefusalReason};

/// One body.
const MOST: usize = 32 << 20;

/// The body, with its part of what all bodies may take. That is taken as it comes, so that nobody holds room by saying much.
pub(super) async fn read(
    room: &Arc<Semaphore>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    if let Some(encoding) = encoding.filter(|encoding| !matches!(*encoding, "" | "identity")) {
        let why = format!("a body in encoding {encoding:?} is not read: send it as it is");
        return Err(Refusal::new(RefusalReason::Encoding, why));
    }
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|said| said > MOST) {
        return Err(too_large());
    }
    let mut taken = kib(room, 1)?;
    let mut bytes = Vec::with_capacity(said.unwrap_or(0).min(1 << 20));
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part =
            part.map_err(|error| Refusal::new(RefusalReason::Invalid, format!("the body did not come: {error}")))?;
        if bytes.len() + part.len() > MOST {
            return Err(too_large());
        }
        bytes.extend_from_slice(&part);
        let missing = (bytes.len() / 1024 + 1).saturating_sub(taken.num_permits());
        if missing > 0 {
            taken.merge(kib(room, missing)?);
        }
    }
    Ok((bytes.into(), taken))
}

fn kib(room: &Arc<Semaphore>, many: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let many = u32::try_from(many).unwrap_or(u32::MAX);
    Arc::clone(room).try_acquire_many_owned(many).map_err(|_| {
        let why = "the bodies of all waiting calls take as much memory as they may: ask again later";
        let retry_after = Some(std::time::Duration::from_secs(5));
        Refusal { retry_after, ..Refusal::new(RefusalReason::Unavailable, why) }
    })
}

fn too_large() -> Refusal {
    Refusal::new(RefusalReason::TooLarge, format!("a body has at most {} MiB", MOST >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn taken(room: usize, headers: &[(header::HeaderName, &str)], body: Vec<u8>) -> Result<usize, RefusalReason> {
        let room = Arc::new(Semaphore::new(room));
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let read = read(&room, &headers, Body::from(body)).await;
        read.map(|(_, taken)| taken.num_permits()).map_err(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn a_body_takes_its_part_of_the_room() {
        assert_eq!(taken(8, &[], vec![b'x'; 5_000]).await, Ok(5));
        assert_eq!(taken(4, &[], vec![b'x'; 5_000]).await, Err(RefusalReason::Unavailable));
        let large = MOST.to_string() + "0";
        assert_eq!(taken(8, &[(header::CONTENT_LENGTH, &large)], Vec::new()).await, Err(RefusalReason::TooLarge));
        assert_eq!(taken(1 << 20, &[], vec![b'x'; MOST + 1]).await, Err(RefusalReason::TooLarge));
        assert_eq!(taken(8, &[(header::CONTENT_ENCODING, "zstd")], Vec::new()).await, Err(RefusalReason::Encoding));
        assert_eq!(taken(8, &[(header::CONTENT_ENCODING, "identity")], Vec::new()).await, Ok(1));
    }
}

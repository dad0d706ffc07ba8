//! Reading a request's body, within what one and all bodies may take.

use std::{io, pin::Pin, sync::Arc};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header},
};
use futures::TryStreamExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::io::StreamReader;

use crate::protocols::{Refusal, RefusalReason};

/// One body, as it is when it is no longer compressed.
const MOST: usize = 32 << 20;
/// Of a decoder's memory, as a power of two: 8 MiB, which every decoder must have (RFC 8878).
const ZSTD_WINDOW: u32 = 23;

/// The body, with its part of what all bodies may take. That is taken as it comes, so that nobody holds room by saying much.
pub(super) async fn read(
    room: &Arc<Semaphore>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|said| said > MOST) {
        return Err(too_large());
    }
    let mut reader = decoder(headers, body)?;
    let mut taken = kib(room, 1)?;
    let mut bytes = Vec::with_capacity(said.unwrap_or(0).min(1 << 20));
    loop {
        bytes.reserve(16 << 10);
        let read = reader.read_buf(&mut bytes).await;
        let read =
            read.map_err(|error| Refusal::new(RefusalReason::Invalid, format!("the body did not come: {error}")))?;
        if read == 0 {
            return Ok((bytes.into(), taken));
        }
        if bytes.len() > MOST {
            return Err(too_large());
        }
        let missing = (bytes.len() / 1024 + 1).saturating_sub(taken.num_permits());
        if missing > 0 {
            taken.merge(kib(room, missing)?);
        }
    }
}

/// Reads a body as it was before it was compressed.
fn decoder(headers: &HeaderMap, body: Body) -> Result<Pin<Box<dyn AsyncRead + Send>>, Refusal> {
    let raw = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let encoding = headers.get(header::CONTENT_ENCODING).map_or("", |value| value.to_str().unwrap_or("?"));
    Ok(match encoding.to_ascii_lowercase().as_str() {
        "" | "identity" => Box::pin(raw),
        "gzip" | "x-gzip" => Box::pin(GzipDecoder::new(raw)),
        "zstd" => Box::pin(ZstdDecoder::with_params(raw, &[DParameter::window_log_max(ZSTD_WINDOW)])),
        other => {
            let why = format!("a body in encoding {other:?} is not read: send it as it is, or as gzip or zstd");
            return Err(Refusal::new(RefusalReason::Encoding, why));
        }
    })
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
        assert_eq!(taken(8, &[(header::CONTENT_ENCODING, "br")], Vec::new()).await, Err(RefusalReason::Encoding));
        assert_eq!(taken(8, &[(header::CONTENT_ENCODING, "identity")], Vec::new()).await, Ok(1));
    }

    #[tokio::test]
    async fn a_compressed_body_counts_as_what_it_says() {
        use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
        use tokio::io::AsyncWriteExt;

        for (name, size, expected) in [
            ("gzip", 5_000, Ok(5)),
            ("zstd", 5_000, Ok(5)),
            ("gzip", MOST + 1, Err(RefusalReason::TooLarge)),
            ("zstd", MOST + 1, Err(RefusalReason::TooLarge)),
        ] {
            let plain = vec![b'x'; size];
            let packed = if name == "gzip" {
                let mut encoder = GzipEncoder::new(Vec::new());
                encoder.write_all(&plain).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            } else {
                let mut encoder = ZstdEncoder::new(Vec::new());
                encoder.write_all(&plain).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            };
            let headers = [(header::CONTENT_ENCODING, name)];
            assert_eq!(taken(1 << 20, &headers, packed).await, expected, "{name} {size}");
            assert_eq!(taken(8, &headers, b"no such thing".to_vec()).await, Err(RefusalReason::Invalid), "{name}");
        }
    }
}

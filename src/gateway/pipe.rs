//! An answer's bytes on their way to whoever asked: the engine is read as fast as it writes, up to a bound.

use std::{io, sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures::stream;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::DropGuard;

/// Bytes of a call that its client has not read.
const MOST: usize = 4 << 20;

/// `None`: nothing follows.
type Piece = Option<io::Result<Bytes>>;

pub(super) struct PipeSender {
    sender: mpsc::UnboundedSender<Piece>,
    room: Arc<Semaphore>,
}

pub(super) struct PipeReceiver {
    receiver: mpsc::UnboundedReceiver<Piece>,
    room: Arc<Semaphore>,
}

pub(super) fn pipe() -> (PipeSender, PipeReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(MOST));
    (PipeSender { sender, room: Arc::clone(&room) }, PipeReceiver { receiver, room })
}

impl PipeSender {
    /// Whether the bytes are on their way; not when the client left, or read nothing for so long.
    pub async fn send(&self, bytes: Bytes, patience: Duration) -> bool {
        let needed = u32::try_from(bytes.len().min(MOST)).unwrap_or(u32::MAX);
        match timeout(patience, self.room.acquire_many(needed)).await {
            Ok(Ok(room)) => {
                room.forget();
                self.sender.send(Some(Ok(bytes))).is_ok()
            }
            _ => false,
        }
    }

    /// The client sees that the answer is not whole.
    pub fn break_off(&self) {
        // Whoever is gone need not be told.
        let _ = self.sender.send(Some(Err(io::Error::other("the engine broke its answer off"))));
    }

    /// The client sees an end, though the engine is still read.
    pub fn end(&self) {
        // Whoever is gone need not be told.
        let _ = self.sender.send(None);
    }
}

impl PipeReceiver {
    /// As an answer's body; dropping it drops `guard`.
    pub fn body(self, guard: DropGuard) -> Body {
        let Self { receiver, room } = self;
        Body::from_stream(stream::unfold((receiver, room, guard), |(mut receiver, room, guard)| async move {
            let next = receiver.recv().await.flatten()?;
            if let Ok(bytes) = &next {
                room.add_permits(bytes.len().min(MOST));
            }
            Some((next, (receiver, room, guard)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_stands_still_is_taken_for_gone_and_a_slow_one_is_not() {
        let (sender, receiver) = pipe();
        let gone = CancellationToken::new();
        let mut body = receiver.body(gone.clone().drop_guard()).into_data_stream();
        let patience = Duration::from_millis(20);
        let piece = || Bytes::from(vec![0; MOST / 2]);
        assert!(sender.send(piece(), patience).await && sender.send(piece(), patience).await);
        assert!(!sender.send(piece(), patience).await, "it is full");
        assert_eq!(body.next().await.expect("a piece").expect("bytes").len(), MOST / 2);
        assert!(sender.send(piece(), patience).await, "there is room again");
        sender.break_off();
        sender.end();
        let rest: Vec<_> = body.by_ref().map(|piece| piece.is_ok()).collect().await;
        assert_eq!(rest, [true, true, false]);
        drop(body);
        assert!(gone.is_cancelled(), "whoever reads no more has left");
    }
}

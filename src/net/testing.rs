//! Servers of tests that answer with whatever they are told.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// The port of a server that answers each request with this head and this piece; `endless`: the piece again and again, for as long
/// as anybody reads.
pub async fn answering(head: impl Into<String>, piece: &'static [u8], endless: bool) -> u16 {
    let (head, listener) = (head.into(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(piece).await.is_ok() && endless {}
            });
        }
    });
    port
}

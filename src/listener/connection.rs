//! One connection, from its first byte to its end.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{Request, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    Limits, Tls,
    body::{AnswerBody, TimedBody},
    slots::{ConnectionActivity, ConnectionSlot},
};

/// The largest head of a request; hyper answers 431 to more.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// What a client still sends when it was answered already is read for so long and so far: it would not see the answer otherwise.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: u64 = 64 * 1024 * 1024;

const FULL: &str = r#"{"error":"as many requests are open as this server takes","reason":"TooManyConnections","hint":"close connections that are not needed, and ask again"}"#;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub struct Connection {
    pub slot: ConnectionSlot,
    pub peer: SocketAddr,
    pub limits: Limits,
    pub router: Router,
}

impl Connection {
    pub async fn serve(self, stream: TcpStream, tls: Option<Tls>, shutdown: CancellationToken) {
        let evicted = self.slot.evicted.clone();
        let served = async {
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(tls) => match timeout(self.limits.head, tls.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => Box::new(stream),
                    Ok(Err(error)) => return tracing::debug!(peer = %self.peer, %error, "no TLS handshake"),
                    Err(_) => return tracing::debug!(peer = %self.peer, "no TLS handshake in time"),
                },
            };
            self.requests(stream, &shutdown).await;
        };
        evicted.run_until_cancelled(served).await;
    }

    async fn requests(&self, stream: Box<dyn Stream>, shutdown: &CancellationToken) {
        let activity = &self.slot.activity;
        let stream = TokioIo::new(Watched { stream, activity: Arc::clone(activity) });
        let service = service_fn(|request| Box::pin(self.answer(request)));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Ours tells a slow head from an idle connection.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(stream, service);
        let mut ending = false;
        loop {
            let late = async {
                match activity.deadline(&self.limits) {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => match ended {
                    Ok(()) => break,
                    // The peer went away, or does not speak HTTP.
                    Err(error) => return tracing::debug!(peer = %self.peer, %error, "connection ended"),
                },
                () = activity.changed.notified() => {}
                () = shutdown.cancelled(), if !ending => {
                    ending = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                () = late => {
                    if activity.deadline(&self.limits).is_some_and(|deadline| deadline <= Instant::now()) {
                        return tracing::debug!(peer = %self.peer, "connection closed: its time is over");
                    }
                }
            }
        }
        let stream = connection.into_parts().io.into_inner();
        if activity.has_left_unread() {
            linger(stream).await;
        } else {
            let mut stream = stream;
            // Whoever is gone needs no farewell.
            let _ = timeout(LINGER, stream.shutdown()).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let in_flight = self.slot.activity.begin();
        let mut request =
            request.map(|body| Body::new(TimedBody::new(body, self.limits, Arc::clone(&self.slot.activity))));
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let response = self.router.clone().oneshot(request).await?;
        Ok(response.map(|inner| Body::new(AnswerBody { inner, _in_flight: in_flight })))
    }
}

/// Says that nothing more will come, and reads what the peer still sends, so that the answer is not lost with it.
async fn linger(mut stream: Watched) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Whoever is gone needs no answer.
    let _ = timeout(LINGER, rest).await;
}

/// Tells a peer that there is no room.
pub async fn refuse(stream: TcpStream, tls: bool) {
    if tls {
        return;
    }
    let text = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{FULL}",
        FULL.len()
    );
    // It fits into the socket's buffer: nothing is waited for.
    let _ = stream.try_write(text.as_bytes());
}

/// A stream that tells when bytes come and go.
struct Watched {
    stream: Box<dyn Stream>,
    activity: Arc<ConnectionActivity>,
}

impl Watched {
    fn told<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &written {
            Poll::Ready(Ok(_)) => self.activity.wrote(true),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.wrote(false),
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.told(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.told(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! Connections that can be cut off at any moment.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Hands each connection a switch; cancelling `all` cuts every one of them.
pub(super) struct Wires {
    listener: TcpListener,
    all: CancellationToken,
}

impl Wires {
    pub(super) fn new(listener: TcpListener, all: CancellationToken) -> Self {
        Self { listener, all }
    }
}

impl Listener for Wires {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // As engines do: else a token waits for the client's acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "can't set TCP_NODELAY: streamed answers may lag");
        }
        let switch = Switch(self.all.child_token());
        let cut = Box::pin(switch.0.clone().cancelled_owned());
        (Wire { stream, switch, cut }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Cuts one connection, with a TCP reset.
#[derive(Debug, Clone)]
pub(super) struct Switch(CancellationToken);

impl Switch {
    pub(super) fn reset(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, Wires>> for Switch {
    fn connect_info(stream: IncomingStream<'_, Wires>) -> Self {
        stream.io().switch.clone()
    }
}

pub(super) struct Wire {
    stream: TcpStream,
    switch: Switch,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        // Without it the kernel would end the connection in good order.
        self.stream.set_zero_linger()?;
        // A finished future must not be polled again.
        self.cut = Box::pin(self.switch.0.clone().cancelled_owned());
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

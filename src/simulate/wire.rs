//! Connections that can be cut off at any moment, in the clear or by TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Hands each connection a switch; cancelling `all` cuts every one of them.
pub(super) struct Wires {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    all: CancellationToken,
}

impl Wires {
    pub(super) fn new(listener: TcpListener, tls: Option<TlsAcceptor>, all: CancellationToken) -> Self {
        Self { listener, tls, all }
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
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(tls) => Stream::Handshake(Box::new(tls.accept(stream))),
        };
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

/// A connection, with or without TLS. The handshake is part of the first read, so that a slow one holds up nobody else.
enum Stream {
    Plain(TcpStream),
    Handshake(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake failed.
    Broken,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Stream {
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Io>>> {
        *self = match std::mem::replace(self, Self::Broken) {
            Self::Handshake(mut accept) => match Pin::new(&mut *accept).poll(cx) {
                Poll::Ready(done) => Self::Tls(Box::new(done?)),
                Poll::Pending => {
                    *self = Self::Handshake(accept);
                    return Poll::Pending;
                }
            },
            other => other,
        };
        Poll::Ready(match self {
            Self::Plain(stream) => Ok(Pin::new(stream)),
            Self::Tls(stream) => Ok(Pin::new(stream.as_mut())),
            Self::Handshake(_) | Self::Broken => Err(io::ErrorKind::NotConnected.into()),
        })
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Handshake(accept) => accept.get_ref(),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Broken => None,
        }
    }
}

pub(super) struct Wire {
    stream: Stream,
    switch: Switch,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Io>>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            // Without it the kernel would end the connection in good order.
            if let Some(stream) = self.stream.tcp() {
                stream.set_zero_linger()?;
            }
            // A finished future must not be polled again.
            self.cut = Box::pin(self.switch.0.clone().cancelled_owned());
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.stream.poll_io(cx)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_io(cx))?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_io(cx))?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_io(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.poll_io(cx))?.poll_shutdown(cx)
    }
}

/// How a simulated server speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsMode {
    SelfSigned,
}

/// With a certificate that nobody trusts, made anew at each start.
pub(super) fn tls_acceptor(mode: TlsMode, address: IpAddr) -> Result<TlsAcceptor, String> {
    let TlsMode::SelfSigned = mode;
    let names = vec![address.to_string(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .map_err(|error| error.to_string())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

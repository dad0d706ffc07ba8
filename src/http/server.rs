//! Serves the API until it is told to stop.

use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Api, routes};
use crate::listener::{self, Limits};

/// Serves until `shutdown`, then finishes what is open.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) -> io::Result<()> {
    let router = routes::router(api, shutdown.clone());
    listener::serve(listener, None, router, Limits::of_process(), shutdown).await
}

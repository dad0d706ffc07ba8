//! Serves the API until it is told to stop.

use std::{future::IntoFuture, io, time::Duration};

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Api, routes};

/// Requests that are still open this long after the shutdown are dropped.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `shutdown`, then finishes what is open.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) -> io::Result<()> {
    let ends = shutdown.clone();
    // A streamed token is not held back until the client has acknowledged the one before.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "can't set TCP_NODELAY: streamed answers may lag");
        }
    });
    let server = axum::serve(listener, routes::router(api, shutdown.clone()))
        .with_graceful_shutdown(async move { ends.cancelled().await })
        .into_future();
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => ended,
        () = too_late => Ok(()),
    }
}

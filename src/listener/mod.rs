//! The HTTP server of everything that listens: API, health pages and host agents. Everything that a peer can hold has a bound:
//! connections in total and by peer, the time for a request's head, for its body, for reading the answer, and for doing nothing.
//!
//! A connection without a request in flight is worth nothing to its peer that a new one would not give. So when a limit is
//! reached, the one that has been idle for longest makes room, and a peer that opens many loses its own.

mod body;
mod connection;
mod files;
mod limits;
mod slots;
mod tls;

use std::{io, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use files::{limit_open_files, open_files_at_start, raise_open_files};
pub use limits::Limits;
pub use tls::{Tls, TlsFiles};

use connection::Connection;
use slots::ConnectionSlots;

/// How soon accepting is tried again where the system has no descriptors left: doubled, up to a second.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// A trouble that goes on is told so often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Serves until `shutdown`, then finishes what is open, for some seconds.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let slots = ConnectionSlots::new(limits);
    let tasks = TaskTracker::new();
    let mut retry = FIRST_RETRY;
    let mut trouble = Told::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                retry = FIRST_RETRY;
                let Some(slot) = slots.take(peer.ip()) else {
                    tasks.spawn(connection::refuse(stream, tls.is_some()));
                    continue;
                };
                prepare(&stream);
                let connection = Connection { slot, peer, limits, router: router.clone() };
                tasks.spawn(connection.serve(stream, tls.clone(), shutdown.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let freed = slots.evict_idle();
                if trouble.is_due() {
                    tracing::warn!(%error, freed, open = slots.open(), "can't accept connections; trying again");
                }
                tokio::select! {
                    () = sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
                    () = shutdown.cancelled() => break,
                }
            }
        }
    }
    drop(listener);
    tasks.close();
    let deadline = Instant::now() + limits.drain;
    tokio::select! {
        () = tasks.wait() => {}
        () = sleep_until(deadline) => slots.close_all(),
    }
    Ok(())
}

/// A streamed token is not held back until the client has acknowledged the one before.
fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "can't set TCP_NODELAY: streamed answers may lag");
    }
}

/// Whether only the connection that was about to be accepted failed.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// When something was last told, so that it is not told each time.
#[derive(Debug, Default)]
struct Told(Option<Instant>);

impl Told {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now.duration_since(last) >= TELL_EVERY);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests;

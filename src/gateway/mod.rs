//! A reverse proxy for agents, IDEs and scripts: their calls take the slots that tasks take, go to a server that is well, and are
//! streamed through unchanged.
//!
//! `door` says who may ask at all, `asker` who asks, `routes` what may be asked, `intake` reads bodies. `call` is the life of one call: `line` waits for a
//! slot in one of the `queues`, by the order of `turns`; `sessions` know which server a conversation is near to; `attempt` sends the request, `exchange` streams the answer, `shown` notes what that showed, `failover` says what comes after a failure. `client` is the side of whoever asked.
//! `catalog` lists what is served; `cache` gives answers again; `open` are the calls that run, `upkeep` renews slots and reports what calls showed.

mod answer;
mod asker;
mod attempt;
mod cache;
mod call;
mod catalog;
mod client;
mod core;
mod door;
mod exchange;
mod failover;
mod intake;
mod line;
mod open;
mod pipe;
mod queues;
mod routes;
mod sessions;
mod shown;
mod turns;
mod upkeep;
mod view;

pub use self::core::{GatewayParts, GatewayTimings};
pub use door::Origins;

use std::{io, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::core::GatewayCore;
use crate::{
    calls,
    listener::{self, Limits, Tls},
};

/// A gateway at work.
pub struct Gateway {
    core: Arc<GatewayCore>,
    tls: Option<Tls>,
}

impl Gateway {
    pub fn new(parts: GatewayParts) -> Self {
        Self { core: Arc::new(GatewayCore::new(parts)), tls: None }
    }

    /// Serves by TLS alone.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Serves until `shutdown`; then takes no call, tells those that wait to come again, and finishes what is streamed.
    ///
    /// # Errors
    /// Those of the listener.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let Self { core, tls } = self;
        let usual = Limits::of_process();
        let address = listener.local_addr()?;
        let limits = Limits {
            // Programs of this machine all come from one address.
            per_peer: if address.ip().is_loopback() { usual.connections } else { usual.per_peer },
            body_gap: std::time::Duration::from_secs(30),
            drain: core.timings.drain,
            ..usual
        };
        tracing::info!(%address, tls = tls.is_some(), namespace = core.namespace, holder = core.holder, "gateway begins");
        let ended = CancellationToken::new();
        let mut loops = tokio::task::JoinSet::new();
        loops.spawn(upkeep::keep(Arc::clone(&core), ended.clone()));
        loops.spawn(upkeep::follow(Arc::clone(&core), ended.clone()));
        loops.spawn(upkeep::report(Arc::clone(&core), ended.clone()));
        loops.spawn(upkeep::wait(Arc::clone(&core), ended.clone()));
        loops.spawn(upkeep::cancel(Arc::clone(&core), ended.clone()));
        // Before what is declared is known, nobody is told that a model is not served.
        let _ = tokio::time::timeout(FIRST_READ, core.known.notified()).await;
        let closing = tokio::spawn({
            let (core, shutdown) = (Arc::clone(&core), shutdown.clone());
            async move {
                shutdown.cancelled().await;
                core.closing.cancel();
            }
        });
        let served = listener::serve(listener, tls, routes::router(Arc::clone(&core)), limits, shutdown).await;
        closing.abort();
        core.closing.cancel();
        core.end_calls().await;
        ended.cancel();
        while loops.join_next().await.is_some() {}
        core.leave().await;
        tracing::info!("gateway ended");
        served
    }
}

/// Calls are taken after this though the database did not tell what is declared.
const FIRST_READ: std::time::Duration = std::time::Duration::from_secs(5);

/// The longest that a call may go on after it was last renewed: also the bound of a slot whose gateway is gone.
fn call_within(core: &GatewayCore) -> std::time::Duration {
    core.timings.call_within + calls::seconds(2)
}

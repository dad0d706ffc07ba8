use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::engines::EngineKind;

use super::calls::Log;
use super::in_force::checked;
use super::state::{LAST_WORDS, SimulatedState};
use super::totals::Totals;
use super::wire::{Switch, Wires, tls_acceptor};
use super::{ActiveFault, Fault, SimulateOptions, control, gate, ollama, openai};

/// A simulated server that runs in this process until it is stopped or dropped.
#[derive(Debug)]
pub struct SimulatedServer {
    shared: Arc<SimulatedState>,
    address: SocketAddr,
    control: Option<SocketAddr>,
    url: String,
    end: CancellationToken,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("can't listen on {address}: {source}; is another server there?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("can't make a certificate for {address}: {reason}")]
    Certificate { address: SocketAddr, reason: String },
}

impl SimulatedServer {
    /// Listens, unless a fault says otherwise: then the address is known, and refuses.
    pub async fn start(options: SimulateOptions) -> Result<Self, StartError> {
        let listener = bind(options.listen).await?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: options.listen, source })?;
        let control_listener = match options.control_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let control = control_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let tls = match options.tls {
            Some(mode) => {
                Some(tls_acceptor(mode, address.ip()).map_err(|reason| StartError::Certificate { address, reason })?)
            }
            None => None,
        };
        let faults = options.faults.clone();
        let shared = SimulatedState::new(options);
        shared.add_faults(faults);
        let end = shared.over.clone();
        tokio::spawn(end.clone().run_until_cancelled_owned(review(Arc::downgrade(&shared))));
        if let Some(listener) = control_listener {
            let app = control::router().with_state(Arc::clone(&shared));
            tokio::spawn(end.clone().run_until_cancelled_owned(async move { axum::serve(listener, app).await }));
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let task = tokio::spawn(serve(Arc::clone(&shared), address, listener, tls, end.clone()));
        let url = format!("{scheme}://{address}");
        Ok(Self { shared, address, control, url, end, task: Some(task) })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/simulate` is out of the faults' reach, if it was asked for.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control
    }

    pub fn faults(&self) -> Vec<ActiveFault> {
        self.shared.faults.all()
    }

    /// These and no others. Needs a tokio runtime, for those that end by themselves.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = ActiveFault>) {
        self.shared.faults.clear();
        self.shared.add_faults(faults.into_iter().collect());
    }

    pub fn add_fault(&self, fault: impl Into<ActiveFault>) {
        self.shared.add_faults(vec![fault.into()]);
    }

    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    pub fn log(&self) -> Log {
        self.shared.ledger.read()
    }

    pub fn totals(&self) -> Totals {
        self.shared.ledger.totals()
    }

    /// How long a signal leaves the process running.
    pub fn exit_delay(&self) -> Duration {
        let slow = |fault: &Fault| if let Fault::SlowExit { seconds } = fault { Some(checked(*seconds)) } else { None };
        self.shared.fault(slow).unwrap_or_default()
    }

    pub fn clear_log(&self) {
        self.shared.ledger.clear();
    }

    /// The exit code of the crash, if there was one.
    pub fn crashed(&self) -> Option<i32> {
        *self.shared.crashed().borrow()
    }

    /// Waits for a crash; returns its exit code (137 when it was out of memory).
    pub async fn crash(&self) -> i32 {
        let mut crashed = self.shared.crashed();
        match crashed.wait_for(Option::is_some).await.map(|code| *code) {
            Ok(Some(code)) => code,
            // Its sender lives in self.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Closes the port and cuts every connection. Over when the port is free again.
    pub async fn stop(mut self) {
        self.end.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for SimulatedServer {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

/// Looks at the faults again when a call is over, as some hold while calls are open.
async fn review(shared: Weak<SimulatedState>) {
    let Some(closed) = shared.upgrade().map(|shared| Arc::clone(&shared.ledger.closed)) else { return };
    loop {
        closed.notified().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.review_faults(false);
    }
}

fn app(shared: &Arc<SimulatedState>) -> Router {
    let engine = match shared.options.engine {
        EngineKind::Ollama => ollama::router(),
        EngineKind::Mlx => openai::mlx_router(),
        EngineKind::OpenAi => openai::router(),
    };
    engine
        .merge(control::router())
        .layer(axum::middleware::from_fn_with_state(Arc::clone(shared), gate::gate))
        .with_state(Arc::clone(shared))
}

/// Listens while nothing refuses; ends when stopped or crashed.
async fn serve(
    shared: Arc<SimulatedState>,
    address: SocketAddr,
    first: TcpListener,
    tls: Option<TlsAcceptor>,
    end: CancellationToken,
) {
    let mut listener = Some(first);
    let mut crashed = shared.crashed();
    let over = async {
        tokio::select! {
            () = end.cancelled() => (),
            _ = crashed.wait_for(Option::is_some) => (),
        }
    };
    let listening = async {
        loop {
            if shared.has(refuses) {
                listener = None;
                shared.faults.until_none(refuses).await;
            }
            let open = match listener.take() {
                Some(open) => open,
                None => rebind(address).await,
            };
            listen_until(&shared, open, tls.clone(), shared.faults.until_some(refuses), LAST_WORDS).await;
        }
    };
    // Dropping it closes the port; the connections hang on a token that is cut with it.
    tokio::select! {
        () = over => (),
        () = listening => (),
    }
}

fn refuses(fault: &Fault) -> bool {
    matches!(fault, Fault::Refuse {})
}

/// The port is ours by right, but somebody may sit on it for a moment.
async fn rebind(address: SocketAddr) -> TcpListener {
    loop {
        match bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::warn!(%address, %error, "the simulated server can't listen again yet");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves until `until`, then closes the port at once and the connections after `last_words`.
async fn listen_until(
    shared: &Arc<SimulatedState>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    until: impl Future<Output = ()>,
    last_words: Duration,
) {
    let connections = CancellationToken::new();
    let _cut = connections.clone().drop_guard();
    let service = app(shared).into_make_service_with_connect_info::<Switch>();
    let serving = axum::serve(Wires::new(listener, tls, connections), service);
    tokio::select! {
        _ = serving.into_future() => (),
        () = until => (),
    }
    tokio::time::sleep(last_words).await;
}

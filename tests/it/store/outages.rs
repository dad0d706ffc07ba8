//! The database goes away, or hangs, and comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler::store::{LeaseTimings, StoreError, lead};
use ostler::telemetry::Loops;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, LEASE, backend, eventually};
use crate::real::Postgres;

/// Longer than any operation of the store takes.
const PATIENCE: Duration = Duration::from_secs(6);

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.expect("no panic")
}

/// Whether both a read and a write say in time that the database is away.
async fn is_away(bench: &Bench, fence: &ostler::store::Fence) {
    let began = Instant::now();
    let write = bench.store.save_recovery(fence, "u1", &json!({"attempts": 1})).await;
    assert!(matches!(write, Err(StoreError::Unavailable(_))), "{write:?}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let began = Instant::now();
    let read = bench.store.backends().await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_database_that_was_away_is_used_again_when_it_is_back() {
    let server = Arc::new(blocking(Postgres::start).await);
    let url = blocking({
        let server = server.clone();
        move || server.database()
    })
    .await;
    let bench = Bench::at(&url).await;
    let fence = bench.lead("a").await;
    bench.store.project_backend(&fence, &backend("u1")).await.expect("leads");

    for kill in [false, true] {
        let stopped = server.clone();
        blocking(move || if kill { stopped.kill() } else { stopped.stop() }).await;
        is_away(&bench, &fence).await;
        let resumed = server.clone();
        blocking(move || resumed.resume()).await;
        eventually("the store heals by itself", async || bench.store.backends().await == Ok(vec![backend("u1")])).await;
        assert_eq!(bench.store.recovery("u1").await, Ok(None), "what failed was not done");
    }
    bench.store.renew(&fence, LEASE).await.expect("nobody took it");
    bench.store.save_recovery(&fence, "u1", &json!({"attempts": 1})).await.expect("leads on");
    drop(bench);
    blocking(move || drop(server)).await;
}

/// Passes bytes on to `to`, while `flowing`: then it keeps connections open and says nothing, like a machine that hangs.
async fn proxy(to: String) -> (u16, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (flow, flowing) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (to, flowing) = (to.clone(), flowing.clone());
            tokio::spawn(async move {
                let far = TcpStream::connect(to).await.expect("connect to the database");
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::join!(pass_on(near_read, far_write, flowing.clone()), pass_on(far_read, near_write, flowing));
            });
        }
    });
    (port, flow)
}

async fn pass_on(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut flowing: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut bytes = [0; 8192];
    while let Ok(count) = from.read(&mut bytes).await {
        if flowing.wait_for(|flowing| *flowing).await.is_err()
            || count == 0
            || to.write_all(&bytes[..count]).await.is_err()
        {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_database_that_hangs_is_unavailable_and_its_leader_steps_down() {
    let url = blocking(|| Postgres::shared().database()).await;
    let (address, rest) = url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL");
    let (port, flow) = proxy(address.to_owned()).await;
    let bench = Bench::at(&format!("postgres://ostler@127.0.0.1:{port}/{rest}")).await;

    let timings = LeaseTimings {
        lease: Duration::from_secs(30),
        renew_deadline: Duration::from_secs(2),
        retry: Duration::from_millis(100),
        renew: Duration::from_millis(100),
    };
    let shutdown = CancellationToken::new();
    let watch = lead(bench.store.clone(), "a".to_owned(), timings, &Loops::new(), shutdown.clone());
    let mut states = watch.subscribe();
    let term = states.wait_for(|state| state.term().is_some()).await.expect("runs").term().expect("leads").clone();
    bench.store.project_backend(term.fence(), &backend("u1")).await.expect("leads");

    flow.send_replace(false);
    is_away(&bench, term.fence()).await;
    assert!(!term.still_leads(), "what can't be renewed is over at the renew deadline");
    states.wait_for(|state| state.term().is_none()).await.expect("runs");
    flow.send_replace(true);
    let again = states.wait_for(|state| state.term().is_some()).await.expect("runs").term().expect("leads").clone();
    assert_eq!(again.fence(), term.fence(), "nobody took the lead meanwhile: the same epoch");
    eventually("the store heals by itself", async || bench.store.backends().await == Ok(vec![backend("u1")])).await;
    shutdown.cancel();
    watch.stopped().await;
}

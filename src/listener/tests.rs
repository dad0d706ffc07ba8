use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Bytes,
    routing::{get, post},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Short times, few connections.
fn limits() -> Limits {
    Limits {
        connections: 8,
        per_peer: 6,
        head: Duration::from_millis(400),
        idle: Duration::from_secs(60),
        body_gap: Duration::from_millis(400),
        body: Duration::from_secs(2),
        unread: Duration::from_secs(60),
        drain: Duration::from_secs(5),
    }
}

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    /// Lets `/wait` answer.
    go: Arc<Notify>,
    ended: JoinHandle<io::Result<()>>,
}

async fn server(limits: Limits) -> Server {
    let (go, shutdown) = (Arc::new(Notify::new()), CancellationToken::new());
    let waited = Arc::clone(&go);
    let wait = get(move || async move {
        waited.notified().await;
        "went\n"
    });
    let read = post(|body: Result<Bytes, axum::extract::rejection::BytesRejection>| async move {
        body.map_or_else(|error| error.body_text(), |body| format!("{} bytes\n", body.len()))
    });
    let refuse = post(|| async { (axum::http::StatusCode::UNAUTHORIZED, "no\n") });
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/wait", wait)
        .route("/read", read)
        .route("/refuse", refuse);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ended = tokio::spawn(serve(listener, None, router, limits, shutdown.clone()));
    Server { address, shutdown, go, ended }
}

impl Server {
    async fn open(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn ask(&self, text: &str) -> String {
        rest(self.open(text).await).await
    }

    async fn livez(&self) -> String {
        self.ask("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await
    }
}

/// All that comes until the other side closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("the other side closes");
    // A reset is an end, too.
    let _ = read;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn idle_connections_make_room_for_a_request() {
    let server = server(limits()).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(server.livez().await.ends_with("ok\n"));
}

#[tokio::test]
async fn what_is_being_answered_is_finished_whoever_else_comes() {
    let server = server(limits()).await;
    let waiting = server.open("GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    for _ in 0..20 {
        assert!(server.livez().await.ends_with("ok\n"));
        drop(TcpStream::connect(server.address).await.unwrap());
    }
    server.go.notify_one();
    assert!(rest(waiting).await.ends_with("went\n"));
}

#[tokio::test]
async fn a_peer_with_requests_in_all_its_connections_is_told_so() {
    let server = server(limits()).await;
    let mut waiting = Vec::new();
    for _ in 0..limits().per_peer {
        waiting.push(server.open("GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await);
    }
    let answer = loop {
        // Until the last one has begun, it may make room.
        let answer = server.ask("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 503") {
            break answer;
        }
        waiting.push(server.open("GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await);
    };
    assert!(answer.contains(r#""reason":"TooManyConnections""#), "{answer}");
}

#[tokio::test]
async fn a_slow_head_a_silent_connection_and_a_slow_body_end() {
    let server = server(limits()).await;
    let begun = Instant::now();
    let silent = server.open("").await;
    let slow = tokio::spawn({
        let mut stream = server.open("GET /livez HTTP/1.1\r\n").await;
        async move {
            while stream.write_all(b"x").await.is_ok() && begun.elapsed() < PATIENCE {
                sleep(Duration::from_millis(50)).await;
            }
        }
    });
    assert_eq!(rest(silent).await, "");
    timeout(PATIENCE, slow).await.unwrap().unwrap();
    let head = "POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nconnection: close\r\n\r\nabc";
    let answer = server.ask(head).await;
    assert!(answer.contains("took too long to arrive"), "{answer}");
    assert!(begun.elapsed() < PATIENCE);
    assert!(server.livez().await.ends_with("ok\n"));
}

#[tokio::test]
async fn a_refusal_arrives_although_the_body_is_still_being_sent() {
    let server = server(limits()).await;
    let stream = server.open("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n").await;
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move { write.write_all(&vec![b'x'; 4_000_000]).await });
    let mut answer = vec![0; 1024];
    let count = timeout(PATIENCE, read.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer[..count]));
    sending.await.unwrap().expect("the rest is taken, and thrown away");
}

#[tokio::test]
async fn the_end_waits_for_open_requests_and_for_no_idle_connection() {
    let server = server(limits()).await;
    let _idle = server.open("").await;
    let waiting = server.open("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(server.livez().await.ends_with("ok\n"));
    server.shutdown.cancel();
    sleep(Duration::from_millis(20)).await;
    server.go.notify_one();
    assert!(rest(waiting).await.ends_with("went\n"));
    timeout(PATIENCE, server.ended).await.unwrap().unwrap().unwrap();
}

//! A server that answers bytes that no engine of ours would: each request's answer is said by a test.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub line: String,
    pub body: Value,
}

/// What is written, piece by piece, and whether the connection then stays open.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub pieces: Vec<(Duration, Vec<u8>)>,
    pub stays_open: bool,
}

impl Answer {
    /// Bytes as they are.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![(Duration::ZERO, bytes.into())], stays_open: false }
    }

    pub fn status(status: &str, body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// 200; the body ends with the connection.
    pub fn stream(body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}"))
    }

    pub fn then(mut self, after: Duration, bytes: &str) -> Self {
        self.pieces.push((after, bytes.as_bytes().to_vec()));
        self
    }

    pub fn and_stays_open(mut self) -> Self {
        self.stays_open = true;
        self
    }
}

pub struct Canned {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Canned {
    pub async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut socket = BufReader::new(socket);
                    let Some(asked) = read(&mut socket).await else { return };
                    log.lock().expect("a lock").push(asked.clone());
                    write(socket, answer(&asked)).await;
                });
            }
        });
        Self { address, asked, task }
    }

    pub async fn always(answer: Answer) -> Self {
        Self::start(move |_| answer.clone()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("a lock").clone()
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(socket: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut head = Vec::new();
    loop {
        let mut line = Vec::new();
        // What is no HTTP (a TLS handshake) is answered as well.
        if socket.read_until(b'\n', &mut line).await.ok()? == 0 || line.trim_ascii().is_empty() || line[0] == 0x16 {
            break;
        }
        head.push(String::from_utf8_lossy(&line).trim().to_owned());
    }
    let length =
        head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    socket.read_exact(&mut body).await.ok()?;
    let line = head.first().cloned().unwrap_or_default();
    Some(Asked { line, body: serde_json::from_slice(&body).unwrap_or_default() })
}

async fn write(mut socket: BufReader<TcpStream>, answer: Answer) {
    for (after, bytes) in answer.pieces {
        tokio::time::sleep(after).await;
        if socket.write_all(&bytes).await.is_err() || socket.flush().await.is_err() {
            return;
        }
    }
    if answer.stays_open {
        // Until the client goes.
        let _ = socket.read(&mut [0; 1]).await;
    }
    let _ = socket.shutdown().await;
}

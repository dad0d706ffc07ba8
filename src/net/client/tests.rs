use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use base64::Engine;
use reqwest::StatusCode;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::net::{TlsFault, names, redirected};

const SOON: Duration = Duration::from_secs(5);

fn client() -> HttpClient {
    crate::net::install_crypto();
    HttpClient::direct().unwrap()
}

/// A server that does this with each connection, and how many it took.
async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, taken) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream));
        }
    });
    (port, taken)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            break;
        }
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Answers with a head, and then this piece again and again, for as long as anybody reads.
async fn endless(status: &'static str, piece: &'static [u8]) -> u16 {
    let serve = move |mut stream: TcpStream| async move {
        head(&mut stream).await;
        let begin = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        let many = chunk.repeat(1 + (16 << 10) / chunk.len());
        let _ = stream.write_all(begin.as_bytes()).await;
        while stream.write_all(&many).await.is_ok() {}
    };
    server(serve).await.0
}

async fn get(client: &HttpClient, url: String, within: Duration) -> Result<HttpReply, Broken> {
    client.send_within(client.get(url), within).await
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_nothing_goes_to_where_it_points() {
    let (elsewhere, taken) = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    })
    .await;
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let (port, _) = server(move |mut stream| async move {
            head(&mut stream).await;
            let text =
                format!("HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:{elsewhere}/x\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(text.as_bytes()).await;
        })
        .await;
        let client = client();
        let request = client.post(format!("http://127.0.0.1:{port}/")).bearer_auth("secret").body("prompt");
        let reply = client.send_within(request, SOON).await.unwrap();
        let said = redirected(reply.status(), reply.headers()).unwrap();
        assert!(said.contains(&status[..3]) && said.contains(&format!("http://127.0.0.1:{elsewhere}/x")), "{said}");
    }
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_endless_body_is_cut_by_its_bytes_and_by_its_time() {
    let client = client();
    let port = endless("200 OK", &[b'x'; 4096]).await;
    let url = || format!("http://127.0.0.1:{port}/");
    let reply = get(&client, url(), SOON).await.unwrap();
    assert_eq!(reply.whole(1 << 20).await, Err(Broken::TooLong(1 << 20)));
    let mut reply = get(&client, url(), SOON).await.unwrap();
    let until = Instant::now() + Duration::from_millis(100);
    let ended = loop {
        match reply.chunk(until).await {
            Ok(Some(_)) => {}
            ended => break ended.map(|_| ()),
        }
    };
    assert_eq!(ended, Err(Broken::Timeout), "though there is always more");
    let port = endless("500 Oops", b"no ").await;
    let reply = get(&client, format!("http://127.0.0.1:{port}/"), SOON).await.unwrap();
    assert_eq!((reply.status(), reply.refusal().await.len()), (StatusCode::INTERNAL_SERVER_ERROR, 64 << 10));
}

#[tokio::test]
async fn single_bytes_are_taken_at_a_bounded_rate() {
    let client = client();
    let port = endless("200 OK", b"\n").await;
    let mut reply = get(&client, format!("http://127.0.0.1:{port}/"), SOON).await.unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    let mut count = 0;
    while let Ok(Some(piece)) = reply.chunk(until).await {
        count += piece.as_ref().len();
    }
    assert!(count < 25_000, "{count} in two seconds");
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test]
async fn faults_of_tls_are_told_from_a_server_that_is_down() {
    let client = client();
    let ask = async |url: String| get(&client, url, SOON).await.map(drop);
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.unwrap()));
    let (self_signed, _) = server(move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    })
    .await;
    let fault = ask(format!("https://127.0.0.1:{self_signed}/")).await;
    assert!(matches!(&fault, Err(Broken::Tls(TlsFault::Certificate(_)))), "{fault:?}");
    // Trusted, it is no fault.
    let trusting = HttpClient::trusting(&pem(made.cert.der())).unwrap();
    let fault = get(&trusting, format!("https://127.0.0.1:{self_signed}/"), SOON).await.map(drop);
    assert_eq!(fault, Err(Broken::Reset));
    let (closes, _) = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    assert_eq!(ask(format!("https://127.0.0.1:{closes}/")).await, Err(Broken::Tls(TlsFault::Closed)));
    assert_eq!(ask(format!("http://127.0.0.1:{closes}/")).await, Err(Broken::Reset), "without TLS it is a reset");
    let (plain, _) = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let fault = ask(format!("https://127.0.0.1:{plain}/")).await;
    assert!(matches!(&fault, Err(Broken::Tls(TlsFault::NotTls(_)))), "{fault:?}");
    let (silent, _) =
        server(|mut stream| async move { while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} }).await;
    let fault = get(&client, format!("https://127.0.0.1:{silent}/"), Duration::from_millis(200)).await.map(drop);
    assert_eq!(fault, Err(Broken::Timeout), "a hung server says nothing within the handshake either");
    let (other, _) = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"-ERR unknown command\r\n").await;
    })
    .await;
    let fault = ask(format!("http://127.0.0.1:{other}/")).await;
    assert!(matches!(&fault, Err(Broken::NotHttp(_))), "{fault:?}");
}

#[tokio::test]
async fn a_name_that_nobody_resolves_is_no_hung_server() {
    crate::net::install_crypto();
    let client = HttpClient::assemble(names::tests::silent().0, Vec::new(), |builder| builder).unwrap();
    for within in [Duration::from_millis(20), Duration::from_secs(60)] {
        let fault = get(&client, "http://slow.example:11434/".to_owned(), within).await.map(drop);
        assert!(
            matches!(&fault, Err(Broken::Unreachable(why)) if why.contains("slow.example")),
            "{within:?}: {fault:?}"
        );
    }
}

#[tokio::test]
async fn a_proxy_is_for_public_hosts_alone() {
    crate::net::install_crypto();
    let (port, through_proxy) = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    })
    .await;
    let set = move |name: &str| match name {
        "HTTP_PROXY" | "HTTPS_PROXY" | "ALL_PROXY" => Some(format!("http://127.0.0.1:{port}")),
        "NO_PROXY" => Some("public.example".to_owned()),
        _ => None,
    };
    let client = HttpClient::assemble(Names::default(), proxies(set).unwrap(), |builder| builder).unwrap();
    let (local, direct) = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    })
    .await;
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        get(&client, format!("http://{host}:{local}/"), SOON).await.unwrap();
    }
    assert_eq!((direct.load(Ordering::Relaxed), through_proxy.load(Ordering::Relaxed)), (3, 0));
    get(&client, "http://far.invalid/".to_owned(), SOON).await.unwrap();
    assert_eq!(through_proxy.load(Ordering::Relaxed), 1);
    let error = proxies(|name| (name == "HTTP_PROXY").then(|| "http://[".to_owned())).unwrap_err();
    assert!(error.to_string().contains("HTTP_PROXY"), "{error}");
}

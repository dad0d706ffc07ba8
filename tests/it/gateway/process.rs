//! `ostler gateway` as a process of its own.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ostler::{
    calls::CallerKey,
    engines::EngineKind,
    simulate::{ActiveFault, SimulateOptions},
    store::Home,
};
use serde_json::json;

use super::gate::chat;
use crate::{
    store::bench::Bench,
    worker::{
        PATIENCE, eventually,
        shop::{Shop, until_in_flight},
    },
};

pub(super) struct GatewayProcess {
    pub child: tokio::process::Child,
    pub url: String,
    log: std::path::PathBuf,
}

impl GatewayProcess {
    pub async fn start(bench: &Bench) -> Self {
        Self::start_at(bench, "127.0.0.1:0").await
    }

    async fn start_at(bench: &Bench, address: &str) -> Self {
        Self::start_with(bench, address, &[]).await
    }

    async fn start_with(bench: &Bench, address: &str, more: &[&str]) -> Self {
        let log = std::env::temp_dir().join(format!("ostler-gateway-{}.log", uuid::Uuid::new_v4()));
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ostler"));
        command.args(["gateway", "--address", address]).args(more);
        match &bench.home {
            Home::Folder { path, .. } => command.arg("--data-dir").arg(path),
            Home::Postgres(_) => command.env("OSTLER_DATABASE_URL", &bench.url),
        };
        let to = std::fs::File::create(&log).expect("a log");
        let child = command.stdin(Stdio::null()).stderr(to).kill_on_drop(true).spawn().expect("run ostler");
        let begun = Instant::now();
        let address = loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let said = text.split_once("address=").and_then(|(_, rest)| rest.split_whitespace().next());
            if let Some(address) = said {
                break address.to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not begin: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Self { child, url: format!("http://{address}"), log }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it runs")).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("signal");
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

async fn serves_and_is_killed(bench: Bench) {
    let shop = Shop::on(bench).await;
    let server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut gateway = GatewayProcess::start(&shop.bench).await;
    let url = format!("{}/v1/chat/completions", gateway.url);
    eventually("it serves", || async {
        http.post(&url).json(&chat(false)).send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    // Killed in the middle of a call, it leaves a slot that another process frees.
    server.add_fault("long-answer:tokens=100000".parse::<ActiveFault>().expect("a fault"));
    let body = json!({"model": "small", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let call = tokio::spawn(http.post(&url).json(&body).send());
    until_in_flight(&server, 1).await;
    gateway.signal(Signal::SIGKILL);
    gateway.child.wait().await.expect("wait");
    let _ = call.await;
    assert_eq!(shop.occupied(server.url()).await, 1);
    server.clear_faults();
    let begun = Instant::now();
    let mut next = GatewayProcess::start(&shop.bench).await;
    let url = format!("{}/v1/chat/completions", next.url);
    eventually("the slot is free again", || async {
        http.post(&url).json(&chat(false)).send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}: its lease need not lapse", begun.elapsed());
    next.signal(Signal::SIGTERM);
    assert_eq!(next.child.wait().await.expect("wait").code(), Some(0));
    assert_eq!(shop.occupied(server.url()).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_serves_and_what_a_killed_one_held_is_free_soon() {
    serves_and_is_killed(Bench::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_postgres_a_process_serves_and_what_a_killed_one_held_is_free_soon() {
    serves_and_is_killed(Bench::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_calls_from_elsewhere_needs_a_key() {
    let shop = Shop::sqlite().await;
    let _server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    let key = CallerKey::generate();
    shop.declare("Caller", "editor", json!({"keyHashes": [key.hash()]})).await;
    let gateway = GatewayProcess::start_at(&shop.bench, "0.0.0.0:0").await;
    let port = gateway.url.rsplit(':').next().expect("a port");
    // This machine's own address, which is not its loopback: nothing is sent.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    probe.connect("192.0.2.1:9").expect("a route");
    let elsewhere = format!("http://{}:{port}/v1/chat/completions", probe.local_addr().expect("an address").ip());
    let here = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let status = async |url: &str, key: &str| {
        http.post(url).bearer_auth(key).json(&chat(false)).send().await.map_or(0, |answer| answer.status().as_u16())
    };
    eventually("it serves", async || status(&here, "none").await == 200).await;
    assert_eq!(status(&elsewhere, "none").await, 401);
    assert_eq!(status(&elsewhere, key.text()).await, 200);
}

/// A folder with a certificate for this machine and its key; returns the certificate, which trusts itself.
fn certify(folder: &std::path::Path) -> reqwest::Certificate {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, made.signing_key.serialize_der());
    let key = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, made.cert.der());
    let cert = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    std::fs::write(folder.join("tls.key"), key).expect("write the key");
    std::fs::write(folder.join("tls.crt"), &cert).expect("write the certificate");
    reqwest::Certificate::from_pem(cert.as_bytes()).expect("a certificate")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn by_tls_it_serves_nobody_in_the_clear_and_takes_up_a_renewed_certificate() {
    ostler::net::install_crypto();
    let shop = Shop::sqlite().await;
    let _server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    let folder = std::env::temp_dir().join(format!("ostler-tls-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).expect("make a folder");
    let first = certify(&folder);
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name).display().to_string());
    let gateway =
        GatewayProcess::start_with(&shop.bench, "127.0.0.1:0", &["--tls-cert", &cert, "--tls-key", &key]).await;
    let address = gateway.url.strip_prefix("http://").expect("an address").to_owned();
    let trusting = |certificate: reqwest::Certificate| {
        reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build().expect("a client")
    };
    let served = async |client: &reqwest::Client| {
        let url = format!("https://{address}/v1/chat/completions");
        client.post(url).json(&chat(false)).send().await.is_ok_and(|answer| answer.status() == 200)
    };
    let client = trusting(first.clone());
    eventually("it serves", async || served(&client).await).await;
    let clear = reqwest::Client::builder().no_proxy().build().expect("a client");
    clear.get(format!("http://{address}/")).send().await.expect_err("it speaks TLS alone");

    // As a Secret that cert-manager renewed. What was trusted before is not served any longer.
    let second = trusting(certify(&folder));
    eventually("the renewed certificate", async || served(&second).await).await;
    assert!(!served(&trusting(first)).await, "the former one is gone");
    std::fs::remove_dir_all(folder).expect("remove the folder");
}

#[tokio::test]
async fn a_certificate_that_can_not_be_read_is_told_with_its_path() {
    let shop = Shop::sqlite().await;
    let Home::Folder { path, .. } = &shop.bench.home else { unreachable!("a folder") };
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ostler"));
    command.args(["gateway", "--address", "127.0.0.1:0", "--tls-cert", "/nowhere.crt", "--tls-key", "/nowhere.key"]);
    let output = command.arg("--data-dir").arg(path).output().await.expect("run ostler");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("/nowhere.crt") && said.contains("PEM"), "{said}");
}

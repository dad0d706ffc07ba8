//! Fifty backends of one host die: people are told once, by whoever they chose, and once more when it is over.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::any,
};
use ostler::{
    host::{
        SigningSecret,
        sign::{self, Signature},
    },
    simulate::{SimulateOptions, SimulatedServer},
};
use serde_json::Value;

use crate::real::free_port;

use super::harness::{Up, condition, is_ready, state};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Probes, deferral, thirty seconds until a person is told, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Requests of one path: their id and body.
#[derive(Default)]
struct Caught {
    hooks: Vec<(String, Value)>,
    gone: usize,
    beats: usize,
}

type Catcher = Arc<Mutex<Caught>>;

async fn catch(State(caught): State<Catcher>, Path(path): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut caught = caught.lock().unwrap();
    match path.as_str() {
        "hook" => {
            let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let given = Signature {
                id: header("webhook-id"),
                timestamp: header("webhook-timestamp"),
                signature: header("webhook-signature"),
            };
            let secret = SigningSecret::parse(SECRET).unwrap();
            if sign::verify(&secret, &given, &body, jiff::Timestamp::now()).is_err() {
                return StatusCode::UNAUTHORIZED;
            }
            caught.hooks.push((given.id, serde_json::from_slice(&body).unwrap()));
            // The first attempt of all fails.
            if caught.hooks.len() == 1 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
        }
        "gone" => {
            caught.gone += 1;
            StatusCode::GONE
        }
        _ => {
            caught.beats += 1;
            StatusCode::OK
        }
    }
}

async fn catcher() -> (Catcher, String) {
    let (caught, listener) = (Catcher::default(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/{path}", any(catch)).with_state(Arc::clone(&caught));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (caught, format!("http://{address}"))
}

fn notifier(name: &str, type_: &str, secret: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{secret}}}\n---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: Notifier\nmetadata: {{name: {name}}}\n\
         spec: {{type: {type_}, secretRef: {{name: {name}}}{rest}}}\n"
    )
}

async fn until(what: &str, up: &Up, mut wanted: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !wanted().await {
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}\n{}", up.ostler_ok(&["status"]));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_backends_of_a_dead_host_are_one_message_and_one_resolution() {
    let (caught, url) = catcher().await;
    let mut engines = Vec::new();
    let mut manifests = String::new();
    for n in 0..50 {
        let port = free_port();
        let mut options = SimulateOptions::new(ostler::engines::EngineKind::Ollama).with_models(&["small"]);
        options.listen = format!("127.0.0.1:{port}").parse().unwrap();
        engines.push(SimulatedServer::start(options).await.unwrap());
        manifests += &format!(
            "---\napiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: b{n:02}}}\nspec: {{engine: Ollama, \
             url: 'http://127.0.0.1:{port}', models: [{{name: small}}], probe: {{periodSeconds: 2}}}}\n"
        );
    }
    let notifiers = [
        notifier("hook", "Webhook", &format!("url: '{url}/hook', signingSecret: {SECRET}"), ""),
        notifier("gone", "Slack", &format!("url: '{url}/gone'"), ""),
        notifier("beat", "Heartbeat", &format!("url: '{url}/beat'"), ", periodSeconds: 10"),
    ];
    let up = Up::start(&[("backends.yaml", &manifests), ("notifiers.yaml", &notifiers.concat())]).await;
    until("all to serve", &up, async || {
        let list = up.get("/api/v1/llmbackends").await;
        list["items"].as_array().is_some_and(|all| all.len() == 50 && all.iter().all(is_ready))
    })
    .await;
    until("a heartbeat", &up, async || caught.lock().unwrap().beats > 0).await;
    assert!(caught.lock().unwrap().hooks.is_empty(), "nothing failed yet");

    futures::future::join_all(engines.into_iter().map(SimulatedServer::stop)).await;
    until("a message that arrives", &up, async || caught.lock().unwrap().hooks.len() >= 2).await;
    {
        let caught = caught.lock().unwrap();
        let (first, second) = (&caught.hooks[0], &caught.hooks[1]);
        assert_eq!(first.0, second.0, "another attempt of the same message");
        let told = second.1["messages"].as_array().unwrap();
        let [told] = told.as_slice() else { panic!("one cause: {told:?}") };
        assert_eq!((&told["key"], &told["telling"]), (&"host/127.0.0.1/Down".into(), &"Opened".into()));
        assert_eq!((&told["affected"], &told["severity"]), (&50.into(), &"Critical".into()), "{told:#}");
        assert_eq!(told["members"].as_array().unwrap().len(), 50);
    }
    up.until_of("notifiers", "gone", "stalled", |seen| {
        state(seen) == "AddressGone" && condition(seen, "Stalled")["status"] == "True"
    })
    .await;

    let status = up.ostler_ok(&["status"]);
    assert!(status.contains("✗ 50 backends of host 127.0.0.1 are down") && status.contains("✗ gone"), "{status}");
    assert!(!status.contains("nobody is told"), "{status}");
    let causes = up.ostler_ok(&["causes"]);
    assert_eq!(causes.lines().filter(|line| line.contains("/Down")).count(), 1, "{causes}");
    let acknowledged = up.ostler_ok(&["ack", "host/127.0.0.1", "--for", "2h"]);
    assert!(acknowledged.contains("host/127.0.0.1/Down is not repeated until"), "{acknowledged}");
    assert!(up.ostler_ok(&["causes"]).contains("acknowledged by"));
    let report = up.ostler_ok(&["report", "--since", "1h"]);
    assert!(report.contains("1 cause open") && report.contains("affected (50): LLMBackend default/b00"), "{report}");
    assert!(report.lines().count() < 25, "{report}");
    let metrics = up.get("/metrics").await;
    let page = metrics.as_str().unwrap();
    assert!(page.contains(r#"ostler_causes{severity="Critical",class="Down"} 1"#), "{page}");

    up.remove("backends.yaml");
    // A folder that misses a file is half written for a while.
    until("the resolution", &up, async || caught.lock().unwrap().hooks.len() >= 3).await;
    let caught = caught.lock().unwrap();
    assert_eq!(caught.hooks.len(), 3, "one message that failed once, one resolution: {:?}", caught.hooks);
    assert_eq!(caught.hooks[2].1["messages"][0]["telling"], "Resolved");
    assert_eq!(caught.gone, 1, "an address that is gone is asked once an hour");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_is_tried_at_once_and_says_what_is_wrong_without_its_secret() {
    let (caught, url) = catcher().await;
    let up = Up::start(&[(
        "all.yaml",
        &[
            notifier("beat", "Heartbeat", &format!("url: '{url}/beat?token=hidden'"), ""),
            notifier("gone", "Slack", &format!("url: '{url}/gone'"), ""),
            notifier("empty", "Telegram", "token: '1:hidden'", ""),
        ]
        .concat(),
    )])
    .await;
    for name in ["beat", "gone"] {
        up.until_of("notifiers", name, "ready", is_ready).await;
    }
    up.until_of("notifiers", "empty", "in need of a chat", |seen| state(seen) == "SecretMissing").await;
    let said = up.ostler_ok(&["notify", "test", "beat"]);
    assert!(said.contains("a test message arrived") && caught.lock().unwrap().beats > 0, "{said}");
    for (name, why) in [("gone", "HTTP 410"), ("empty", "has no key chat"), ("nobody", "does not exist")] {
        let output = up.ostler(&["notify", "test", name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{name}: {said}");
        assert!(!said.contains("hidden") && !said.contains("/gone"), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sits_at_the_machine_is_shown_what_nobody_else_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let mut up = Up::prepare(&[(
        "all.yaml",
        &format!(
            "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: dead}}\nspec: {{engine: Ollama, \
             url: 'http://127.0.0.1:{}', models: [{{name: small}}], probe: {{periodSeconds: 1}}}}\n",
            free_port()
        ),
    )]);
    let (bin, shown) = (up.root.join("bin"), up.root.join("shown"));
    std::fs::create_dir_all(&bin).unwrap();
    let script = format!("#!/bin/sh\nfor text; do printf '%s\\n' \"$text\"; done >>'{}'\n", shown.display());
    std::fs::write(bin.join("notify-send"), script).unwrap();
    std::fs::set_permissions(bin.join("notify-send"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    up.run(&[("DISPLAY", ":0"), ("SSH_CONNECTION", ""), ("PATH", &path)]).await;
    until("a notification", &up, async || {
        std::fs::read_to_string(&shown).is_ok_and(|text| text.contains("Critical: LLMBackend default/dead is down"))
    })
    .await;
    let status = up.ostler_ok(&["status"]);
    assert!(status.contains("✗ LLMBackend default/dead is down") && status.contains("! nobody is told"), "{status}");
}

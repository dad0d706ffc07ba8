//! Who may ask.

use ostler::{engines::EngineKind, simulate::SimulateOptions};

use super::gate::{Gate, chat};
use crate::worker::shop::Shop;

#[tokio::test]
async fn pages_and_names_of_elsewhere_are_refused_and_apps_of_this_machine_are_not() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    let gate = Gate::start(shop).await;
    for (name, value, status) in [
        ("host", "rebound.example.com", 403),
        ("host", "localhost:1", 200),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "app://obsidian.md", 200),
        ("origin", "http://localhost:5173", 200),
        ("sec-fetch-site", "cross-site", 403),
        ("ostler-call-id", "1", 508),
        ("upgrade", "websocket", 426),
        ("content-encoding", "br", 415),
    ] {
        let before = server.log().inferences().count();
        let response =
            gate.post("/v1/chat/completions", &chat(false)).header(name, value).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), status, "{name}: {value}");
        assert_eq!(server.log().inferences().count() - before, usize::from(status == 200), "{name}: {value}");
        let allowed = response.headers().get("access-control-allow-origin");
        assert_eq!(allowed.is_some(), name == "origin" && status == 200, "{name}: {value}");
    }
    let preflight = gate.http.request(reqwest::Method::OPTIONS, format!("{}/v1/chat/completions", gate.url));
    let preflight =
        preflight.header("origin", "http://localhost:5173").header("access-control-request-headers", "authorization");
    let answer = preflight.send().await.expect("an answer");
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-headers"], "authorization");
    gate.end().await;
}

//! Models, their loading, the engine's own queue, pulls, and what is counted.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use jiff::Timestamp;
use ostler::engines::EngineKind;
use ostler::simulate::{SimulateOptions, SimulatedServer};
use serde_json::{Value, json};

use super::{Bench, LONG, SHORT, is_silent};

async fn expiry(bench: &Bench) -> Option<Timestamp> {
    bench.get_json("/api/ps").await["models"][0]["expires_at"].as_str().map(|at| at.parse().expect("a time"))
}

#[tokio::test]
async fn a_runner_stops_after_good_calls_and_listings_do_not_tell() {
    let bench = Bench::new(EngineKind::Ollama, &["runner-stopped:after-requests=2"]).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(bench.native_says(false, 1).await.0);
    }
    assert_eq!(seen, [200, 200, 500, 500]);
    assert_eq!(bench.openai_says(false, 1).await.0, 500);
    assert_eq!(bench.get_json("/api/ps").await["models"], json!([]));
    assert_eq!(bench.get("/api/tags").await.0, 200);
    let totals = bench.server.totals();
    assert_eq!((totals.inferences, totals.served, totals.failed, totals.unloads), (5, 2, 3, 1));
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_refused_in_the_engines_words() {
    for (kind, status, words) in [
        (EngineKind::Ollama, 500, "model requires more system memory"),
        (EngineKind::Mlx, 404, "[metal::malloc]"),
        (EngineKind::OpenAi, 400, "Failed to load model"),
    ] {
        let mut options = SimulateOptions::new(kind);
        options.models.push("other".to_owned());
        let bench = Bench::with(options).await;
        let mut other = bench.openai(false, 1);
        other["model"] = json!("other");
        assert_eq!(bench.post("/v1/chat/completions", &other).await.0, 200);
        bench.set(&[&format!("fail-load:model={}", bench.model)]);
        let (answered, text) = bench.openai_says(false, 1).await;
        assert!(answered == status && text.contains(words), "{kind}: {answered} {text}");
        assert_eq!(bench.post("/v1/chat/completions", &other).await.0, 200, "{kind}: what is loaded serves");
        bench.set(&[]);
        assert_eq!(bench.openai_says(false, 1).await.0, 200, "{kind}: it can be loaded again");
    }
}

#[tokio::test]
async fn a_load_goes_on_without_its_client_or_is_cancelled_with_it() {
    for (cancelled, loads) in [(false, 1), (true, 2)] {
        let fault = format!("slow-load:seconds=1,cancelled={cancelled}");
        let bench = Bench::new(EngineKind::Mlx, &[&fault]).await;
        assert!(is_silent(bench.request("/v1/chat/completions", &bench.openai(true, 1))).await);
        bench.until("the client to be gone", |totals| totals.in_flight == 0).await;
        assert_eq!(bench.openai_says(true, 1).await.0, 200);
        let totals = bench.server.totals();
        assert_eq!((totals.loads, totals.aborted, totals.served), (loads, 1, 1), "cancelled: {cancelled}");
    }
}

#[tokio::test]
async fn calls_beyond_the_engines_places_wait_inside_it_without_a_byte() {
    for kind in EngineKind::ALL {
        let mut options = SimulateOptions::new(kind);
        options.parallel = 1;
        let bench = Bench::with(options).await;
        bench.set(&["stall-after:tokens=1"]);
        let first = bench.request("/v1/chat/completions", &bench.openai(true, 3)).send().await.expect("a token");
        assert!(is_silent(bench.request("/v1/chat/completions", &bench.openai(true, 3))).await, "{kind}");
        bench.set(&[]);
        let waits = bench.openai_says(true, 1);
        drop(first);
        assert_eq!(waits.await.0, 200, "{kind}: a client that goes away frees its place");
        let totals = bench.server.totals();
        assert_eq!((totals.running_peak, totals.in_flight_peak >= 2), (1, true), "{kind}: {totals:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_is_not_noticed_by_mlx_unless_it_streams() {
    let leave = async |bench: &Bench, stream: bool| {
        let call = bench.request("/v1/chat/completions", &bench.openai(stream, 20));
        let _ = call.timeout(SHORT).send().await.expect("nothing in time, or a head").bytes().await;
    };
    let bench = Bench::new(EngineKind::Mlx, &["slow-tokens:tokens-per-second=20"]).await;
    let call = bench.request("/v1/chat/completions", &bench.openai(false, 20));
    assert!(is_silent(call).await);
    bench.until("it to be worked to the end", |totals| totals.abandoned == 1 && totals.in_flight == 0).await;
    assert_eq!(bench.server.totals().tokens, 20);
    leave(&bench, true).await;
    bench.until("the stream to be given up", |totals| totals.aborted == 1 && totals.in_flight == 0).await;
    bench.server.clear_log();
    bench.set(&["slow-tokens:tokens-per-second=20", "unnoticed-disconnect"]);
    leave(&bench, true).await;
    bench.until("the stream to be worked to the end", |totals| totals.abandoned == 1 && totals.in_flight == 0).await;
    assert_eq!(bench.server.totals().tokens, 20);
}

#[tokio::test]
async fn an_expiry_moves_while_no_call_on_a_fresh_model_has_ended_and_by_an_aborted_one() {
    let bench = Bench::new(EngineKind::Ollama, &["hang-inference"]).await;
    let call = bench.request("/api/chat", &bench.native(true, 5)).timeout(LONG);
    let hanging = tokio::spawn(call.send());
    crate::engines::eventually("the model to be loaded", || async { expiry(&bench).await.is_some() }).await;
    let first = expiry(&bench).await.expect("it is loaded");
    crate::engines::eventually("the expiry to move", || async { expiry(&bench).await.is_some_and(|at| at > first) })
        .await;
    hanging.abort();
    bench.until("the call to be aborted", |totals| totals.aborted == 1).await;
    let (before, after) = (expiry(&bench).await, expiry(&bench).await);
    assert_eq!(before, after, "a call has ended: it stands still");
    assert!(is_silent(bench.request("/api/chat", &bench.native(true, 5))).await);
    crate::engines::eventually("an aborted call to move it", || async { expiry(&bench).await > after }).await;
}

#[tokio::test]
async fn an_expiry_is_over_while_inferences_hang() {
    let bench = Bench::new(EngineKind::Ollama, &["hang-inference", "expiry-in-past:seconds=30"]).await;
    let at = expiry(&bench).await.expect("a model is shown");
    let ago = Timestamp::now().duration_since(at).as_secs();
    assert!((29..=60).contains(&ago), "{ago}");
    assert!(is_silent(bench.request("/api/chat", &bench.native(true, 5))).await);
}

#[tokio::test]
async fn calls_of_others_take_the_places_and_move_the_expiry() {
    let bench = Bench::new(EngineKind::Ollama, &["foreign-calls:count=3"]).await;
    bench.until("some to end", |totals| totals.foreign >= 2).await;
    let before = expiry(&bench).await;
    crate::engines::eventually("the expiry to move", || async { expiry(&bench).await > before }).await;
    let totals = bench.server.totals();
    assert_eq!((totals.running_peak, totals.inferences), (1, 0));
    assert_eq!(bench.native_says(true, 1).await.0, 200, "its turn comes");
    bench.set(&["hang-inference", "foreign-calls:count=3"]);
    assert!(is_silent(bench.request("/api/chat", &bench.native(true, 5))).await);
    bench.set(&[]);
    bench.until("they to be gone", |totals| totals.running == 0).await;
}

#[tokio::test]
async fn a_hang_with_calls_open_ends_when_they_are_gone_and_the_model_is_unloaded() {
    let bench = Bench::new(EngineKind::Ollama, &["slow-tokens:tokens-per-second=20"]).await;
    let call = bench.request("/api/chat", &bench.native(true, 1000)).send().await.expect("a token");
    bench.set(&["hang-inference"]);
    assert_eq!(bench.get("/api/ps").await.0, 200);
    let unload = json!({"model": bench.model, "keep_alive": 0});
    assert_eq!(bench.post("/api/generate", &unload).await.0, 200);
    assert_eq!(bench.server.totals().unloads, 0, "it waits for the open call");
    drop(call);
    bench.until("the unload", |totals| totals.unloads == 1).await;
    assert_eq!(bench.native_says(false, 1).await.0, 200);
    let totals = bench.server.totals();
    assert_eq!((totals.inferences, totals.canaries, totals.aborted, totals.served), (2, 1, 1, 1));
}

#[tokio::test]
async fn a_model_on_the_cpu_shows_it() {
    let bench = Bench::new(EngineKind::Ollama, &[]).await;
    bench.native_says(false, 1).await;
    let model = bench.get_json("/api/ps").await["models"][0].clone();
    assert_eq!(model["size_vram"], model["size"]);
    bench.set(&["cpu-only"]);
    assert_eq!(bench.get_json("/api/ps").await["models"][0]["size_vram"], json!(0));
}

#[tokio::test]
async fn a_pull_repeats_its_last_line_or_is_slow_and_steady() {
    let bench = Bench::new(EngineKind::Ollama, &["stuck-pull"]).await;
    let lines = async |most: usize| {
        let answer = bench.request("/api/pull", &json!({"model": "new"})).send().await.expect("it streams");
        let mut chunks = answer.bytes_stream();
        let mut text = String::new();
        while text.lines().count() < most {
            let chunk = tokio::time::timeout(LONG, chunks.next()).await.expect("a line in time");
            text.push_str(&String::from_utf8_lossy(&chunk.expect("more").expect("no error")));
        }
        let records: Vec<Value> = text.lines().take(most).map(|line| serde_json::from_str(line).expect(line)).collect();
        records
    };
    let stuck = lines(4).await;
    assert_eq!((&stuck[1], &stuck[2]), (&stuck[2], &stuck[3]));
    assert_eq!(stuck[1]["completed"], json!(990_000_000));
    bench.set(&["slow-pull:seconds=20"]);
    let slow = lines(3).await;
    assert_eq!((&slow[1]["completed"], &slow[2]["completed"]), (&json!(50_000_000), &json!(100_000_000)));
    bench.set(&["fail-pull"]);
    let (_, text) = bench.post("/api/pull", &json!({"model": "new"})).await;
    assert!(text.contains("pull model manifest: file does not exist"), "{text}");
}

#[tokio::test]
async fn totals_are_told_over_http_and_most_calls_at_a_time() {
    let bench = Bench::new(EngineKind::OpenAi, &["slow-tokens:tokens-per-second=20"]).await;
    let calls = join_all((0..3).map(|_| bench.openai_says(true, 5))).await;
    assert!(calls.iter().all(|(status, _)| *status == 200));
    let totals = bench.get_json("/simulate/totals").await;
    let numbers = ["starts", "inferences", "served", "in_flight", "in_flight_peak", "running_peak", "tokens"];
    assert_eq!(numbers.map(|key| totals[key].as_u64()), [1, 3, 3, 0, 3, 3, 15].map(Some), "{totals}");
    assert_eq!(bench.get_json("/simulate/log").await["totals"], totals);
}

#[tokio::test]
async fn a_server_stops_with_calls_of_others_open() {
    let mut options = SimulateOptions::new(EngineKind::Ollama);
    options.faults = vec!["foreign-calls:count=2".parse().expect("a fault")];
    let server = SimulatedServer::start(options).await.expect("start");
    tokio::time::timeout(Duration::from_secs(10), server.stop()).await.expect("it stops");
}

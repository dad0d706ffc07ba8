//! Whole answers: in place of the real one, or none at all.

use ostler::engines::EngineKind;
use serde_json::json;

use super::{Bench, is_silent};

#[tokio::test]
async fn a_reply_of_a_real_server_comes_in_place_of_the_answer() {
    let cases = [
        ("loading-model", 503, "Loading model"),
        ("load-failed", 400, "Failed to load model"),
        ("needs-more-memory", 500, "model requires more system memory ("),
        ("runner-stopped", 500, "model runner has unexpectedly stopped"),
        ("metal-resource-limit", 404, "[metal::malloc] Resource limit"),
        ("bad-roles", 404, "Conversation roles must alternate"),
        ("length-required", 411, "Content-Length"),
        ("max-tokens-reached", 400, "Could not finish the message because max_tokens"),
        ("minimum-tokens", 400, "Expected a value >= 16"),
        ("insufficient-credits", 402, "Insufficient credits"),
        ("method-not-allowed", 405, "Method Not Allowed"),
        ("not-implemented", 501, "does not support chat completions"),
        ("context-length", 400, "maximum context length"),
    ];
    assert_eq!(cases.len(), <ostler::simulate::Like as strum::VariantArray>::VARIANTS.len());
    let bench = Bench::new(EngineKind::OpenAi, &[]).await;
    for (name, status, words) in cases {
        bench.set(&[&format!("reply:like={name}")]);
        let (answered, text) = bench.openai_says(false, 1).await;
        assert!(answered == status && text.contains(words), "{name}: {answered} {text}");
        let everywhere = name == "loading-model";
        assert_eq!(bench.get("/v1/models").await.0 == 503, everywhere, "{name}");
    }
    let totals = bench.server.totals();
    assert_eq!((totals.failed, totals.served, totals.canaries), (13, 0, 13));
}

#[tokio::test]
async fn a_reply_goes_to_the_requests_that_match() {
    let bench = Bench::new(EngineKind::Mlx, &["reply:like=minimum-tokens,below-tokens=16"]).await;
    assert_eq!(bench.openai_says(false, 1).await.0, 400);
    assert_eq!(bench.openai_says(false, 16).await.0, 200);
    bench.set(&["reply:like=bad-roles,contains=neigh"]);
    assert_eq!(bench.openai_says(false, 1).await.0, 200);
    let mut other = bench.openai(false, 1);
    other["messages"][0]["content"] = json!("a neigh");
    assert_eq!(bench.post("/v1/chat/completions", &other).await.0, 404);
    bench.set(&["reply:like=metal-resource-limit,model=another"]);
    assert_eq!(bench.openai_says(false, 1).await.0, 200);
    bench.set(&[&format!("reply:like=metal-resource-limit,model={}", bench.model)]);
    assert_eq!(bench.openai_says(false, 1).await.0, 404);
}

#[tokio::test]
async fn a_fault_begins_and_ends_with_a_count_of_calls() {
    let bench = Bench::new(EngineKind::OpenAi, &["status:code=500,after-requests=1,for-requests=2"]).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(bench.openai_says(false, 1).await.0);
    }
    assert_eq!(seen, [200, 500, 500, 200]);
    assert_eq!(bench.server.faults(), []);
}

#[tokio::test]
async fn listings_are_blocked_while_an_inference_streams() {
    let bench = Bench::new(EngineKind::Mlx, &["slow-tokens:tokens-per-second=20"]).await;
    for fault in ["hang:path=listings,while-in-flight=1", "status:code=500,path=listings,while-in-flight=1"] {
        bench.set(&["slow-tokens:tokens-per-second=20", fault]);
        assert_eq!(bench.get("/v1/models").await.0, 200, "{fault}: nothing is open");
        let call = bench.request("/v1/chat/completions", &bench.openai(true, 1000)).send().await.expect("it streams");
        if fault.starts_with("hang") {
            assert!(is_silent(bench.client.get(format!("{}/health", bench.server.url()))).await);
        } else {
            assert_eq!(bench.get("/health").await.0, 500);
        }
        assert_eq!(bench.openai_says(false, 1).await.0, 200, "{fault}: other inferences go on");
        drop(call);
        crate::engines::eventually("the listing to answer", || async { bench.get("/v1/models").await.0 == 200 }).await;
    }
}

#[tokio::test]
async fn redirects_lead_to_a_login_page_in_a_loop_or_to_another_port() {
    let bench = Bench::new(EngineKind::OpenAi, &["redirect:to=login"]).await;
    let location = async |path: &str| {
        let url = format!("{}{path}", bench.server.url());
        let answer = bench.client.get(url).send().await.expect("an answer");
        let to = answer.headers().get("location").map(|to| to.to_str().expect("text").to_owned());
        (answer.status().as_u16(), to.unwrap_or_default())
    };
    assert_eq!(location("/v1/models").await, (302, "/login".into()));
    let (status, page) = bench.get("/login").await;
    assert!(status == 200 && page.contains("<html>"), "{page}");
    bench.set(&["redirect:to=loop"]);
    assert_eq!(location("/v1/models").await, (302, "/v1/models".into()));
    bench.set(&["redirect:to=http://127.0.0.1:9,code=307"]);
    assert_eq!(location("/v1/models").await, (307, "http://127.0.0.1:9/v1/models".into()));
}

#[tokio::test]
async fn a_server_of_embeddings_alone_refuses_chats_and_lists() {
    let bench = Bench::new(EngineKind::OpenAi, &[]).await;
    for (fault, status) in [
        ("embeddings-only", 501),
        ("embeddings-only:code=400", 400),
        ("embeddings-only:code=404", 404),
        ("embeddings-only:code=405", 405),
    ] {
        bench.set(&[fault]);
        assert_eq!(bench.openai_says(false, 1).await.0, status);
        let embeddings = json!({"model": bench.model, "input": "hay"});
        assert_eq!(bench.post("/v1/embeddings", &embeddings).await.0, 200);
        assert_eq!(bench.get("/v1/models").await.0, 200);
    }
}

#[tokio::test]
async fn a_long_prompt_is_cut_without_a_word_or_refused() {
    let bench = Bench::new(EngineKind::Ollama, &["context:tokens=3"]).await;
    let chat = |truncate: bool| {
        let messages = json!([{"role": "user", "content": "one two three four five"}]);
        json!({"model": bench.model, "stream": false, "truncate": truncate, "messages": messages})
    };
    let (status, text) = bench.post("/api/chat", &chat(true)).await;
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &answer["prompt_eval_count"]), (200, &json!(3)));
    let embed = |truncate: bool| json!({"model": bench.model, "input": ["a b c d", "e"], "truncate": truncate});
    let (_, text) = bench.post("/api/embed", &embed(true)).await;
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["prompt_eval_count"], json!(4));
    for (path, body) in [("/api/chat", chat(false)), ("/api/embed", embed(false))] {
        let (status, text) = bench.post(path, &body).await;
        assert!(status == 400 && text.contains("the input length exceeds the context length"), "{path}: {text}");
    }
    // num_ctx sets the same, where no fault does.
    bench.set(&[]);
    let mut asked = chat(false);
    asked["options"] = json!({"num_ctx": 4});
    assert_eq!(bench.post("/api/chat", &asked).await.0, 400);
    let openai = Bench::new(EngineKind::OpenAi, &["context:tokens=1"]).await;
    let (status, text) = openai.openai_says(false, 1).await;
    assert!(status == 400 && text.contains("maximum context length is 1 tokens"), "{text}");
}

#[tokio::test]
async fn mlx_refuses_chunked_requests_and_stops_at_512_tokens() {
    let bench = Bench::new(EngineKind::Mlx, &["long-answer:tokens=100000"]).await;
    let url = format!("{}/v1/chat/completions", bench.server.url());
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>(bench.openai(false, 1).to_string())]);
    let body = reqwest::Body::wrap_stream(chunks);
    let answer = bench.client.post(&url).body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 411);
    let mut chat = bench.openai(false, 1);
    chat.as_object_mut().expect("an object").remove("max_tokens");
    let (_, text) = bench.post("/v1/chat/completions", &chat).await;
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["usage"]["completion_tokens"], json!(512));
    assert_eq!(answer["choices"][0]["finish_reason"], json!("length"));
}

#[tokio::test]
async fn a_cloud_model_is_listed_with_its_host_and_loads_nothing() {
    let bench = Bench::new(EngineKind::Ollama, &["cloud-model"]).await;
    let tags = bench.get_json("/api/tags").await;
    let cloud = &tags["models"][1];
    assert_eq!((&cloud["name"], &cloud["remote_model"]), (&json!("gpt-oss:120b-cloud"), &json!("gpt-oss:120b")));
    assert_eq!(cloud["remote_host"], json!("https://ollama.com:443"));
    assert!(tags["models"][0].get("remote_host").is_none());
    let mut chat = bench.native(false, 1);
    chat["model"] = cloud["name"].clone();
    assert_eq!(bench.post("/api/chat", &chat).await.0, 200);
    assert_eq!(bench.get_json("/api/ps").await["models"], json!([]));
}

#[tokio::test]
async fn the_same_seed_calls_and_faults_give_the_same_answers() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let bench = Bench::new(EngineKind::Ollama, &["status:code=500,after-requests=2,for-requests=1"]).await;
        let mut seen = Vec::new();
        for tokens in [3, 5, 7, 9] {
            let (status, text) = bench.native_says(false, tokens).await;
            let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            seen.push((status, answer["message"].clone(), answer["error"].clone()));
        }
        runs.push(seen);
    }
    assert_eq!(runs[0], runs[1]);
}

//! What the three handlers do with a task.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use jiff::Timestamp;
use ostler::{
    engines::EngineKind,
    host::{SigningSecret, sign},
    simulate::SimulateOptions,
    store::StoreError,
    tasks::{Attempt, AttemptClass, Completion, Payload, TaskState, Verdict},
    worker::Timings,
};
use serde_json::{Value, json};

use super::{
    eventually,
    shop::{Given, NS, Shop, new_task},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_expert_and_a_task_say_together_what_the_model_is_asked() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 2, 10).await;
    let parameters = json!({"temperaturePercent": 70, "topPPercent": 90, "seed": 4, "stop": ["END"], "maxTokens": 40, "keepAliveSeconds": 77, "timeoutSeconds": 20});
    let expert = json!({"model": "small", "systemPrompt": "You are Igor.", "parameters": parameters});
    shop.expert_with("igor", expert).await;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let payload = Payload {
        prompt: Some("how many?".into()),
        schema: Some(schema.clone()),
        max_tokens: Some(30),
        ..Payload::default()
    };
    let ids = shop.give_these(&[new_task(payload)], &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    shop.until_completed(&ids).await;
    worker.end().await;
    assert_eq!(shop.task(ids[0]).await.result, Some(json!({"json": {"n": 1}})));
    let log = server.log();
    let call = log.inferences().last().expect("a call");
    assert_eq!(call.prompt.as_deref(), Some("how many?"));
    assert_eq!((call.max_tokens, call.keep_alive.clone()), (Some(30), Some(json!("77000ms"))));
    let expected = json!({"temperature": 0.7, "top_p": 0.9, "seed": 4, "stop": ["END"], "schema": schema});
    assert_eq!(call.options, Some(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn texts_become_vectors_and_mlx_says_that_it_cant() {
    for (kind, can) in [(EngineKind::Ollama, true), (EngineKind::OpenAi, true), (EngineKind::Mlx, false)] {
        let shop = Shop::sqlite().await;
        let _server = shop.simulated("backend", SimulateOptions::new(kind), 2, 10).await;
        shop.expert_with("vera", json!({"model": "small", "handler": "Embed"})).await;
        let payload = Payload { input: Some(vec!["hay".into(), "oats".into()]), ..Payload::default() };
        let id = shop.give_these(&[new_task(payload)], &["vera"], Some("small")).await[0];
        let worker = shop.worker().await;
        eventually("its end", || async { shop.task(id).await.state.is_terminal() }).await;
        worker.end().await;
        let task = shop.task(id).await;
        if can {
            let vectors = task.result.expect("a result")["vectors"].as_array().cloned().expect("vectors");
            assert!(vectors.len() == 2 && vectors[0].as_array().is_some_and(|v| !v.is_empty()), "{kind}");
        } else {
            assert_eq!(task.state, TaskState::Failed);
            assert!(task.reason.is_some_and(|reason| reason.contains("can't do this")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_its_handler_cant_do_fails_with_the_reason() {
    let shop = Shop::sqlite().await;
    let _server = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 2, 10).await;
    shop.expert("igor", "small").await;
    let payload = Payload { data: Some(json!({"x": 1})), ..Payload::default() };
    let id = shop.give_these(&[new_task(payload)], &["igor"], Some("small")).await[0];
    let worker = shop.worker().await;
    eventually("its end", || async { shop.task(id).await.state == TaskState::Failed }).await;
    worker.end().await;
    assert!(shop.task(id).await.reason.is_some_and(|reason| reason.contains("neither a prompt nor messages")));
}

/// Headers and body of each request.
type Requests = Arc<Mutex<Vec<(HeaderMap, Vec<u8>)>>>;

/// Somebody's agent: what it was sent, and what it answers by the task's domain.
#[derive(Clone, Default)]
struct Agent {
    seen: Requests,
}

impl Agent {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let url = format!("http://{}/tasks", listener.local_addr().expect("an address"));
        let router = Router::new().route("/tasks", post(receive)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn bodies(&self) -> Vec<Value> {
        let seen = self.seen.lock().expect("no panic");
        seen.iter().map(|(_, body)| serde_json::from_slice(body).expect("JSON")).collect()
    }
}

async fn receive(State(agent): State<Agent>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    agent.seen.lock().expect("no panic").push((headers, body.to_vec()));
    let task: Value = serde_json::from_slice(&body).expect("JSON");
    let times = agent.bodies().iter().filter(|seen| seen["task"] == task["task"]).count();
    match task["domain"].as_str() {
        Some("now") => (StatusCode::OK, json!({"done": task["task"]}).to_string()),
        Some("later") => (StatusCode::ACCEPTED, String::new()),
        Some("busy") if times == 1 => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        Some("busy") => (StatusCode::OK, "{}".to_owned()),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, json!({"error": "no such domain"}).to_string()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_webhooks_agent_gets_the_task_signed_and_may_answer_now_or_later() {
    let shop = Shop::sqlite().await;
    let agent = Agent::default();
    let url = agent.start().await;
    let secret = SigningSecret::generate();
    let keys: BTreeMap<String, Vec<u8>> = [("signingSecret".to_owned(), secret.expose().into_bytes())].into();
    let secrets = Arc::new(Given([("hook".to_owned(), keys)].into()));
    let spec = json!({"handler": "Webhook", "webhook": {"url": url, "secretRef": {"name": "hook"}}});
    shop.expert_with("hook", spec).await;
    let of = |domain: &str| {
        let mut task = new_task(Payload { data: Some(json!({"for": domain})), ..Payload::default() });
        task.domain = domain.to_owned();
        task
    };
    let ids = shop.give_these(&[of("now"), of("later"), of("never"), of("busy")], &["hook"], None).await;
    let worker = shop.worker_with(Timings::default(), secrets).await;
    let [now, later, never, busy] = ids.as_slice() else { panic!("four") };
    eventually("the ends", || async {
        let ended = [shop.task(*now).await, shop.task(*never).await, shop.task(*busy).await];
        ended.iter().all(|task| task.state.is_terminal())
    })
    .await;
    assert_eq!(shop.task(*now).await.result, Some(json!({"done": now})));
    let refused = shop.task(*never).await;
    assert_eq!(refused.state, TaskState::Failed);
    assert!(refused.reason.is_some_and(|reason| reason.contains("no such domain")));
    let busy = shop.task(*busy).await;
    assert_eq!(
        (busy.state, busy.attempts_used <= 1, busy.free_requeues >= 1),
        (TaskState::Completed, true, true),
        "{busy:?}"
    );
    each_is_signed_and_has_a_key_of_its_own(&agent, &secret);

    // The agent keeps it after the worker has gone.
    worker.end().await;
    let open = shop.task(*later).await;
    assert_eq!(open.state, TaskState::InProgress);
    shop.store().hand_over(*later, open.epoch, Duration::from_secs(60)).await.expect("a heartbeat");
    let stale = shop.store().hand_over(*later, open.epoch - 1, Duration::from_secs(60)).await;
    assert!(matches!(stale, Err(StoreError::Fenced(_))), "{stale:?}");
    let attempt = Attempt {
        expert: "hook".into(),
        backend: None,
        model: None,
        holder: format!("task/{later}"),
        started_at: open.state_since,
        ended_at: Timestamp::now(),
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class: AttemptClass::Ok,
        error: None,
    };
    let verdict = Verdict::Completed { result: json!({"late": true}) };
    let end = Completion { task: *later, epoch: open.epoch, verdict, attempt };
    assert_eq!(shop.store().complete(&[end.clone(), end]).await, Ok(vec![true, false]));
    assert_eq!(shop.task(*later).await.namespace, NS);
}

fn each_is_signed_and_has_a_key_of_its_own(agent: &Agent, secret: &SigningSecret) {
    let seen = agent.seen.lock().expect("no panic");
    let mut keys = Vec::new();
    for (headers, body) in seen.iter() {
        let header =
            |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let given = sign::Signature {
            id: header(sign::HEADER_ID),
            timestamp: header(sign::HEADER_TIMESTAMP),
            signature: header(sign::HEADER_SIGNATURE),
        };
        assert_eq!(sign::verify(secret, &given, body, Timestamp::now()), Ok(()));
        let task: Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(header("idempotency-key"), format!("{}/{}", task["task"], task["epoch"]));
        let token = task["claimToken"].as_str().expect("a token");
        assert!(sign::verify_claim(secret, token));
        assert_eq!(sign::named_claim(token), task["task"].as_i64().zip(task["epoch"].as_i64()));
        keys.push(header("idempotency-key"));
    }
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all, "{keys:?}");
}

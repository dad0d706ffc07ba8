//! What each fault looks like through the client: the words that verdicts are made of.

use std::time::Duration;

use ostler::engines::{EngineKind, Failure, ProbeVerdict, Secret};
use ostler::simulate::{ActiveFault, CallEnd, Fault, SimulateOptions, SimulatedServer, When};
use serde_json::{Value, json};

use super::{LONG, Subject, eventually};

const SHORT: Duration = Duration::from_millis(300);

async fn simulated(kind: EngineKind) -> (SimulatedServer, Subject) {
    let server = SimulatedServer::start(SimulateOptions::new(kind)).await.expect("start");
    let subject = Subject::new(kind, server.url());
    (server, subject)
}

fn fault(text: &str) -> ActiveFault {
    text.parse().expect(text)
}

async fn probe(subject: &Subject) -> ProbeVerdict {
    subject.engine.probe(&subject.at, &[], SHORT).await
}

/// The failure of a canary of 300 ms.
async fn canary(subject: &Subject) -> Option<Failure> {
    let mut request = subject.request(SimulateOptions::usual_model(subject.engine.kind()), 1);
    (request.first_byte_timeout, request.timeout) = (SHORT, SHORT);
    subject.engine.infer(&subject.at, &request, &mut |_| {}).await.err().map(|error| error.failure)
}

#[tokio::test]
async fn a_probe_names_each_fault() {
    let listed = |kind| ProbeVerdict::Models(vec![SimulateOptions::usual_model(kind).to_owned()].into());
    let undecided = |bad_body| ProbeVerdict::NeedsInference { bad_body };
    let cases = [
        ("hang-inference", [listed(EngineKind::Ollama), listed(EngineKind::Mlx), listed(EngineKind::OpenAi)]),
        ("hang", [ProbeVerdict::Timeout, ProbeVerdict::Timeout, ProbeVerdict::Timeout]),
        ("refuse", [ProbeVerdict::Refused, ProbeVerdict::Refused, ProbeVerdict::Refused]),
        ("reset", [ProbeVerdict::Reset, ProbeVerdict::Reset, ProbeVerdict::Reset]),
        ("latency:millis=5000", [ProbeVerdict::Timeout, ProbeVerdict::Timeout, ProbeVerdict::Timeout]),
        ("status:code=404", [undecided(false), undecided(false), undecided(false)]),
        ("status:code=404,path=/v1/models", [listed(EngineKind::Ollama), undecided(false), undecided(false)]),
        ("empty-body:path=/v1/models", [listed(EngineKind::Ollama), undecided(true), undecided(true)]),
        (
            "no-models",
            [ProbeVerdict::Models(Vec::new().into()), undecided(false), ProbeVerdict::Models(Vec::new().into())],
        ),
    ];
    for (place, kind) in EngineKind::ALL.into_iter().enumerate() {
        let (server, subject) = simulated(kind).await;
        for (text, verdicts) in &cases {
            server.set_faults([fault(text)]);
            let expected = &verdicts[place];
            eventually(&format!("{kind} with {text}: {expected:?}"), || async { probe(&subject).await == *expected })
                .await;
        }
        server.set_faults([fault("garbage-body")]);
        let no_api = async || matches!(probe(&subject).await, ProbeVerdict::Misconfigured(_));
        eventually(&format!("{kind}'s page to be told from an API"), no_api).await;
        server.clear_faults();
        eventually("the faults to be over", || async { probe(&subject).await == listed(kind) }).await;
    }
}

#[tokio::test]
async fn a_status_is_named_by_what_it_means() {
    let retry_after = Some(Duration::from_secs(7));
    let cases = [
        ("status:code=401", ProbeVerdict::Unauthorized { status: 401 }, Failure::Unauthorized { status: 401 }),
        (
            "status:code=429,retry-after-seconds=7",
            ProbeVerdict::RateLimited { retry_after },
            Failure::RateLimited { retry_after },
        ),
        ("status:code=503", ProbeVerdict::Busy, Failure::Busy { detail: "simulated 503".into() }),
        (
            "status:code=500",
            ProbeVerdict::ServerError { status: 500 },
            Failure::ServerError { status: 500, detail: "simulated 500".into() },
        ),
    ];
    for kind in EngineKind::ALL {
        let (server, subject) = simulated(kind).await;
        for (text, verdict, failure) in &cases {
            server.set_faults([fault(text)]);
            assert_eq!(
                (probe(&subject).await, canary(&subject).await),
                (verdict.clone(), Some(failure.clone())),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn an_inference_names_each_fault() {
    let is_timeout = |f: &Failure| matches!(f, Failure::Timeout { tokens_seen: 0, .. });
    type Check = fn(&Failure) -> bool;
    let cases: [(&str, Check); 6] = [
        ("hang-inference", is_timeout),
        ("hang", is_timeout),
        ("reset", |f| *f == Failure::Reset { tokens_seen: 0 }),
        ("empty-body", |f| matches!(f, Failure::BadBody { .. })),
        ("garbage-body", |f| matches!(f, Failure::Misconfigured(_))),
        ("no-models", |f| matches!(f, Failure::ModelMissing { .. })),
    ];
    for kind in EngineKind::ALL {
        let (server, subject) = simulated(kind).await;
        for (text, is_named) in cases {
            server.set_faults([fault(text)]);
            let failure = canary(&subject).await.expect(text);
            assert!(is_named(&failure), "{kind} with {text}: {failure}");
        }
        server.clear_faults();
        eventually("it serves", || async { canary(&subject).await.is_none() }).await;
    }
}

#[tokio::test]
async fn tokens_seen_tell_a_stall_and_a_cut_from_a_server_that_never_began() {
    for kind in EngineKind::ALL {
        let (server, subject) = simulated(kind).await;
        let model = SimulateOptions::usual_model(kind);
        server.set_faults([fault("stall-after:tokens=3")]);
        let mut request = subject.request(model, 10);
        request.timeout = SHORT;
        let error = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("it stalls");
        assert!(matches!(error.failure, Failure::Timeout { tokens_seen: 3, .. }), "{kind}: {error}");
        eventually("the server to see that the caller went", || async { server.log().in_flight == 0 }).await;
        assert_eq!(server.log().inferences().last().map(|call| call.end), Some(CallEnd::Aborted));

        server.set_faults([fault("reset-after:tokens=2")]);
        let failure = subject.infer(model, 10).await.expect_err("it is cut").failure;
        assert!(matches!(failure, Failure::Reset { tokens_seen: 0..=2 }), "{kind}: {failure}");
    }
}

#[tokio::test]
async fn a_refusal_for_a_while_ends_on_the_same_port() {
    let (server, subject) = simulated(EngineKind::Ollama).await;
    server.add_fault(Fault::Refuse {}.lasting(SHORT));
    eventually("it refuses", || async { probe(&subject).await == ProbeVerdict::Refused }).await;
    eventually("it is back", || async { matches!(probe(&subject).await, ProbeVerdict::Models(_)) }).await;
    assert_eq!(server.faults(), []);
}

#[tokio::test]
async fn an_mlx_that_is_asked_too_much_at_once_crashes() {
    let (server, subject) = simulated(EngineKind::Mlx).await;
    server.set_faults([
        Fault::Crash { exit_code: 134 }.when(When { above_in_flight: Some(14), ..When::default() }),
        fault("slow-tokens:tokens-per-second=10"),
    ]);
    let call = || subject.infer(SimulateOptions::usual_model(EngineKind::Mlx), 2);
    let fourteen = futures::future::join_all((0..14).map(|_| call())).await;
    assert!(fourteen.iter().all(Result::is_ok));
    assert_eq!((server.crashed(), server.log().in_flight_peak), (None, 14));
    let fifteen = futures::future::join_all((0..15).map(|_| call())).await;
    assert!(fifteen.iter().any(Result::is_err));
    assert_eq!(server.crash().await, 134);
    eventually("the port is closed", || async { probe(&subject).await == ProbeVerdict::Refused }).await;
}

#[tokio::test]
async fn a_crash_comes_after_so_many_requests_or_seconds_or_at_once() {
    let (server, subject) = simulated(EngineKind::OpenAi).await;
    canary(&subject).await;
    server.add_fault(Fault::OutOfMemory {}.when(When { after_requests: Some(1), ..When::default() }));
    assert_eq!(canary(&subject).await, None);
    assert!(canary(&subject).await.is_some());
    assert_eq!(server.crash().await, 137);
    for text in ["crash:exit-code=3", "crash:exit-code=3,after-seconds=0.05"] {
        let (server, _) = simulated(EngineKind::OpenAi).await;
        server.add_fault(fault(text));
        assert_eq!(server.crash().await, 3, "{text}");
    }
}

#[tokio::test]
async fn a_key_is_asked_for_where_there_is_one() {
    let mut options = SimulateOptions::new(EngineKind::OpenAi);
    options.api_key = Some(Secret::new("right"));
    let server = SimulatedServer::start(options).await.expect("start");
    for (bearer, fine) in [(None, false), (Some("wrong"), false), (Some("right"), true)] {
        let subject = Subject::with_bearer(EngineKind::OpenAi, server.url(), bearer.map(Secret::new));
        let verdict = probe(&subject).await;
        let expected = Some(Failure::Unauthorized { status: 401 }).filter(|_| !fine);
        assert_eq!(matches!(verdict, ProbeVerdict::Models(_)), fine, "{bearer:?}: {verdict:?}");
        assert_eq!(canary(&subject).await, expected, "{bearer:?}");
    }
}

#[tokio::test]
async fn faults_and_log_are_reached_over_http_also_while_the_port_is_closed() {
    let mut options = SimulateOptions::new(EngineKind::Ollama);
    options.control_listen = Some(([127, 0, 0, 1], 0).into());
    let server = SimulatedServer::start(options).await.expect("start");
    let subject = Subject::new(EngineKind::Ollama, server.url());
    let client = reqwest::Client::new();
    let control = format!("http://{}/simulate", server.control_address().expect("it was asked for"));
    let (faults, log) = (format!("{control}/faults"), format!("{control}/log"));

    let body = json!(["refuse", {"type": "latency", "millis": 1}]);
    let set: Value = client.put(&faults).json(&body).send().await.expect("put").json().await.expect("the faults");
    assert_eq!(set, json!([{"type": "refuse"}, {"type": "latency", "millis": 1}]));
    eventually("it refuses", || async { probe(&subject).await == ProbeVerdict::Refused }).await;
    let wrong = client.put(&faults).body("[\"explode\"]").send().await.expect("put");
    assert_eq!(wrong.status(), 400);
    assert_eq!(server.faults().len(), 2, "a refused list changes nothing");
    assert_eq!(client.delete(&faults).send().await.expect("delete").status(), 204);
    eventually("it is back", || async { canary(&subject).await.is_none() }).await;

    // The engine's own port serves them as well.
    let log_there: Value = client.get(&log).send().await.expect("get").json().await.expect("the log");
    let own = format!("{}/simulate/log", server.url());
    let log_here: Value = client.get(own).send().await.expect("get").json().await.expect("the log");
    assert_eq!(log_here, log_there);
    assert_eq!(log_here["loads"], json!({"llama3.2:3b": 1}));
    client.delete(&log).send().await.expect("delete");
    assert_eq!(server.log().calls.len(), 0);
}

#[tokio::test]
async fn a_stopped_server_frees_its_port_at_once() {
    let (server, _) = simulated(EngineKind::Ollama).await;
    let mut options = SimulateOptions::new(EngineKind::Ollama);
    options.listen = server.address();
    SimulatedServer::start(options.clone()).await.expect_err("the port is taken");
    server.stop().await;
    let again = SimulatedServer::start(options).await.expect("the port is free");
    let subject = Subject::new(EngineKind::Ollama, again.url());
    assert!(matches!(subject.engine.probe(&subject.at, &[], LONG).await, ProbeVerdict::Models(_)));
}

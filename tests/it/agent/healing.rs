//! The agent's own loop: heals without a controller, leaves to one that cares, gives up, and says what it would do.

use std::time::{Duration, Instant};

use ostler::host::{Action, CareRequest, OperationRequest, Phase, ServiceState, sign};
use serde_json::json;

use crate::real::free_port;

use super::bench::{Bench, engine, eventually, kill_9, sleeper, with};

#[tokio::test]
async fn what_is_down_is_started_at_once_and_healed_when_it_is_killed() {
    let bench = Bench::new();
    let agent = bench.start(json!([engine("llm", free_port())])).await;
    let up = agent.until("llm", "up", |s| s.state == ServiceState::Running && s.instance.is_some()).await;
    assert_eq!(up.self_starts.count, 0, "nothing had failed");
    let first = up.instance.unwrap();
    kill_9(first.pid as i32);
    let healed = agent
        .until("llm", "healed", |s| {
            s.state == ServiceState::Running && s.instance.as_ref().is_some_and(|i| *i != first)
        })
        .await;
    assert_eq!(healed.self_starts.count, 1);
    let exit = healed.last_exit.unwrap();
    assert_eq!((exit.signal, exit.unknown, exit.requested, exit.out_of_memory), (Some(9), false, false, false));
    assert!(healed.port_owner.is_some_and(|o| o.pid == healed.instance.map(|i| i.pid)));
    assert!(healed.cpu_seconds.is_some());
    assert_eq!(bench.starts("llm.starts").len(), 2);
    agent.end().await;
}

#[tokio::test]
async fn a_service_that_hangs_is_restarted() {
    let bench = Bench::new();
    let port = free_port();
    let mut service = with(engine("llm", port), json!({"stopGraceSeconds": 2}));
    service["check"]["timeoutSeconds"] = json!(1);
    let agent = bench.start(json!([service])).await;
    let first = agent.until("llm", "up", |s| s.last_check.as_ref().is_some_and(|c| c.ok)).await.instance;
    let hang = reqwest::Client::new().put(format!("http://127.0.0.1:{port}/simulate/faults")).json(&json!(["hang"]));
    assert!(hang.send().await.unwrap().status().is_success());
    agent.until("llm", "restarted", |s| s.instance != first && s.last_check.as_ref().is_some_and(|c| c.ok)).await;
    agent.end().await;
}

#[tokio::test]
async fn a_controller_that_cares_is_left_to_act_until_its_care_is_over() {
    let bench = Bench::new();
    let agent = bench.start(json!([sleeper("one")])).await;
    let first = agent.until("one", "up", |s| s.instance.is_some()).await.instance.unwrap();
    let care = CareRequest { services: vec!["one".into()], seconds: 4 };
    agent.client.care(&care, agent.caller).await.unwrap();
    let killed = Instant::now();
    kill_9(first.pid as i32);
    agent.until("one", "healed", |s| s.instance.as_ref().is_some_and(|i| *i != first)).await;
    assert!(killed.elapsed().as_secs_f64() > 4.0, "two checks are over in two seconds: care was not heeded");
    assert_eq!(agent.service("one").await.self_starts.count, 1);
    agent.end().await;
}

#[tokio::test]
async fn after_five_failed_starts_it_gives_up_until_somebody_asks() {
    let bench = Bench::new();
    let script = "echo $$ >> one.starts; echo no model >&2; exit 3";
    let service = json!({"name": "one", "start": {"command": ["sh", "-c", script]}});
    let agent = bench.start(json!([service.clone()])).await;
    let given_up = agent.until("one", "given up", |s| s.gave_up).await;
    assert_eq!(given_up.failed_starts_in_row, 5);
    assert_eq!(given_up.last_exit.and_then(|e| e.code), Some(3));
    agent.end().await;
    // It stays so for the next agent, until somebody asks.
    let agent = bench.start(json!([service])).await;
    assert!(agent.service("one").await.gave_up);
    let asked = agent.operate("one", Action::Start).await;
    assert_eq!((asked.phase, asked.exited_early), (Phase::Failed, true));
    assert!(asked.message.contains("exit code 3") && asked.message.contains("no model"), "{}", asked.message);
    assert_eq!(bench.starts("one.starts").len(), 6);
    agent.until("one", "given up again", |s| s.gave_up).await;
    assert_eq!(bench.starts("one.starts").len(), 10);
    agent.end().await;
}

#[tokio::test]
async fn a_clean_end_is_somebodys_wish_on_failure_only() {
    let bench = Bench::new();
    let script =
        |name: &str| format!("echo $$ >> {name}.starts; test -e {name}.again && exec sleep 100000; sleep 1.5; exit 0");
    let service = |name: &str, restart: &str| json!({"name": name, "restart": restart, "start": {"command": ["sh", "-c", script(name)]}});
    std::fs::write(bench.path("always.again"), "").unwrap();
    let agent = bench.start(json!([service("wish", "OnFailure"), service("always", "Always")])).await;
    let ended = agent.until("wish", "ended", |s| s.last_exit.is_some()).await;
    assert_eq!(ended.last_exit.unwrap().code, Some(0));
    let always = agent.until("always", "up", |s| s.instance.is_some()).await.instance.unwrap();
    kill_9(always.pid as i32);
    // By the time this one is healed, the other would have been started as well.
    agent.until("always", "healed", |s| s.instance.as_ref().is_some_and(|i| *i != always)).await;
    assert_eq!(bench.starts("wish.starts").len(), 1);
    agent.end().await;
}

#[tokio::test]
async fn observing_it_only_says_what_it_would_do() {
    let bench = Bench::observing();
    let agent = bench.start(json!([sleeper("one")])).await;
    let asked = agent.operate("one", Action::Start).await;
    assert_eq!(asked.phase, Phase::Succeeded, "{}", asked.message);
    assert_eq!(bench.starts("one.starts").len(), 1, "only the start that somebody asked for");
    assert_eq!(agent.service("one").await.self_starts.count, 0);
    agent.end().await;
}

#[tokio::test]
async fn a_webhook_heals_what_is_failing_and_nothing_else() {
    let bench = Bench::observing();
    bench_token(&bench);
    let mut settings = bench.settings(json!([sleeper("up"), sleeper("down"), sleeper("held")]));
    settings.spec.auth.token_file = Some("token".into());
    let agent = bench.start_with(settings).await;
    let up = agent.operate("up", Action::Start).await;
    assert_eq!(up.phase, Phase::Succeeded);
    agent.operate("held", Action::Stop).await;
    agent.operate("down", Action::Stop).await;
    let http = reqwest::Client::new();
    let post = |body: &'static str| {
        let url = format!("{}/recover/a-token-for-tests-only", agent.handle.url());
        let request = http.post(url).body(body);
        async move { request.send().await.unwrap() }
    };
    let signature = sign::sign(&bench.secret, b"", jiff::Timestamp::now());
    let signed = http.post(format!("{}/recover", agent.handle.url())).body("");
    let signed = signature.headers().into_iter().fold(signed, |r, (name, value)| r.header(name, value));
    let unknown = post(r#"{"service": "none"}"#).await;
    assert_eq!(unknown.status(), 404);
    let answer: serde_json::Value = signed.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["operations"], json!([]), "both are held");
    assert_eq!(answer["left"].as_array().unwrap().len(), 3, "{answer}");
    let release = OperationRequest::new("down", Action::Release, "");
    let released = agent.client.operate(&release, "release", agent.caller).await.unwrap();
    agent.finished(&released.id).await;
    let narrowed: serde_json::Value = post(r#"{"service": "up", "alert": "x"}"#).await.json().await.unwrap();
    assert_eq!(narrowed["operations"], json!([]));
    let answer = post("any body").await;
    assert_eq!(answer.status(), 202);
    let healed: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(healed["operations"].as_array().unwrap().len(), 1, "{healed}");
    assert_eq!(healed["operations"][0]["service"], "down");
    let done = agent.finished(healed["operations"][0]["id"].as_str().unwrap()).await;
    assert_eq!(done.phase, Phase::Succeeded, "{}", done.message);
    for (name, starts) in [("up", 1), ("down", 1), ("held", 0)] {
        assert_eq!(bench.starts(&format!("{name}.starts")).len(), starts, "{name}");
    }
    agent.end().await;
}

fn bench_token(bench: &Bench) {
    std::fs::write(bench.path("token"), "a-token-for-tests-only\n").unwrap();
}

#[tokio::test]
async fn a_start_that_takes_its_time_gives_way_to_a_stop() {
    let bench = Bench::new();
    let nobody_listens = format!("http://127.0.0.1:{}/", free_port());
    let service = with(sleeper("slow"), json!({"check": {"url": nobody_listens}, "startupSeconds": 600}));
    let agent = bench.start(json!([service])).await;
    eventually("started", || bench.starts("slow.starts").len() == 1).await;
    let stopped = agent.operate("slow", Action::Stop).await;
    assert_eq!(stopped.phase, Phase::Succeeded, "{}", stopped.message);
    assert_eq!(agent.service("slow").await.state, ServiceState::Stopped);
    agent.end().await;
}

#[tokio::test]
async fn going_down_breaks_off_a_start_and_the_next_agent_starts_without_an_attempt() {
    let bench = Bench::new();
    let nobody_listens = format!("http://127.0.0.1:{}/", free_port());
    let services = json!([
        with(sleeper("slow"), json!({"check": {"url": nobody_listens}, "startupSeconds": 600})),
        with(sleeper("quick"), json!({"restart": "OnFailure"})),
    ]);
    for run in 1..=3 {
        let agent = bench.start(services.clone()).await;
        for (name, file) in [("slow", "slow.starts"), ("quick", "quick.starts")] {
            let report = agent.service(name).await;
            assert_ne!(report.state, ServiceState::Stopped, "a controller would start {name}, too");
            eventually("started", || bench.starts(file).len() == run).await;
        }
        let begun = Instant::now();
        for (name, result) in agent.handle.stop_services().await {
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it waited for a start of 600 s");
        for name in ["slow", "quick"] {
            let report = agent.service(name).await;
            let told = (report.state, report.last_exit, report.last_failure, report.self_starts.count);
            assert_eq!(told, (ServiceState::Stopped, None, None, 0), "{name} in run {run}");
        }
        agent.end().await;
    }
}

//! What the dashboard does, by forms alone.

use ostler::causes::Cause;
use ostler::store::{OpenCall, OpenCallState, WorkerReport};
use reqwest::StatusCode;
use serde_json::json;

use super::{
    bench::{Bench, TEAM},
    browser::Browser,
    tasks::shop,
};

async fn given_in(bench: &Bench, tasks: serde_json::Value) -> Vec<i64> {
    let (status, reply) = bench.post("/api/v1/tasks", Some(tasks)).await;
    assert_eq!(status, StatusCode::CREATED, "{reply}");
    reply["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

async fn state(bench: &Bench, id: i64) -> String {
    bench.get(&format!("/api/v1/tasks/{id}")).await.1["state"].as_str().unwrap().to_owned()
}

/// The hidden fields of the form that asks whether a command is meant.
fn hidden(page: &str) -> Vec<(String, String)> {
    let (_, form) = page.split_once("<form method=\"post\" action=\"/ui/tasks/commands").expect("a form");
    let (form, _) = form.split_once("</form>").unwrap();
    let inputs = form.split("<input type=\"hidden\" name=\"").skip(1);
    let pairs = inputs.map(|input| input.split_once("\" value=\"").unwrap());
    pairs.map(|(name, rest)| (name.to_owned(), rest.split_once('"').unwrap().0.to_owned())).collect()
}

#[tokio::test]
async fn a_task_says_why_it_waits_and_is_cancelled_and_retried_by_its_buttons() {
    let (bench, _) = shop(TEAM).await;
    let id = given_in(&bench, json!({"prompt": "what now", "domain": "legal"})).await[0];
    let mut browser = Browser::signed_in(&bench, false).await;
    let (path, id_text) = (format!("/ui/tasks/{id}"), id.to_string());
    let page = browser.get(&path).await;
    assert!(page.text.contains("Why it waits") && page.text.contains("no expert does"), "{}", page.text);
    assert!(page.text.contains("what now"));
    for (command, then, said) in
        [("cancel", "cancelled", "1 task cancelled."), ("retry", "pending", "1 task made pending again.")]
    {
        let token = browser.get(&path).await.form_token();
        let fields = [("token", token.as_str()), ("command", command), ("ids", &id_text), ("back", &id_text)];
        let answer = browser.post("/ui/tasks/commands", &fields).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
        assert_eq!(state(&bench, id).await, then);
        assert!(browser.page(answer.header("location")).await.contains(said));
    }
    assert!(browser.get("/ui/tasks/999999").await.status == StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn many_tasks_are_cancelled_after_a_question_and_only_those_that_it_was_about() {
    let (bench, _) = shop(TEAM).await;
    let tasks: Vec<serde_json::Value> =
        (0..120).map(|n| json!({"prompt": "a", "domain": if n < 20 { "legal" } else { "usual" }})).collect();
    let ids = given_in(&bench, json!(tasks)).await;
    let mut browser = Browser::signed_in(&bench, false).await;
    let page = browser.page("/ui/tasks").await;
    assert!(page.contains("Older ones") && page.contains("waiting <span class=\"count\">120</span>"), "{page}");
    let asked = browser.page("/ui/tasks/confirm?state=pending&domain=legal&matching=cancel").await;
    assert!(asked.contains("Cancel 20 tasks?"), "{asked}");
    assert_eq!(state(&bench, ids[0]).await, "pending", "a question changes nothing");
    let later = given_in(&bench, json!({"prompt": "later", "domain": "legal"})).await[0];
    let fields = hidden(&asked);
    let mut fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    fields.push(("reason", "no longer wanted"));
    let answer = browser.post("/ui/tasks/commands", &fields).await;
    assert!(
        answer.header("location").contains("done=cancel&count=20"),
        "{} {}",
        answer.status,
        answer.header("location")
    );
    assert!(browser.page(answer.header("location")).await.contains("20 tasks cancelled."));
    for (id, expected) in [(ids[0], "cancelled"), (ids[19], "cancelled"), (ids[20], "pending"), (later, "pending")] {
        assert_eq!(state(&bench, id).await, expected, "{id}");
    }
    let (_, task) = bench.get(&format!("/api/v1/tasks/{}", ids[0])).await;
    assert_eq!(task["reason"], "by ada: no longer wanted");
    let asked =
        browser.page(&format!("/ui/tasks/confirm?selected=retry&ids={}&ids={}&state=cancelled", ids[0], ids[1])).await;
    assert!(asked.contains("Retry 2 tasks?"), "{asked}");
    let none = browser.get("/ui/tasks/confirm?selected=retry&state=cancelled").await;
    assert!(none.status == StatusCode::BAD_REQUEST && none.text.contains("check the box"), "{}", none.text);
}

#[tokio::test]
async fn recovery_is_paused_and_resources_are_suspended_and_reconciled() {
    let bench = Bench::new(TEAM).await;
    let mut browser = Browser::signed_in(&bench, false).await;
    let token = browser.get("/ui").await.form_token();
    let token = ("token", token.as_str());
    let controls = async || bench.store.controls().await.unwrap();
    let answer = browser.post("/ui/pause", &[token, ("seconds", "7200")]).await;
    assert!(browser.page(answer.header("location")).await.contains("Paused by ada"));
    let pause = controls().await.pause.unwrap();
    assert_eq!(pause.until.unwrap().duration_since(pause.since).as_secs(), 7_200);
    assert_eq!(browser.post("/ui/pause", &[token, ("seconds", "x")]).await.status, StatusCode::BAD_REQUEST);
    browser.post("/ui/unpause", &[token]).await;
    assert_eq!(controls().await.pause, None);
    let path = |verb: &str| format!("/ui/llmbackends/default/mlx/{verb}");
    browser.post(&path("suspend"), &[token]).await;
    assert_eq!(controls().await.suspended.len(), 1);
    assert!(browser.page("/ui/llmbackends/default/mlx").await.contains("Suspended by ada"));
    browser.post(&path("resume"), &[token]).await;
    assert!(controls().await.suspended.is_empty());
    let answer = browser.post(&path("reconcile"), &[token]).await;
    assert_eq!(answer.header("location"), "/ui/llmbackends/default/mlx?done=reconcile");
    assert_eq!(controls().await.reconcile_requested.len(), 1);
    assert_eq!(browser.post(&path("run"), &[token]).await.status, StatusCode::BAD_REQUEST, "no schedule");
    assert!(browser.page("/ui/events").await.contains("ReconcileRequested"));
}

#[tokio::test]
async fn a_cause_is_taken_into_a_persons_hands_by_its_button() {
    let bench = Bench::new(TEAM).await;
    let fence = bench.lead().await;
    let cause: Cause = serde_json::from_value(json!({
        "key": "LLMBackend/default/mlx/Down", "openedAt": "2026-03-01T12:00:00Z", "class": "Down", "severity": "Critical",
        "root": {"kind": "LLMBackend", "namespace": "default", "name": "mlx"}, "worst": "Critical", "acts": "Person",
        "title": "mlx is down", "evidence": "refused", "next": "look", "memberCount": 1, "most": 1, "mostTitle": "mlx is down",
        "since": "2026-03-01T12:00:00Z", "times": 1, "wellSince": null, "resolvedAt": null, "ended": null, "foldedInto": null,
        "updatedAt": "2026-03-01T12:00:00Z",
    }))
    .unwrap();
    bench.store.put_causes(&fence, &[cause], &[]).await.unwrap();
    let looker = Browser::signed_in(&bench, true).await.page("/ui").await;
    assert!(looker.contains("mlx is down") && !looker.contains("I have it in my hands"), "{looker}");
    let mut browser = Browser::signed_in(&bench, false).await;
    let token = browser.get("/ui").await.form_token();
    let fields = [("token", token.as_str()), ("cause", "LLMBackend/default/mlx/Down")];
    let answer = browser.post("/ui/causes/acknowledge", &fields).await;
    assert_eq!(answer.header("location"), "/ui?done=acknowledge");
    let (_, causes) = bench.get("/api/v1/causes").await;
    assert_eq!(causes["items"][0]["acknowledged"]["by"], "ada", "{causes}");
    let none = browser.post("/ui/causes/acknowledge", &[("token", token.as_str()), ("cause", "x")]).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_open_call_is_shown_and_ended() {
    let bench = Bench::new(TEAM).await;
    let call = OpenCall {
        id: "01ab".to_owned(),
        namespace: "team".to_owned(),
        caller: "editor".to_owned(),
        path: "/v1/messages".to_owned(),
        model: "coder".to_owned(),
        state: OpenCallState::Running,
        backend: Some("mlx".to_owned()),
        asked_at: jiff::Timestamp::now(),
    };
    let report = WorkerReport {
        holder: "gateway".to_owned(),
        namespace: String::new(),
        pool: String::new(),
        host: "mac".to_owned(),
        in_flight: 1,
        effective_concurrency: 1,
        limited_by: String::new(),
        draining: false,
        calls: Vec::new(),
        evidence: Vec::new(),
        open_calls: vec![call],
        reported_at: jiff::Timestamp::now(),
    };
    bench.store.report_worker(&report).await.unwrap();
    let mut browser = Browser::signed_in(&bench, false).await;
    let page = browser.get("/ui/calls").await;
    assert!(page.text.contains("team/editor") && page.text.contains("runs at mlx"), "{}", page.text);
    assert!(!browser.page("/ui/calls?namespace=default").await.contains("editor"));
    let token = page.form_token();
    let none = browser.post("/ui/calls/cancel", &[("token", &token), ("id", "02")]).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    let answer = browser.post("/ui/calls/cancel", &[("token", &token), ("id", "01ab")]).await;
    assert!(browser.page(answer.header("location")).await.contains("The call is being ended."));
    assert_eq!(bench.store.cancelled_calls().await.unwrap(), ["01ab"]);
}

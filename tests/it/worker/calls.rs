//! Calls that are cancelled, that take long, and servers that are down or full.

use std::time::{Duration, Instant};

use ostler::{
    engines::EngineKind,
    simulate::{CallEnd, Fault, SimulateOptions},
    store::Admission,
    tasks::{AttemptClass, TaskState},
};
use serde_json::json;

use super::{
    eventually,
    shop::{Shop, executions, until_in_flight},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancelled_task_ends_its_call_at_the_engine() {
    let shop = Shop::sqlite().await;
    let slow = SimulateOptions { tokens_per_second: 1.0, ..SimulateOptions::new(EngineKind::Mlx) };
    let server = shop.simulated("mlx", slow, 2, 10).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(1, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    until_in_flight(&server, 1).await;
    shop.cancel(ids[0]).await;
    eventually("the engine to see it", || async { server.log().in_flight == 0 }).await;
    assert_eq!(server.log().inferences().last().map(|call| call.end), Some(CallEnd::Aborted));
    eventually("the slot to be free", || async { shop.occupied(server.url()).await == 0 }).await;
    worker.end().await;
    let task = shop.task(ids[0]).await;
    assert_eq!((task.state, task.reason.as_deref()), (TaskState::Cancelled, Some("not needed any more")));
}

/// MLX reads a prompt to its end although its client is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_cancelled_while_mlx_reads_its_prompt_keeps_its_slot_until_that_is_over() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("mlx", SimulateOptions::new(EngineKind::Mlx), 1, 10).await;
    server.set_faults(["prefill:seconds=4", "unnoticed-disconnect"].map(|fault| fault.parse().unwrap()));
    shop.expert("igor", "small").await;
    let ids = shop.give(2, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    until_in_flight(&server, 1).await;
    shop.cancel(ids[0]).await;
    shop.until_completed(&ids[1..]).await;
    worker.end().await;
    let log = server.log();
    assert_eq!((log.in_flight_peak, log.inferences().count()), (1, 2), "one at a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backend_that_is_down_costs_no_attempt_and_its_tasks_are_done_when_it_is_back() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 4, 10).await;
    server.add_fault(Fault::Refuse {});
    shop.expert("igor", "small").await;
    let ids = shop.give(12, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    eventually("a refused call", || async { shop.tasks(&ids).await.iter().any(|task| task.free_requeues > 0) }).await;
    let waiting = shop.tasks(&ids).await;
    assert!(waiting.iter().all(|task| task.attempts_used == 0), "{waiting:?}");
    let refused = waiting.iter().find(|task| task.state == TaskState::Pending && task.free_requeues > 0);
    let reason = refused.and_then(|task| task.reason.clone()).unwrap_or_default();
    assert!(refused.is_none() || reason.contains("connection refused"), "{reason}");
    server.clear_faults();
    shop.until_completed(&ids).await;
    for task in shop.tasks(&ids).await {
        assert!(
            task.attempts.iter().all(|a| [AttemptClass::Ok, AttemptClass::Unavailable].contains(&a.class)),
            "{task:?}"
        );
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_server_is_called_seldom_and_no_task_pays_for_it() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 4, 10).await;
    server.add_fault(Fault::Status { code: 500, path: None, retry_after_seconds: None });
    shop.expert("igor", "small").await;
    let ids = shop.give(12, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    let begun = Instant::now();
    eventually("calls", || async { server.log().inferences().count() >= 4 }).await;
    // The first ones were sent together; each later one is a trial after a longer wait: half of 1, 2 and 4 seconds at least.
    eventually("trials", || async { server.log().inferences().count() >= 7 }).await;
    assert!(begun.elapsed() >= Duration::from_millis(3_500), "three trials after {:?}", begun.elapsed());
    let tasks = shop.tasks(&ids).await;
    assert!(tasks.iter().all(|task| task.attempts_used == 0), "{tasks:?}");
    server.clear_faults();
    shop.until_completed(&ids).await;
    for task in shop.tasks(&ids).await {
        let free = [AttemptClass::Ok, AttemptClass::ServerFailed];
        assert!(task.attempts.iter().all(|attempt| free.contains(&attempt.class)), "{task:?}");
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_wait_inside_the_engine_are_not_aborted_while_others_are_served() {
    let shop = Shop::sqlite().await;
    // Each answer takes two seconds, and the engine runs one call at a time: the last ones wait for longer than `stallSeconds`.
    let options = SimulateOptions { tokens_per_second: 4.0, parallel: 1, ..SimulateOptions::new(EngineKind::Ollama) };
    let server = shop.simulated("ollama", options, 4, 10).await;
    shop.stall_after(1).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(4, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    until_in_flight(&server, 4).await;
    shop.until_completed(&ids).await;
    for task in shop.tasks(&ids).await {
        assert_eq!(task.attempts.iter().map(|a| a.class).collect::<Vec<_>>(), [AttemptClass::Ok], "{task:?}");
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_takes_too_long_while_tokens_come_uses_an_attempt_and_is_no_evidence() {
    let shop = Shop::sqlite().await;
    let slow = SimulateOptions { tokens_per_second: 2.0, ..SimulateOptions::new(EngineKind::OpenAi) };
    let _server = shop.simulated("vllm", slow, 2, 10).await;
    shop.expert_with("igor", json!({"model": "small", "parameters": {"maxTokens": 1000, "timeoutSeconds": 2}})).await;
    let id = shop.give(1, &["igor"], Some("small")).await[0];
    let worker = shop.worker().await;
    eventually("an attempt", || async { shop.task(id).await.attempts_used == 1 }).await;
    assert_eq!(shop.task(id).await.attempts[0].class, AttemptClass::Retryable);
    let rows = shop.store().workers().await.expect("read");
    assert!(rows.iter().all(|row| row.report.evidence.iter().all(|of| of.failed.is_empty())), "{rows:?}");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_closed_server_is_not_asked_and_what_overflows_goes_to_the_next() {
    let shop = Shop::sqlite().await;
    let slow = SimulateOptions { tokens_per_second: 20.0, ..SimulateOptions::new(EngineKind::Mlx) };
    let first = shop.simulated("mlx", slow, 1, 10).await;
    let second = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 1, 20).await;
    shop.admit(second.url(), 1, Admission::Closed).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(10, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    eventually("some to be done", || async { shop.in_state(TaskState::Completed).await >= 3 }).await;
    assert_eq!(second.log().inferences().count(), 0, "it is closed");
    shop.admit(second.url(), 1, Admission::Open).await;
    shop.until_completed(&ids).await;
    assert!(second.log().inferences().count() > 0, "it takes what the first has no room for");
    assert_eq!((first.log().in_flight_peak, second.log().in_flight_peak), (1, 1));
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_answer_is_no_stall_and_a_stalled_one_is_tried_again() {
    let shop = Shop::sqlite().await;
    let quick = SimulateOptions { tokens_per_second: 400.0, ..SimulateOptions::new(EngineKind::OpenAi) };
    let server = shop.simulated("vllm", quick, 2, 10).await;
    let parameters = json!({"maxTokens": 1900, "timeoutSeconds": 60});
    shop.expert_with("igor", json!({"model": "small", "parameters": parameters})).await;
    let ids = shop.give(1, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    shop.until_completed(&ids).await;
    let task = shop.task(ids[0]).await;
    assert_eq!(task.attempts[0].completion_tokens, Some(1900));
    assert_eq!(task.result.expect("a result")["truncated"], true);

    shop.stall_after(1).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.add_fault(Fault::StallAfter { tokens: 3 });
    let stalled = shop.give(1, &["igor"], Some("small")).await[0];
    eventually("the stall to be noticed", || async { shop.task(stalled).await.free_requeues == 1 }).await;
    server.clear_faults();
    eventually("the next call", || async { shop.task(stalled).await.state == TaskState::Completed }).await;
    let attempts = shop.task(stalled).await.attempts;
    assert_eq!(attempts.iter().map(|a| a.class).collect::<Vec<_>>(), [AttemptClass::ServerFailed, AttemptClass::Ok]);
    assert!(attempts[0].error.as_deref().is_some_and(|error| error.contains("3 tokens seen")), "{attempts:?}");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slot_that_is_taken_away_aborts_its_call_and_costs_no_attempt() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("mlx", SimulateOptions::new(EngineKind::Mlx), 2, 10).await;
    server.add_fault(Fault::HangInference { survives_unload: false });
    shop.expert("igor", "small").await;
    let ids = shop.give(2, &["igor"], Some("small")).await;
    let timings = ostler::worker::Timings { slot_lease: Duration::from_secs(3), ..Default::default() };
    let worker = shop.worker_with(timings, std::sync::Arc::new(super::shop::Given::default())).await;
    until_in_flight(&server, 2).await;
    shop.admit(server.url(), 2, Admission::Closed).await;
    assert_eq!(shop.store().abort_slots(&shop.fence, server.url()).await, Ok(2));
    eventually("the calls to end", || async { server.log().in_flight == 0 }).await;
    server.clear_faults();
    shop.admit(server.url(), 2, Admission::Open).await;
    shop.until_completed(&ids).await;
    let counted = executions(&[&server]);
    assert!(counted.values().all(|(_, finished)| *finished == 1), "{counted:?}");
    assert!(shop.tasks(&ids).await.iter().all(|task| task.attempts_used <= 1 && task.free_requeues >= 1));
    worker.end().await;
}

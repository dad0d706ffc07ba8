//! Many tasks, several workers: all done once, and never more at a server than its limit.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler::{
    engines::EngineKind,
    simulate::SimulateOptions,
    tasks::{AttemptClass, TaskState},
};
use serde_json::json;

use super::{
    eventually,
    shop::{Shop, executions, until_in_flight},
};

fn mlx() -> SimulateOptions {
    SimulateOptions::new(EngineKind::Mlx)
}

fn ollama() -> SimulateOptions {
    SimulateOptions { parallel: 4, ..SimulateOptions::new(EngineKind::Ollama) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_hundred_and_five_tasks_of_eight_experts_are_done_once_within_each_servers_limit() {
    let shop = Shop::sqlite().await;
    let first = shop.simulated("mlx", mlx(), 2, 10).await;
    let second = shop.simulated("ollama", ollama(), 4, 20).await;
    let experts = ["e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"];
    for expert in experts {
        shop.expert(expert, "small").await;
    }
    let ids = shop.give(405, &experts, Some("small")).await;
    let worker = shop.worker().await;
    shop.until_completed(&ids).await;
    worker.end().await;
    assert!(first.log().in_flight_peak <= 2, "MLX had {} at once", first.log().in_flight_peak);
    assert!(second.log().in_flight_peak <= 4, "Ollama had {} at once", second.log().in_flight_peak);
    let counted = executions(&[&first, &second]);
    assert_eq!(counted.len(), 405);
    assert!(counted.values().all(|times| *times == (1, 1)), "{counted:?}");
    assert!(first.log().inferences().count() > 50 && second.log().inferences().count() > 50, "both have their share");
    for task in shop.tasks(&ids).await {
        // A busy machine may make its worker give a claim back that it has no time for.
        let Some((attempt, before)) = task.attempts.split_last() else { panic!("{task:?}") };
        assert!(before.iter().all(|attempt| attempt.class == AttemptClass::Cancelled), "{task:?}");
        assert_eq!((attempt.class, attempt.completion_tokens), (AttemptClass::Ok, Some(8)));
        assert!(attempt.prompt_tokens.is_some() && attempt.first_token_at.is_some(), "{attempt:?}");
        assert!(attempt.backend.is_some() && attempt.model.is_some(), "{attempt:?}");
        assert!(task.result.is_some_and(|result| result["text"].as_str().is_some_and(|text| !text.is_empty())));
    }
    assert_eq!(shop.occupied(first.url()).await + shop.occupied(second.url()).await, 0);
    assert_eq!(shop.store().workers().await.expect("read"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_processes_one_killed_never_have_more_than_two_calls_at_the_engine() {
    let shop = Shop::sqlite().await;
    shop.queue(json!({"leaseSeconds": 4, "retry": {"backoffSeconds": 1}})).await;
    let server = shop.simulated("mlx", SimulateOptions { tokens_per_second: 100.0, ..mlx() }, 2, 10).await;
    shop.expert_with("igor", json!({"model": "small", "parameters": {"maxTokens": 8, "timeoutSeconds": 6}})).await;
    let ids = shop.give(120, &["igor"], Some("small")).await;
    let mut processes: Vec<_> = (0..4).map(|_| shop.process()).collect();
    until_in_flight(&server, 2).await;
    eventually("some to be done", || async { shop.in_state(TaskState::Completed).await > 20 }).await;
    let mut killed = None;
    // Whoever has a call open: the one whose death may cost a slot.
    let holders: Vec<_> =
        shop.store().slots(server.url()).await.expect("slots").into_iter().map(|s| s.holder).collect();
    for (place, process) in processes.iter().enumerate() {
        let id = process.id();
        if holders.iter().any(|holder| holder.contains(&format!("_{id}_"))) {
            killed = Some(place);
        }
    }
    let mut victim = processes.remove(killed.unwrap_or(0));
    victim.signal(Signal::SIGKILL);
    assert_eq!(victim.ended().await, None);
    shop.until_completed(&ids).await;
    assert!(server.log().in_flight_peak <= 2, "{} at once", server.log().in_flight_peak);
    for (prompt, (sent, finished)) in executions(&[&server]) {
        assert!(finished >= 1 && sent <= 2, "{prompt} was sent {sent} times, {finished} to its end");
    }
    for task in shop.tasks(&ids).await {
        assert_eq!((task.attempts_used <= 1, task.state), (true, TaskState::Completed));
    }
    for mut process in processes {
        process.signal(Signal::SIGTERM);
        assert_eq!(process.ended().await, Some(0));
    }
    eventually("the slots to be free", || async { shop.occupied(server.url()).await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_terminated_worker_finishes_what_it_has_and_begins_nothing() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("mlx", SimulateOptions { tokens_per_second: 4.0, ..mlx() }, 2, 10).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(20, &["igor"], Some("small")).await;
    let mut process = shop.process();
    until_in_flight(&server, 2).await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().await, Some(0));
    let log = server.log();
    assert_eq!(log.inferences().count(), 2);
    assert!(log.inferences().all(|call| call.end == ostler::simulate::CallEnd::Finished), "{log:?}");
    let tasks = shop.tasks(&ids).await;
    let in_state = |state| tasks.iter().filter(|task| task.state == state).count();
    assert_eq!((in_state(TaskState::Completed), in_state(TaskState::Pending)), (2, 18));
    assert!(
        tasks
            .iter()
            .all(|task| task.leases_lost == 0 && task.attempts_used == i32::from(task.state == TaskState::Completed))
    );
    assert_eq!(shop.occupied(server.url()).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_does_not_end_within_the_drain_is_given_back() {
    let shop = Shop::sqlite().await;
    shop.pool(json!({"queueRefs": [{"name": "default"}], "drainSeconds": 1})).await;
    let server = shop.simulated("mlx", SimulateOptions { tokens_per_second: 0.5, ..mlx() }, 2, 10).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(2, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    until_in_flight(&server, 2).await;
    let begun = Instant::now();
    worker.end().await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    eventually("the engine to see that its callers went", || async { server.log().in_flight == 0 }).await;
    for task in shop.tasks(&ids).await {
        assert_eq!((task.state, task.attempts_used), (TaskState::Pending, 0), "{task:?}");
    }
}

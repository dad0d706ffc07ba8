//! Ends of tasks that somebody is to be told of: written with the end, in the order of each task.

use std::time::Duration;

use jiff::Timestamp;
use ostler::store::{Callback, TaskCommand};
use ostler::tasks::{QueueKey, TaskState};
use serde_json::json;

use super::bench::Bench;
use super::tasks_bench::*;

fn key() -> QueueKey {
    QueueKey { namespace: "default".into(), name: "default".into() }
}

fn in_a_minute() -> Timestamp {
    Timestamp::now() + Duration::from_secs(60)
}

async fn due(bench: &Bench, at: Timestamp) -> Vec<Callback> {
    bench.store.due_callbacks(&key(), at, 100).await.expect("read")
}

pub async fn each_end_is_told_once_in_the_order_of_its_task(bench: &Bench) {
    let fence = shop(bench, 2).await;
    let ids = give_many(bench, &fence, "hook", 2).await;
    let lease = lease(&bench.store, "worker").await;
    for claimed in claim_hooks(&bench.store, &lease, 1).await {
        complete(bench, &claimed, done()).await;
    }
    assert_eq!(due(bench, in_a_minute()).await, [], "the queue tells nobody yet");

    let mut row = queue("default");
    row.generation += 1;
    row.spec["onFinished"] = json!({"url": "http://h:1/ended"});
    bench.store.project_declared(&fence, &row).await.expect("project");
    for claimed in claim_hooks(&bench.store, &lease, 1).await {
        complete(bench, &claimed, done()).await;
    }
    let second = filter(&ids[1..]);
    for command in [TaskCommand::Retry, TaskCommand::Cancel] {
        assert_eq!(bench.store.command_tasks(&second, &command, "why", 9).await, Ok(vec![ids[1]]));
    }
    let first = due(bench, in_a_minute()).await;
    let [end] = &first[..] else { panic!("of a task the first one alone: {first:?}") };
    assert_eq!((end.task, end.state, end.cycle, end.attempts), (ids[1], TaskState::Completed, 1, 0));

    let later = in_a_minute() + Duration::from_secs(60);
    bench.store.settle_callbacks(&fence, &[], &[(end.id, later)]).await.expect("it failed");
    assert_eq!(due(bench, in_a_minute()).await, [], "what comes after it waits for it");
    let again = due(bench, later).await;
    assert_eq!(again, [Callback { attempts: 1, ..end.clone() }]);
    bench.store.settle_callbacks(&fence, &[end.id], &[]).await.expect("it was told");
    let [next] = &due(bench, in_a_minute()).await[..] else { panic!("the next end") };
    assert_eq!((next.state, next.cycle, next.reason.as_deref()), (TaskState::Cancelled, 2, Some("why")));

    let expired = bench.store.expire_callbacks(&fence, in_a_minute()).await;
    assert_eq!(expired, Ok(vec![(key(), 1)]));
    assert_eq!(bench.store.expire_callbacks(&fence, in_a_minute()).await, Ok(Vec::new()));
    assert_eq!(due(bench, in_a_minute()).await, []);
}

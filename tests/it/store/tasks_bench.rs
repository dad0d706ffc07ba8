//! Queues, experts and tasks for the suite.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ostler::store::{
    Claimed, DeclaredRow, Fence, FreeClaim, Lease, Served, Slot, SlotClaim, SlotClaimAnswer, Store, StoreError,
    TaskFilter, TaskPage,
};
use ostler::tasks::{
    Assignment, Attempt, AttemptClass, Completion, NewTask, Payload, QueueKey, Task, TaskId, TaskState, Verdict,
};
use serde_json::{Value, json};

use super::bench::{Bench, URL};

pub const NS: &str = "default";
pub const MINUTE: Duration = Duration::from_secs(60);

pub fn queue_key() -> QueueKey {
    QueueKey { namespace: NS.to_owned(), name: "default".to_owned() }
}

pub fn declared(kind: &str, name: &str, spec: Value) -> DeclaredRow {
    DeclaredRow {
        uid: format!("{kind}-{name}"),
        kind: kind.to_owned(),
        namespace: NS.to_owned(),
        name: name.to_owned(),
        generation: 1,
        labels: [("team".to_owned(), "a".to_owned())].into(),
        spec,
        suspended: false,
        held: None,
    }
}

pub fn expert(name: &str, model: &str, places: i32) -> DeclaredRow {
    declared("Expert", name, json!({"model": model, "handler": "Chat", "maxConcurrentTasks": places}))
}

pub fn webhook(name: &str, places: i32) -> DeclaredRow {
    let spec = json!({"handler": "Webhook", "webhook": {"url": "http://agent"}, "maxConcurrentTasks": places});
    declared("Expert", name, spec)
}

pub fn queue(name: &str) -> DeclaredRow {
    declared("TaskQueue", name, json!({"leaseSeconds": 90}))
}

pub fn new_task() -> NewTask {
    NewTask {
        namespace: NS.to_owned(),
        queue: "default".to_owned(),
        domain: "backend".to_owned(),
        role: "engineer".to_owned(),
        payload: Payload { prompt: Some("Say hello.".to_owned()), ..Payload::default() },
        ..NewTask::default()
    }
}

pub fn filter(ids: &[TaskId]) -> TaskFilter {
    TaskFilter { ids: ids.to_vec(), ..TaskFilter::default() }
}

pub fn all_on_a_page() -> TaskPage {
    TaskPage { limit: 1_000, ..TaskPage::default() }
}

/// A leader, a server, the queue `default` and three experts: `igor` and `olga` for two models, `hook` for none.
pub async fn shop(bench: &Bench, slots: i32) -> Fence {
    let fence = bench.serving(slots).await;
    bench.store.renew(&fence, Duration::from_secs(3_600)).await.expect("renew");
    for row in [queue("default"), expert("igor", "small", 50), expert("olga", "large", 50), webhook("hook", 50)] {
        bench.store.project_declared(&fence, &row).await.expect("project");
    }
    fence
}

/// Inserts tasks and assigns them all to `expert`.
pub async fn give(bench: &Bench, fence: &Fence, expert: &str, tasks: &[NewTask]) -> Vec<TaskId> {
    let ids: Vec<_> = insert(bench, tasks).await;
    let model = |task: &NewTask| match expert {
        "hook" => None,
        "olga" => Some(task.model.clone().unwrap_or_else(|| "large".to_owned())),
        _ => Some(task.model.clone().unwrap_or_else(|| "small".to_owned())),
    };
    let assignments: Vec<_> = ids.iter().zip(tasks).map(|(id, task)| assignment(*id, expert, model(task))).collect();
    for some in assignments.chunks(500) {
        assert_eq!(bench.store.assign(fence, some).await, Ok(some.len() as u64));
    }
    ids
}

pub async fn give_many(bench: &Bench, fence: &Fence, expert: &str, count: usize) -> Vec<TaskId> {
    give(bench, fence, expert, &vec![new_task(); count]).await
}

pub async fn insert(bench: &Bench, tasks: &[NewTask]) -> Vec<TaskId> {
    bench.store.insert_tasks(tasks).await.expect("insert").into_iter().map(|one| one.id).collect()
}

pub fn assignment(task: TaskId, expert: &str, model: Option<String>) -> Assignment {
    let candidates = [expert.to_owned()].into();
    Assignment { task, expert: expert.to_owned(), model, reason: "domain and role", candidates }
}

pub async fn lease(store: &Arc<dyn Store>, holder: &str) -> Lease {
    lease_for(store, holder, MINUTE).await
}

pub async fn lease_for(store: &Arc<dyn Store>, holder: &str, time: Duration) -> Lease {
    store.open_lease(holder, &queue_key(), time).await.expect("open a lease")
}

pub fn served(lease: &Lease) -> Vec<Served> {
    vec![Served { queue: queue_key(), lease: lease.clone() }]
}

/// Takes tasks of both models.
pub fn slot_claim(lease: &Lease, most: i32) -> SlotClaim {
    SlotClaim {
        queues: served(lease),
        holder: lease.holder.clone(),
        server_url: URL.to_owned(),
        models: ["small", "large"].map(|alias| (NS.to_owned(), alias.to_owned())).to_vec(),
        loaded: None,
        affinity: MINUTE,
        most,
        slot_lease: MINUTE,
        call_within: MINUTE,
    }
}

pub async fn claim_slots(bench: &Bench, claim: &SlotClaim) -> SlotClaimAnswer {
    bench.store.claim_slots(claim).await.expect("claim")
}

/// Claims the one task that must be there, with a slot.
pub async fn claim_one(bench: &Bench, lease: &Lease) -> (Slot, Claimed) {
    let mut answer = claim_slots(bench, &slot_claim(lease, 1)).await;
    answer.given.pop().unwrap_or_else(|| panic!("nothing was given: {answer:?}"))
}

pub async fn claim_hooks(store: &Arc<dyn Store>, lease: &Lease, most: i32) -> Vec<Claimed> {
    store.claim_free(&FreeClaim { queues: served(lease), most }).await.expect("claim")
}

pub fn ids(claimed: &[Claimed]) -> Vec<TaskId> {
    claimed.iter().map(|one| one.task.id).collect()
}

pub fn given_ids(answer: &SlotClaimAnswer) -> Vec<TaskId> {
    answer.given.iter().map(|(_, claimed)| claimed.task.id).collect()
}

pub fn attempt(class: AttemptClass) -> Attempt {
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("a time");
    Attempt {
        expert: "igor".to_owned(),
        backend: Some("mlx".to_owned()),
        model: Some("llama3.2:3b".to_owned()),
        holder: "worker".to_owned(),
        started_at: now,
        ended_at: now,
        first_token_at: Some(now),
        prompt_tokens: Some(7),
        completion_tokens: Some(9),
        class,
        error: None,
    }
}

pub fn end(claimed: &Claimed, verdict: Verdict) -> Completion {
    let class = match &verdict {
        Verdict::Completed { .. } => AttemptClass::Ok,
        Verdict::Retry { .. } | Verdict::DeferredToHuman { .. } => AttemptClass::Retryable,
        Verdict::Requeue { .. } => AttemptClass::Unavailable,
        Verdict::Failed { .. } => AttemptClass::Permanent,
        Verdict::Cancelled { .. } => AttemptClass::Cancelled,
    };
    Completion { task: claimed.task.id, epoch: claimed.task.epoch, verdict, attempt: attempt(class) }
}

pub fn done() -> Verdict {
    Verdict::Completed { result: json!({"text": "hello"}) }
}

/// Ends one execution, which must be its own still.
pub async fn complete(bench: &Bench, claimed: &Claimed, verdict: Verdict) {
    assert_eq!(bench.store.complete(&[end(claimed, verdict)]).await, Ok(vec![true]));
}

pub async fn task(bench: &Bench, id: TaskId) -> Task {
    bench.store.task(id).await.expect("read").unwrap_or_else(|| panic!("task {id} is not there"))
}

pub async fn state(bench: &Bench, id: TaskId) -> TaskState {
    task(bench, id).await.state
}

/// So many on so small a machine may wait longer for the database than a store does.
pub async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> T {
    let deadline = std::time::Instant::now() + MINUTE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(StoreError::Unavailable(why)) => assert!(std::time::Instant::now() < deadline, "{why}"),
            Err(error) => panic!("{error}"),
        }
    }
}

//! Counts tasks for metrics.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    store::{QueueCounts, Store, StoreError, TaskFilter, TaskPage},
    tasks::TaskState,
};

use super::Desk;

const PERIOD: Duration = Duration::from_secs(10);
/// Deferred tasks are looked through by so many, and at most so often: beyond, the age is that of the oldest that was seen.
const PAGE: i64 = 1_000;
const PAGES: usize = 20;

pub async fn run(desk: Desk) {
    loop {
        desk.beat.beat();
        let counted = async {
            let counts = desk.store.queue_counts().await?;
            for queue in &counts {
                let oldest_deferred = oldest_deferred(&*desk.store, queue).await?;
                desk.metrics.tasks.queue(&queue.namespace, &queue.queue, &by_state(queue));
                desk.metrics.tasks.oldest(&queue.namespace, &queue.queue, queue.oldest_pending, oldest_deferred);
            }
            desk.metrics.tasks.forget_others(counts.iter().map(|q| (q.namespace.as_str(), q.queue.as_str())));
            Ok::<_, StoreError>(())
        };
        desk.note("count tasks", counted.await);
        tokio::time::sleep(PERIOD).await;
    }
}

fn by_state(queue: &QueueCounts) -> [(&'static str, i64); 4] {
    [
        (TaskState::Pending.as_str(), queue.pending),
        ("unassigned", queue.unassigned),
        (TaskState::InProgress.as_str(), queue.in_progress),
        (TaskState::DeferredToHuman.as_str(), queue.deferred_to_human),
    ]
}

/// Since when the oldest that waits for a human does.
async fn oldest_deferred(store: &dyn Store, queue: &QueueCounts) -> Result<Option<Timestamp>, StoreError> {
    if queue.deferred_to_human == 0 {
        return Ok(None);
    }
    let filter = TaskFilter {
        namespace: Some(queue.namespace.clone()),
        queue: Some(queue.queue.clone()),
        states: vec![TaskState::DeferredToHuman],
        ..TaskFilter::default()
    };
    let mut page = TaskPage { before: None, limit: PAGE, brief: true };
    let mut oldest: Option<Timestamp> = None;
    for _ in 0..PAGES {
        let tasks = store.tasks(&filter, &page).await?;
        let Some(last) = tasks.last() else { break };
        page.before = Some(last.id);
        let since = tasks.iter().map(|task| task.state_since).min();
        oldest = oldest.into_iter().chain(since).min();
        if i64::try_from(tasks.len()).is_ok_and(|n| n < PAGE) {
            break;
        }
    }
    Ok(oldest)
}

//! Counts tasks for metrics.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    base::tick,
    store::{QueueCounts, StoreError, Topics},
    tasks::TaskState,
};

use super::LoopContext;

const PERIOD: Duration = Duration::from_secs(10);
/// Without any change they are counted so often: ended tasks count for a day.
const SELDOM: Duration = Duration::from_secs(600);
/// Counting may take one part in so many of the time.
const SHARE: u32 = 20;

pub async fn run(context: LoopContext) {
    let mut changes = context.store.follow(Topics::TASKS);
    loop {
        context.beat.beat();
        let began = Instant::now();
        let counted = async {
            let counts = context.store.queue_counts().await?;
            for queue in &counts {
                context.metrics.tasks.queue(&queue.namespace, &queue.queue, &by_state(queue));
                context.metrics.tasks.oldest(
                    &queue.namespace,
                    &queue.queue,
                    queue.oldest_pending,
                    queue.oldest_deferred,
                );
            }
            context.metrics.tasks.forget_others(counts.iter().map(|q| (q.namespace.as_str(), q.queue.as_str())));
            Ok::<_, StoreError>(())
        };
        context.note("count tasks", counted.await);
        let rest = (began.elapsed() * SHARE).clamp(PERIOD, SELDOM);
        // In parts, so that the loop is seen to be alive.
        while began.elapsed() < rest {
            tick(PERIOD).await;
            context.beat.beat();
        }
        while began.elapsed() < SELDOM && !changes.changed(PERIOD * 3).await {
            context.beat.beat();
        }
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

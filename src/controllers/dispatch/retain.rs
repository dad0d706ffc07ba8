//! Drops ended tasks that are past their time.

use std::time::Duration;

use crate::{
    api::{RetentionPolicy, TaskQueueSpec},
    base::tick,
    store::{DeclaredRow, Retention, StoreError, spec_of},
    tasks::QueueKey,
};

use super::LoopContext;

const PERIOD: Duration = Duration::from_secs(60);
/// While a batch dropped anything, there may be more.
const SOON: Duration = Duration::from_secs(1);

pub async fn run(context: LoopContext) {
    loop {
        context.beat.beat();
        let dropped = context.note("drop old tasks", pass(&context).await).unwrap_or_default();
        if dropped > 0 {
            tracing::info!(dropped, "dropped ended tasks after their retention");
        }
        let wait = if dropped > 0 { SOON } else { PERIOD };
        // In parts, so that the loop is seen to be alive.
        for _ in 0..wait.as_secs().div_ceil(10).max(1) {
            tick(wait.min(Duration::from_secs(10))).await;
            context.beat.beat();
        }
    }
}

async fn pass(context: &LoopContext) -> Result<u64, StoreError> {
    let queues = context.store.declared("TaskQueue").await?;
    let mut retention: Vec<Retention> = queues.iter().filter_map(of_queue).collect();
    // What a queue left behind that is gone is kept as long as a queue keeps its tasks that says nothing.
    retention.push(kept(None, &RetentionPolicy::default()));
    context.store.retain(context.term.fence(), &retention).await
}

fn of_queue(row: &DeclaredRow) -> Option<Retention> {
    let spec: TaskQueueSpec = spec_of(row)?;
    let queue = QueueKey { namespace: row.namespace.clone(), name: row.name.clone() };
    Some(kept(Some(queue), &spec.retention))
}

fn kept(queue: Option<QueueKey>, policy: &RetentionPolicy) -> Retention {
    let seconds = |n: i32| Duration::from_secs(n.unsigned_abs().into());
    Retention { queue, completed: seconds(policy.completed_seconds), failed: seconds(policy.failed_seconds) }
}

//! Takes tasks back from workers that are lost, and fails what is past its deadline.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::TaskQueueSpec,
    store::{BootInstant, DeclaredRow, Patience, Reapable, Reaped, StoreError, Topics, spec_of},
    tasks::QueueKey,
};

use super::LoopContext;

/// The shortest and the longest time between two passes.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(10);
/// Of queues that nobody declares any more.
const LEASE: Duration = Duration::from_secs(90);

pub async fn run(context: LoopContext) {
    let mut changes = context.store.follow(Topics::NEW | Topics::WORLD);
    let mut world = context.store.follow(Topics::WORLD);
    let (mut patience, mut queues) = (Patience::default(), None);
    loop {
        context.beat.beat();
        if world.take() {
            queues = None;
        }
        let mut wait = SHORTEST;
        match context.note("reap", pass(&context, &mut patience, &mut queues).await) {
            Some((reaped, again)) => {
                let Reaped { leases, requeued, deferred, expired } = reaped;
                context.metrics.tasks.reaped(leases, requeued, deferred, expired);
                if reaped != Reaped::default() {
                    tracing::warn!(leases, requeued, deferred, expired, "took tasks back from lapsed leases");
                }
                wait = again;
            }
            None => queues = None,
        }
        tokio::time::sleep(SHORTEST).await;
        changes.changed(wait.saturating_sub(SHORTEST)).await;
    }
}

/// Returns when the next pass is due. Nothing is written while nothing has lapsed.
async fn pass(
    context: &LoopContext,
    patience: &mut Patience,
    known: &mut Option<Vec<(QueueKey, Duration)>>,
) -> Result<(Reaped, Duration), StoreError> {
    let queues = match known.take() {
        Some(queues) => queues,
        None => leases(&context.store.declared("TaskQueue").await?),
    };
    let shortest = queues.iter().map(|(_, lease)| *lease).min().unwrap_or(LEASE);
    // A reaper that passes seldom takes itself for one that paused.
    let longest = (shortest / 4).clamp(SHORTEST, LONGEST);
    // Reached the database: only such a pass counts.
    let next = context.store.next_lapse().await?;
    let reapable = patience.reapable(&queues, LEASE, BootInstant::now(), Timestamp::now());
    *known = Some(queues);
    let wait = next.map_or(longest, |next| next.clamp(SHORTEST, longest));
    let reaped = match reapable {
        _ if next.is_none_or(|next| !next.is_zero()) => Reaped::default(),
        Reapable::Of(none) if none.is_empty() => Reaped::default(),
        reapable => context.store.reap_of(context.term.fence(), &reapable).await?,
    };
    Ok((reaped, wait))
}

/// How long each queue's leases are.
fn leases(queues: &[DeclaredRow]) -> Vec<(QueueKey, Duration)> {
    let of = |row: &DeclaredRow| {
        let spec: TaskQueueSpec = spec_of(row)?;
        let queue = QueueKey { namespace: row.namespace.clone(), name: row.name.clone() };
        Some((queue, Duration::from_secs(spec.lease_seconds.unsigned_abs().into())))
    };
    queues.iter().filter_map(of).collect()
}

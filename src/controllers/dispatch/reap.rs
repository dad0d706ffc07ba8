//! Takes tasks back from workers that are lost, and fails what is past its deadline.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::TaskQueueSpec,
    store::{BootInstant, DeclaredRow, Patience, Reapable, Reaped, StoreError, spec_of},
    tasks::QueueKey,
};

use super::Desk;

const PERIOD: Duration = Duration::from_secs(2);
/// Of queues that nobody declares any more.
const LEASE: Duration = Duration::from_secs(90);

pub async fn run(desk: Desk) {
    let mut patience = Patience::default();
    loop {
        desk.beat.beat();
        if let Some(reaped) = desk.note("reap", pass(&desk, &mut patience).await) {
            let Reaped { leases, requeued, deferred, expired } = reaped;
            desk.metrics.tasks.reaped(leases, requeued, deferred, expired);
            if reaped != Reaped::default() {
                tracing::warn!(leases, requeued, deferred, expired, "tasks were taken from lapsed leases");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn pass(desk: &Desk, patience: &mut Patience) -> Result<Reaped, StoreError> {
    // Reached the database: only such a pass counts.
    let queues = desk.store.declared("TaskQueue").await?;
    match patience.reapable(&leases(&queues), LEASE, BootInstant::now(), Timestamp::now()) {
        Reapable::Of(none) if none.is_empty() => Ok(Reaped::default()),
        reapable => desk.store.reap_of(desk.term.fence(), &reapable).await,
    }
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

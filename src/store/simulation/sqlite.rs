//! The real store in a data folder, under the simulation's clock.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::json;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::home::{Answer, EXPERTS, Given, NAMESPACE, QUEUES, SeenTask, SimStore, lease_of, queue};
use crate::{
    store::{
        CallLife, DeclaredRow, Dispatch, Fence, Holders, Leadership, Lease, Projections, Reapable, Reaped, Served,
        ServerRow, Slot, SlotClaim, Slots, TaskCommand, TaskFilter, TaskPage, Tasks, Work,
        rounds::assign_after,
        sqlite::{FolderAccess, SqliteStore},
        stamp::Stamp,
    },
    tasks::{Completion, NewTask, Task, TaskId},
};

const LEAD: Duration = Duration::from_secs(15);

pub struct Sqlite {
    runtime: Runtime,
    store: SqliteStore,
    clock: Arc<AtomicI64>,
    folder: PathBuf,
    declared: bool,
}

impl Sqlite {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = std::env::temp_dir().join(format!("ostler-simulation-{}", Uuid::new_v4()));
        let mut store = runtime.block_on(SqliteStore::open(&folder, FolderAccess::Lock)).expect("open");
        let clock = Arc::new(AtomicI64::new(0));
        let read = Arc::clone(&clock);
        store.use_clock(Box::new(move || {
            Timestamp::from_microsecond(read.load(Ordering::SeqCst)).unwrap_or_default().into()
        }));
        Self { runtime, store, clock, folder, declared: false }
    }

    fn declare(&mut self, fence: &Fence) -> Answer<()> {
        let row = |kind: &str, name: &str, spec| DeclaredRow {
            uid: format!("{kind}-{name}"),
            kind: kind.into(),
            namespace: NAMESPACE.into(),
            name: name.into(),
            generation: 1,
            labels: std::collections::BTreeMap::new(),
            spec,
            suspended: false,
            held: None,
        };
        let queue = |(name, lease): (&str, Duration)| row("TaskQueue", name, json!({"leaseSeconds": lease.as_secs()}));
        let mut rows: Vec<DeclaredRow> = QUEUES.into_iter().map(queue).collect();
        for (name, most, domain, model) in EXPERTS {
            rows.push(row("Expert", name, json!({"domains": [domain], "model": model, "maxConcurrentTasks": most})));
        }
        for row in rows {
            self.runtime.block_on(self.store.project_declared(fence, &row))?;
        }
        self.declared = true;
        Ok(())
    }

    fn all(&self) -> Answer<Vec<Task>> {
        let page = TaskPage { limit: 1_000, brief: true, ..TaskPage::default() };
        self.runtime.block_on(self.store.tasks(&TaskFilter::default(), &page))
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // The folder is temporary anyway.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl SimStore for Sqlite {
    fn set_clock(&mut self, now: Stamp) {
        self.clock.store(Timestamp::from(now).as_microsecond(), Ordering::SeqCst);
    }

    fn campaign(&mut self, holder: &str) -> Answer<Option<Fence>> {
        let fence = self.runtime.block_on(self.store.campaign(holder, LEAD))?;
        if let Some(fence) = fence.as_ref().filter(|_| !self.declared) {
            self.declare(fence)?;
        }
        Ok(fence)
    }

    fn insert(&mut self, tasks: &[NewTask]) -> Answer<Vec<TaskId>> {
        let inserted = self.runtime.block_on(self.store.insert_tasks(tasks))?;
        Ok(inserted.into_iter().map(|one| one.id).collect())
    }

    fn assign(&mut self, fence: &Fence) -> Answer<()> {
        self.runtime.block_on(assign_after(&self.store, fence, 0, &mut None)).map(|_| ())
    }

    fn put_server(&mut self, fence: &Fence, server: &ServerRow, running_for: Option<Duration>) -> Answer<()> {
        self.runtime.block_on(self.store.put_server_running(fence, server, running_for))
    }

    fn reap(&mut self, fence: &Fence, reapable: &Reapable) -> Answer<Reaped> {
        self.runtime.block_on(self.store.reap_of(fence, reapable))
    }

    fn open_lease(&mut self, holder: &str, index: usize) -> Answer<Served> {
        let lease = self.runtime.block_on(self.store.open_lease(holder, &queue(index), QUEUES[index].1))?;
        Ok(Served { queue: queue(index), lease })
    }

    fn renew_lease(&mut self, served: &Served) -> Answer<bool> {
        let lease = (served.lease.clone(), lease_of(&served.queue));
        Ok(self.runtime.block_on(self.store.renew_leases(&[lease]))?.is_empty())
    }

    fn close_lease(&mut self, lease: &Lease) -> Answer<()> {
        self.runtime.block_on(self.store.close_lease(lease))
    }

    fn claim(&mut self, claim: &SlotClaim) -> Answer<Vec<(Slot, Given)>> {
        let answer = self.runtime.block_on(self.store.claim_slots(claim))?;
        Ok(answer.given.into_iter().map(|(slot, claimed)| (slot, (claimed.task, claimed.lease))).collect())
    }

    fn claim_next(&mut self, slot: &Slot, claim: &SlotClaim) -> Answer<Option<Given>> {
        let claimed = self.runtime.block_on(self.store.claim_next(slot, claim, CallLife::default()))?;
        Ok(claimed.map(|claimed| (claimed.task, claimed.lease)))
    }

    fn renew_slot(&mut self, slot: &Slot, lease: Duration) -> Answer<()> {
        self.runtime.block_on(self.store.renew_slot(slot, lease, CallLife::default()))
    }

    fn release_slot(&mut self, slot: &Slot, linger: Duration) -> Answer<()> {
        self.runtime.block_on(self.store.release_slot(slot, linger))
    }

    fn free_holder(&mut self, holder: &str, linger: Duration) -> Answer<()> {
        self.runtime.block_on(self.store.free_holder_slots(holder, linger))?;
        self.runtime.block_on(self.store.free_holder_tasks(holder)).map(drop)
    }

    fn complete(&mut self, completion: &Completion) -> Answer<bool> {
        Ok(self.runtime.block_on(self.store.complete(std::slice::from_ref(completion)))?[0])
    }

    fn lost_claims(&mut self, claims: &[(TaskId, i64)]) -> Answer<Vec<TaskId>> {
        self.runtime.block_on(self.store.lost_claims(claims))
    }

    fn command(&mut self, task: TaskId, command: &TaskCommand) -> Answer<bool> {
        let filter = TaskFilter { ids: vec![task], ..TaskFilter::default() };
        Ok(!self.runtime.block_on(self.store.command_tasks(&filter, command, "by a person", 1))?.is_empty())
    }

    fn occupancy(&mut self) -> Answer<Vec<(String, i64)>> {
        let servers = self.runtime.block_on(self.store.servers())?;
        Ok(servers.into_iter().map(|server| (server.row.url, server.occupied)).collect())
    }

    fn lives(&mut self) -> Vec<SeenTask> {
        let mut all: Vec<SeenTask> = self.all().expect("tasks are read").iter().map(SeenTask::of).collect();
        all.sort_by_key(|seen| seen.id);
        all
    }
}

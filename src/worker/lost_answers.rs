//! A claim that was committed and whose answer never came, against the store in a data folder.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::leases::Leases;
use crate::{
    calls::HeldSlots,
    store::{Admission, DeclaredRow, Fence, Home, Served, ServerRow, SlotClaim, Store, open, sqlite::FolderAccess},
    tasks::{Assignment, NewTask, Payload, QueueKey, Task, TaskId, TaskState},
};

const MINUTE: Duration = Duration::from_secs(60);
const URL: &str = "http://127.0.0.1:11434";
const HOLDER: &str = "worker";

struct Shop {
    store: Arc<dyn Store>,
    folder: std::path::PathBuf,
    fence: Fence,
}

impl Shop {
    /// A queue, an expert, a server with two slots, and three tasks that are assigned.
    async fn open() -> Self {
        let folder = std::env::temp_dir().join(format!("ostler-lost-answers-{}", uuid::Uuid::new_v4()));
        let store = open(&Home::Folder { path: folder.clone(), hold: FolderAccess::Lock }, None).await.unwrap();
        let fence = store.campaign("leader", MINUTE).await.unwrap().unwrap();
        let shop = Self { store, folder, fence };
        shop.declare("TaskQueue", "default", json!({})).await;
        shop.declare("Expert", "igor", json!({"domains": ["backend"], "model": "small"})).await;
        let server =
            ServerRow { url: URL.into(), limit: 2, admission: Admission::Open, instance: None, calls_per_day: None };
        shop.store.put_server(&shop.fence, &server).await.unwrap();
        let task = NewTask {
            namespace: "default".into(),
            queue: "default".into(),
            domain: "backend".into(),
            payload: Payload { prompt: Some("p".into()), ..Payload::default() },
            ..NewTask::default()
        };
        let inserted = shop.store.insert_tasks(&vec![task; 3]).await.unwrap();
        let assign = |id: TaskId| Assignment {
            task: id,
            expert: "igor".into(),
            model: Some("small".into()),
            reason: "domain",
            candidates: ["igor".to_owned()].into(),
        };
        let assignments: Vec<_> = inserted.iter().map(|one| assign(one.id)).collect();
        shop.store.assign(&shop.fence, &assignments).await.unwrap();
        shop
    }

    async fn declare(&self, kind: &str, name: &str, spec: serde_json::Value) {
        let row = DeclaredRow {
            uid: format!("{kind}-{name}"),
            kind: kind.into(),
            namespace: "default".into(),
            name: name.into(),
            generation: 1,
            labels: std::collections::BTreeMap::new(),
            spec,
            suspended: false,
            held: None,
        };
        self.store.project_declared(&self.fence, &row).await.unwrap();
    }

    async fn task(&self, id: TaskId) -> Task {
        self.store.task(id).await.unwrap().unwrap()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn claim(queues: Vec<Served>) -> SlotClaim {
    SlotClaim {
        queues,
        holder: HOLDER.into(),
        server_url: URL.into(),
        models: vec![("default".into(), "small".into())],
        loaded: None,
        affinity: Duration::ZERO,
        most: 1,
        slot_lease: MINUTE,
        call_within: 10 * MINUTE,
    }
}

#[tokio::test]
async fn a_claim_without_an_answer_gives_its_task_back_once_the_others_under_its_lease_have_ended() {
    let shop = Shop::open().await;
    let leases = Leases::new(Arc::clone(&shop.store), HOLDER.into());
    let slots = HeldSlots::new(Arc::clone(&shop.store), MINUTE);
    let queues = [(QueueKey { namespace: "default".into(), name: "default".into() }, MINUTE)];
    let first = leases.served(&queues).await.unwrap();
    let asked_at = crate::store::BootInstant::now();
    let (slot, known) = shop.store.claim_slots(&claim(first.clone())).await.unwrap().given.remove(0);
    let held = slots.add(slot, asked_at, 10 * MINUTE);
    let share = leases.of(&known.lease).unwrap();
    // This one's answer is lost on its way.
    let lost = shop.store.claim_slots(&claim(first.clone())).await.unwrap().given.remove(0).1.task.id;
    leases.doubt(&first);
    slots.doubt();

    assert_eq!(leases.current(&first), [], "nothing more is claimed under it");
    let second = leases.served(&queues).await.unwrap();
    assert_ne!(second[0].lease.id, first[0].lease.id);
    assert_eq!(leases.current(&first), second);
    assert!(!leases.settle().await.unwrap(), "a task under it is being done");
    assert_eq!(shop.task(lost).await.state, TaskState::InProgress);
    slots.give_back_unknown(HOLDER, &[URL.into()], Duration::ZERO).await.unwrap();
    assert_eq!(shop.store.slots(URL).await.unwrap().len(), 1, "the slot that nobody knew of is free");
    assert!(leases.of(&known.lease).is_some(), "its task is still ours");

    drop(share);
    assert!(leases.settle().await.unwrap());
    let task = shop.task(lost).await;
    assert_eq!((task.state, task.attempts_used, task.leases_lost), (TaskState::Pending, 0, 0), "at no attempt");
    assert!(!leases.settle().await.unwrap(), "once is enough");
    assert_eq!(leases.served(&queues).await.unwrap(), second, "the other one stays");
    slots.release(&held, Duration::ZERO).await;
    assert_eq!(shop.store.slots(URL).await.unwrap(), []);
}

#[tokio::test]
async fn a_slot_is_not_called_in_once_its_lease_may_have_lapsed() {
    let shop = Shop::open().await;
    let slots = HeldSlots::new(Arc::clone(&shop.store), MINUTE);
    let leases = Leases::new(Arc::clone(&shop.store), HOLDER.into());
    let queues = [(QueueKey { namespace: "default".into(), name: "default".into() }, MINUTE)];
    let served = leases.served(&queues).await.unwrap();
    let (slot, _) = shop.store.claim_slots(&claim(served)).await.unwrap().given.remove(0);
    let asked_at = crate::store::BootInstant::now();
    let held = slots.add(slot, asked_at, 10 * MINUTE);
    for (after, begins) in [(0, true), (56, true), (57, false), (599, false)] {
        let now = asked_at + Duration::from_secs(after);
        assert_eq!(held.may_begin(now).is_ok(), begins, "after {after} s");
        assert!(held.may_run(now).is_ok(), "what runs goes on");
    }
    slots.renew().await;
    assert!(held.may_begin(asked_at + Duration::from_secs(56)).is_ok());
}

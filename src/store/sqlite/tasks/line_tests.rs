//! Who goes first, with a clock that is moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::super::{FolderAccess, SqliteStore};
use crate::store::{
    Admission, DeclaredRow, Dispatch, Fence, Leadership, Projections, Reaped, Served, ServerRow, SlotClaim, Slots,
    Tasks, Work,
};
use crate::tasks::{Assignment, NewTask, QueueKey, TaskId, TaskState};

const DAY: Duration = Duration::from_secs(86_400);
const URL: &str = "http://server";

/// A store whose clock stands still until it is moved, with an expert for each of two models.
struct Shop {
    store: SqliteStore,
    clock: Arc<AtomicI64>,
    fence: Fence,
    served: Served,
    folder: std::path::PathBuf,
}

impl Shop {
    async fn open(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ostler-line-{name}-{}", std::process::id()));
        let mut store = SqliteStore::open(&folder, FolderAccess::Lock).await.unwrap();
        let clock = Arc::new(AtomicI64::new(1_000_000));
        let read = clock.clone();
        store.clock = Box::new(move || Timestamp::from_second(read.load(Ordering::SeqCst)).unwrap().into());
        let fence = store.campaign("leader", 9 * DAY).await.unwrap().unwrap();
        for (kind, name, spec) in [
            ("TaskQueue", "default", json!({})),
            ("Expert", "igor", json!({"model": "small"})),
            ("Expert", "olga", json!({"model": "large"})),
        ] {
            let row = DeclaredRow {
                uid: name.to_owned(),
                kind: kind.to_owned(),
                namespace: "default".to_owned(),
                name: name.to_owned(),
                generation: 1,
                labels: [].into(),
                spec,
                suspended: false,
                held: None,
            };
            store.project_declared(&fence, &row).await.unwrap();
        }
        let server = ServerRow {
            url: URL.to_owned(),
            limit: 99,
            admission: Admission::Open,
            instance: None,
            calls_per_day: None,
        };
        store.put_server(&fence, &server).await.unwrap();
        let queue = QueueKey { namespace: "default".to_owned(), name: "default".to_owned() };
        let lease = store.open_lease("worker", &queue, 9 * DAY).await.unwrap();
        Self { store, clock, fence, served: Served { queue, lease }, folder }
    }

    fn pass(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
    }

    async fn give(&self, expert: &str, model: &str, priority: i32) -> TaskId {
        let QueueKey { namespace, name: queue } = self.served.queue.clone();
        let task = NewTask { namespace, queue, priority, ..NewTask::default() };
        let task = self.store.insert_tasks(&[task]).await.unwrap()[0].id;
        let (expert, model) = (expert.to_owned(), Some(model.to_owned()));
        let assignment = Assignment { task, expert, model, reason: "role", candidates: [].into() };
        assert_eq!(self.store.assign(&self.fence, &[assignment]).await, Ok(1));
        task
    }

    /// The next one for a server that has `large` in memory.
    async fn next(&self) -> TaskId {
        let model = |alias: &str| ("default".to_owned(), alias.to_owned());
        let claim = SlotClaim {
            queues: vec![self.served.clone()],
            holder: "worker".to_owned(),
            server_url: URL.to_owned(),
            models: vec![model("small"), model("large")],
            loaded: Some(model("large")),
            affinity: Duration::from_secs(60),
            most: 1,
            slot_lease: DAY,
            call_within: DAY,
        };
        self.store.claim_slots(&claim).await.unwrap().given[0].1.task.id
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

#[tokio::test]
async fn ten_minutes_longer_in_line_count_as_one_priority_higher() {
    let shop = Shop::open("ageing").await;
    let old = shop.give("igor", "small", 0).await;
    shop.pass(599);
    let high = shop.give("igor", "small", 1).await;
    shop.pass(2);
    let late = shop.give("igor", "small", 1).await;
    assert_eq!([shop.next().await, shop.next().await, shop.next().await], [high, old, late]);
}

#[tokio::test]
async fn the_loaded_model_goes_before_what_waited_a_minute_longer_and_no_more() {
    let shop = Shop::open("affinity").await;
    let first = shop.give("igor", "small", 0).await;
    shop.pass(30);
    let second = shop.give("igor", "small", 0).await;
    shop.pass(30);
    let loaded = [shop.give("olga", "large", 0).await, shop.give("olga", "large", 0).await];
    shop.pass(1);
    let late = shop.give("olga", "large", 0).await;
    // However long all of them wait: the model is not swapped to and fro.
    shop.pass(3_600);
    let order = [shop.next().await, shop.next().await, shop.next().await, shop.next().await, shop.next().await];
    assert_eq!(order, [loaded[0], loaded[1], first, late, second]);
}

#[tokio::test]
async fn eight_hours_asleep_cost_nobody_a_lease_that_is_renewed_before_it_is_taken() {
    let shop = Shop::open("asleep").await;
    let task = shop.give("igor", "small", 0).await;
    let short = Duration::from_secs(90);
    assert_eq!(shop.store.renew_leases(&[(shop.served.lease.clone(), short)]).await, Ok(vec![]));
    assert_eq!(shop.next().await, task);
    shop.pass(8 * 3_600);
    assert_eq!(shop.store.renew_leases(&[(shop.served.lease.clone(), short)]).await, Ok(vec![]));
    assert_eq!(shop.store.reap(&shop.fence).await, Ok(Reaped::default()));
    let task = shop.store.task(task).await.unwrap().unwrap();
    assert_eq!((task.state, task.epoch, task.leases_lost), (TaskState::InProgress, 1, 0));
}

/// Statements that run again and again must not look at all tasks that there are.
#[tokio::test]
async fn what_runs_periodically_reads_by_indexes() {
    let shop = Shop::open("plans").await;
    for (statement, index) in [
        (super::claiming::HEADS, "tasks_to_claim (namespace=? AND queue=? AND assigned_model=? AND expert>?)"),
        (
            super::claiming::READ_ON,
            "tasks_to_claim (namespace=? AND queue=? AND assigned_model=? AND expert=? AND rank>? AND rank<?)",
        ),
        (super::reading::OLDEST, "COVERING INDEX tasks_by_state (namespace=? AND queue=? AND state=?)"),
        (super::reading::COUNTS, "task_counts"),
        (
            "SELECT * FROM tasks WHERE true AND (state_since, id) > (?, ?) ORDER BY state_since, id LIMIT ?",
            "tasks_by_change",
        ),
        ("SELECT id FROM tasks WHERE lease = ?", "tasks_by_lease"),
    ] {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&shop.store.reader).await.unwrap();
        let plan: Vec<String> = plan.into_iter().map(|(_, _, _, step)| step).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index), "{statement}:\n{plan}");
        assert!(!plan.contains("SCAN tasks") && !plan.contains("SCAN t\n"), "{statement}:\n{plan}");
    }
}

//! Calls that wait, by caller and by the servers that could take them: the first of each looks for a slot.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::turns::{RequestHash, Turns};
use crate::{calls::KnownCaller, store::SlotWait, tasks::share::CallClass};

/// Calls of one caller that wait for the same servers.
pub(super) struct WaitQueue {
    servers: Vec<String>,
    class: CallClass,
    caller: String,
    weight: i32,
    turns: Mutex<Turns>,
    calls: AtomicI64,
    /// What they wait for is a limit of their caller, and no server.
    limited: AtomicBool,
}

impl WaitQueue {
    /// Takes the last turn, or the one that is kept for this request.
    pub fn join(self: &Arc<Self>, request: impl FnOnce() -> RequestHash) -> Turn {
        let (number, told) = self.turns.lock().join(request, Instant::now());
        Turn { queue: Arc::clone(self), number, told, kept: None }
    }

    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }
}

/// A call's turn in its queue.
pub(super) struct Turn {
    queue: Arc<WaitQueue>,
    number: u64,
    told: Arc<Notify>,
    kept: Option<(RequestHash, Instant)>,
}

impl Turn {
    pub fn is_first(&self) -> bool {
        self.queue.turns.lock().is_first(self.number)
    }

    /// Resolves when whoever was before it has left.
    pub async fn comes(&self) {
        self.told.notified().await;
    }

    /// Its client left, and may come back.
    pub fn keep(mut self, request: RequestHash, until: Instant) {
        self.kept = Some((request, until));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.turns.lock().leave(self.number, self.kept);
    }
}

/// Caller, class, weight and servers.
type WaitKey = (String, CallClass, i32, Vec<String>);

/// All that wait.
#[derive(Default)]
pub(super) struct WaitQueues {
    queues: Mutex<HashMap<WaitKey, Arc<WaitQueue>>>,
    more: Notify,
}

impl WaitQueues {
    /// The queue of a caller for some servers. One in which nobody waits is forgotten.
    pub fn of(&self, caller: &KnownCaller, mut servers: Vec<String>) -> Arc<WaitQueue> {
        servers.sort_unstable();
        servers.dedup();
        let mut queues = self.queues.lock();
        let now = Instant::now();
        queues.retain(|_, queue| Arc::strong_count(queue) > 1 || queue.turns.lock().keeps_any(now));
        let key = (caller.id(), caller.class(), caller.spec.weight, servers.clone());
        let queue = queues.entry(key).or_insert_with(|| {
            Arc::new(WaitQueue {
                servers,
                class: caller.class(),
                caller: caller.id(),
                weight: caller.spec.weight,
                turns: Mutex::default(),
                calls: AtomicI64::new(0),
                limited: AtomicBool::new(false),
            })
        });
        Arc::clone(queue)
    }

    /// A call begins to wait, or waits no more.
    pub fn count(&self, queue: &WaitQueue, calls: i64) {
        queue.calls.fetch_add(calls, Ordering::Relaxed);
        if calls > 0 {
            self.more.notify_one();
        }
    }

    /// Whether the calls of a queue wait for their caller's limit.
    pub fn limit(&self, queue: &WaitQueue, limited: bool) {
        if queue.limited.swap(limited, Ordering::Relaxed) && !limited {
            self.more.notify_one();
        }
    }

    /// Some began to wait for servers.
    pub async fn more(&self) {
        self.more.notified().await;
    }

    /// What waits for servers now.
    pub fn waits(&self) -> Vec<SlotWait> {
        let mut all: BTreeMap<(&str, CallClass, &str), SlotWait> = BTreeMap::new();
        let queues = self.queues.lock();
        for queue in queues.values().filter(|queue| !queue.is_limited()) {
            let calls = queue.calls.load(Ordering::Relaxed);
            for server in queue.servers.iter().filter(|_| calls > 0) {
                let wait = all.entry((server, queue.class, &queue.caller)).or_insert_with(|| SlotWait {
                    server_url: server.clone(),
                    class: queue.class,
                    caller: queue.caller.clone(),
                    weight: queue.weight,
                    calls: 0,
                });
                wait.calls += calls;
            }
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_servers_is_told_and_what_waits_for_its_caller_is_not() {
        let queues = WaitQueues::default();
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let editor = KnownCaller::undeclared("team", "editor");
        let mut batch = KnownCaller::undeclared("team", "batch");
        batch.spec.class = crate::api::CallerClass::Batch;
        let one = queues.of(&editor, urls(&["b", "a"]));
        assert!(Arc::ptr_eq(&one, &queues.of(&editor, urls(&["a", "b", "a"]))), "in whatever order");
        let two = queues.of(&editor, urls(&["a"]));
        let three = queues.of(&batch, urls(&["a"]));
        for (queue, calls) in [(&one, 2), (&two, 1), (&three, 1)] {
            queues.count(queue, calls);
        }
        let told = || {
            let each = queues.waits().into_iter().map(|wait| (wait.server_url, wait.class, wait.calls));
            each.collect::<Vec<_>>()
        };
        let wait = |url: &str, class, calls| (url.to_owned(), class, calls);
        let interactive = CallClass::Interactive;
        assert_eq!(told(), [wait("a", interactive, 3), wait("a", CallClass::Batch, 1), wait("b", interactive, 2)]);
        queues.limit(&one, true);
        queues.limit(&three, true);
        assert_eq!(told(), [wait("a", interactive, 1)]);
        queues.limit(&one, false);
        queues.count(&one, -2);
        queues.count(&two, -1);
        assert_eq!(told(), []);
        drop((one, two));
        queues.of(&batch, urls(&["c"]));
        assert_eq!(queues.queues.lock().len(), 2, "the two that somebody knows");
    }
}

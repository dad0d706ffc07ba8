//! Slots against a model that is small enough to be believed: whatever happens in whatever order, no call starts above the
//! limit in force then.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::{FolderAccess, SqliteStore};
use crate::store::{
    Admission, CallLife, Fence, Leadership, ServerRow, Slot, SlotAnswer, SlotPurpose, SlotRequest, Slots, StoreError,
};

#[derive(Clone, Debug)]
enum Step {
    Pass {
        seconds: i64,
    },
    Take {
        purpose: SlotPurpose,
        lease: i64,
        within: i64,
    },
    /// The call is the `call`-th of those made so far, wrapping around.
    Renew {
        call: usize,
        lease: i64,
    },
    Release {
        call: usize,
        linger: i64,
    },
    Limit {
        limit: i32,
    },
    Admit {
        admission: Admission,
    },
    /// Another process listens, or nobody knows which; it has been running for at most so long, where that is known.
    Restart {
        known: bool,
        ran: Option<i64>,
    },
    Abort,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let purpose = prop_oneof![4 => Just(SlotPurpose::Call), 1 => Just(SlotPurpose::Canary)];
    let admission = prop_oneof![4 => Just(Admission::Open), 1 => Just(Admission::One), 1 => Just(Admission::Closed)];
    let step = prop_oneof![
        3 => (1_i64..20).prop_map(|seconds| Step::Pass { seconds }),
        8 => (purpose, 0_i64..15, 0_i64..40).prop_map(|(purpose, lease, within)| Step::Take { purpose, lease, within }),
        4 => (any::<usize>(), 0_i64..15).prop_map(|(call, lease)| Step::Renew { call, lease }),
        3 => (any::<usize>(), 0_i64..3).prop_map(|(call, linger)| Step::Release { call, linger }),
        2 => (0_i32..5).prop_map(|limit| Step::Limit { limit }),
        1 => admission.prop_map(|admission| Step::Admit { admission }),
        1 => (any::<bool>(), proptest::option::of(0_i64..30)).prop_map(|(known, ran)| Step::Restart { known, ran }),
        1 => Just(Step::Abort),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A call that was started, as its worker knows it.
struct Call {
    slot: Slot,
    lease_until: i64,
    call_until: i64,
    released_until: Option<i64>,
    aborted: bool,
    instance: Option<u32>,
}

struct Model {
    now: i64,
    limit: i32,
    admission: Admission,
    instance: Option<u32>,
    /// The instance that was last known, so that another one is really another.
    restarts: u32,
    calls: Vec<Call>,
}

impl Model {
    fn may_run(&self, call: &Call) -> bool {
        self.now < call.released_until.unwrap_or_else(|| call.lease_until.max(call.call_until))
    }

    fn occupied(&self) -> i64 {
        i64::try_from(self.calls.iter().filter(|call| self.may_run(call)).count()).expect("few")
    }

    /// What a request for a slot must be answered with; `None`: with a slot.
    fn refusal(&self, purpose: SlotPurpose) -> Option<SlotAnswer> {
        let limit = match (purpose, self.admission) {
            (SlotPurpose::Call, Admission::Closed) => return Some(SlotAnswer::Closed),
            (SlotPurpose::Call, Admission::Open) => self.limit,
            _ => self.limit.min(1),
        };
        (self.occupied() >= i64::from(limit)).then(|| SlotAnswer::Full { occupied: self.occupied(), limit })
    }

    fn server(&self, url: &str) -> ServerRow {
        let instance = self.instance.map(|number| format!("{number}@0"));
        ServerRow { url: url.to_owned(), limit: self.limit, admission: self.admission, instance, calls_per_day: None }
    }
}

struct Bench {
    store: SqliteStore,
    fence: Fence,
    clock: Arc<AtomicI64>,
    folder: PathBuf,
    urls: AtomicU32,
}

impl Bench {
    async fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("ostler-slots-model-{}", std::process::id()));
        let mut store = SqliteStore::open(&folder, FolderAccess::Lock).await.expect("open");
        let clock = Arc::new(AtomicI64::new(0));
        let read = clock.clone();
        store.clock = Box::new(move || second(read.load(Ordering::SeqCst)).into());
        let fence = store.campaign("leader", Duration::from_secs(100_000_000)).await.expect("campaign").expect("ours");
        Self { store, fence, clock, folder, urls: AtomicU32::new(0) }
    }

    async fn play(&self, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let url = format!("http://server-{}", self.urls.fetch_add(1, Ordering::SeqCst));
        let mut model =
            Model { now: 1_000, limit: 2, admission: Admission::Open, instance: Some(0), restarts: 0, calls: vec![] };
        self.clock.store(model.now, Ordering::SeqCst);
        self.put(&model, &url).await;
        for step in steps {
            self.step(&mut model, &url, step).await?;
            let rows = self.store.slots(&url).await.expect("slots");
            let mut wanted: Vec<_> = model
                .calls
                .iter()
                .filter(|call| model.may_run(call))
                .map(|call| (call.slot.number, call.slot.epoch))
                .collect();
            wanted.sort_unstable();
            prop_assert_eq!(rows.iter().map(|row| (row.number, row.epoch)).collect::<Vec<_>>(), wanted);
        }
        Ok(())
    }

    async fn put(&self, model: &Model, url: &str) {
        self.store.put_server(&self.fence, &model.server(url)).await.expect("put the server");
    }

    async fn step(&self, model: &mut Model, url: &str, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Pass { seconds } => {
                model.now += seconds;
                self.clock.store(model.now, Ordering::SeqCst);
            }
            Step::Take { purpose, lease, within } => self.take(model, url, purpose, lease, within).await?,
            Step::Renew { call, lease } if !model.calls.is_empty() => {
                let index = call % model.calls.len();
                let call = &model.calls[index];
                let allowed = model.may_run(call) && call.released_until.is_none() && !call.aborted;
                let answer = self.store.renew_slot(&call.slot, secs(lease), CallLife::default()).await;
                prop_assert_eq!(answer.is_ok(), allowed, "{:?}", answer);
                prop_assert!(matches!(answer, Ok(()) | Err(StoreError::Fenced(_))), "{:?}", answer);
                if allowed {
                    model.calls[index].lease_until = model.now + lease;
                }
            }
            Step::Release { call, linger } if !model.calls.is_empty() => {
                let index = call % model.calls.len();
                let call = &mut model.calls[index];
                self.store.release_slot(&call.slot, secs(linger)).await.expect("release");
                call.released_until.get_or_insert(model.now + linger);
            }
            Step::Renew { .. } | Step::Release { .. } => {}
            Step::Limit { limit } => model.limit = limit,
            Step::Admit { admission } => model.admission = admission,
            Step::Restart { known, ran } => {
                model.restarts += 1;
                model.instance = known.then_some(model.restarts);
                let running_for = ran.map(secs);
                let put = self.store.put_server_running(&self.fence, &model.server(url), running_for).await;
                put.expect("put the server");
                if let (true, Some(ran)) = (known, ran) {
                    let now = model.now;
                    let gone = |call: &&mut Call| {
                        call.released_until.is_none() && call.instance.is_some() && call.lease_until <= now - ran
                    };
                    model.calls.iter_mut().filter(gone).for_each(|call| call.released_until = Some(now));
                }
            }
            Step::Abort => {
                self.store.abort_slots(&self.fence, url).await.expect("abort");
                let now = model.now;
                let held =
                    |call: &&mut Call| call.released_until.is_none() && now < call.lease_until.max(call.call_until);
                model.calls.iter_mut().filter(held).for_each(|call| call.aborted = true);
            }
        }
        self.put(model, url).await;
        Ok(())
    }

    async fn take(
        &self,
        model: &mut Model,
        url: &str,
        purpose: SlotPurpose,
        lease: i64,
        within: i64,
    ) -> Result<(), TestCaseError> {
        let request = SlotRequest {
            server_url: url.to_owned(),
            holder: format!("holder-{}", model.calls.len()),
            purpose,
            class: None,
            caller: None,
            model: None,
            lease: secs(lease),
            call_within: secs(within),
        };
        let answer = self.store.take_slot(&request).await.expect("take");
        match (model.refusal(purpose), answer) {
            (None, SlotAnswer::Given(slot)) => {
                // Whoever had the row before has lost it for good.
                while let Some(index) = model.calls.iter().position(|call| call.slot.number == slot.number) {
                    let old = model.calls.remove(index);
                    prop_assert!(!model.may_run(&old), "{:?} was given while it may still run", old.slot);
                    let answer = self.store.renew_slot(&old.slot, secs(lease), CallLife::default()).await;
                    prop_assert!(matches!(answer, Err(StoreError::Fenced(_))), "{:?}", answer);
                }
                model.calls.push(Call {
                    slot,
                    lease_until: model.now + lease,
                    call_until: model.now + within,
                    released_until: None,
                    aborted: false,
                    instance: model.instance,
                });
            }
            (Some(refusal), answer) => prop_assert_eq!(answer, refusal),
            (None, answer) => prop_assert!(false, "{} of {} occupied, yet {:?}", model.occupied(), model.limit, answer),
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("can't remove {}: {error}", self.folder.display());
        }
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn secs(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

#[test]
fn no_call_starts_above_the_limit_whatever_happened_before() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bench = runtime.block_on(Bench::new());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 96, ..ProptestConfig::default() });
    let result = runner.run(&steps(), |steps| runtime.block_on(bench.play(steps)));
    drop(bench);
    if let Err(error) = result {
        panic!("{error}");
    }
}

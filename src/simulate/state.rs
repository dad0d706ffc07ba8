use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::engines::EngineKind;

use super::calls::Ledger;
use super::models::{Asked, Keep, Models, Runner};
use super::{ActiveFault, Fault, OnCrash, SimulateOptions, Trigger};

/// A control call that makes the server die is still answered.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(50);

/// One server's memory.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: SimulateOptions,
    pub(super) ledger: Ledger,
    faults: watch::Sender<Vec<Set>>,
    next_fault: AtomicU64,
    crashed: watch::Sender<Option<i32>>,
    models: Mutex<Models>,
    runners_changed: Notify,
    /// Of each runner, as many permits as calls it runs at a time.
    lanes: Mutex<HashMap<u64, Arc<Semaphore>>>,
    waiting: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Set {
    id: u64,
    active: ActiveFault,
    /// Inference calls before it was set.
    calls_before: u64,
}

/// More calls wait than the server lets wait.
#[derive(Debug)]
pub(super) struct QueueFull;

impl Shared {
    pub(super) fn new(options: SimulateOptions) -> Arc<Self> {
        let max_loaded = if options.engine == EngineKind::Mlx { 1 } else { options.max_loaded.max(1) };
        let models = Models::new(options.engine, &options.models, max_loaded);
        Arc::new(Self {
            options,
            ledger: Ledger::default(),
            faults: watch::Sender::new(Vec::new()),
            next_fault: AtomicU64::new(0),
            crashed: watch::Sender::new(None),
            models: Mutex::new(models),
            runners_changed: Notify::new(),
            lanes: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    pub(super) fn faults(&self) -> Vec<ActiveFault> {
        self.faults.borrow().iter().map(|set| set.active.clone()).collect()
    }

    pub(super) fn add_faults(self: &Arc<Self>, faults: Vec<ActiveFault>) {
        let calls_before = self.ledger.inferences().0;
        for active in faults {
            let id = self.next_fault.fetch_add(1, Ordering::Relaxed);
            self.faults.send_modify(|sets| sets.push(Set { id, active: active.clone(), calls_before }));
            self.time(id, &active);
        }
    }

    pub(super) fn clear_faults(&self) {
        self.faults.send_modify(Vec::clear);
    }

    fn end_faults(&self, over: impl Fn(&Set) -> bool) {
        self.faults.send_if_modified(|sets| {
            let before = sets.len();
            sets.retain(|set| !over(set));
            sets.len() != before
        });
    }

    /// Starts what a fault does by the clock: its end, or a crash.
    fn time(self: &Arc<Self>, id: u64, active: &ActiveFault) {
        if let Some(lasts) = active.lasts {
            let weak = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(lasts).await;
                if let Some(shared) = weak.upgrade() {
                    shared.end_faults(|set| set.id == id);
                }
            });
        }
        let Some(trigger) = active.fault.trigger() else { return };
        let after = match trigger.after_seconds {
            Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            None if trigger.is_now() => LAST_WORDS,
            None => return,
        };
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let Some(shared) = weak.upgrade() else { return };
            let set = shared.faults.borrow().iter().find(|set| set.id == id).cloned();
            if let Some(set) = set {
                shared.crash(&set.active.fault);
            }
        });
    }

    /// What the first fault says that has something to say.
    pub(super) fn fault<T>(&self, says: impl FnMut(&Fault) -> Option<T>) -> Option<T> {
        self.faults.borrow().iter().map(|set| &set.active.fault).find_map(says)
    }

    /// Waits until no fault is such.
    pub(super) async fn until_none(&self, is_such: impl Fn(&Fault) -> bool) {
        self.until(|faults| !faults.iter().any(|set| is_such(&set.active.fault))).await;
    }

    /// Waits until some fault is such.
    pub(super) async fn until_some(&self, is_such: impl Fn(&Fault) -> bool) {
        self.until(|faults| faults.iter().any(|set| is_such(&set.active.fault))).await;
    }

    async fn until(&self, holds: impl Fn(&[Set]) -> bool) {
        let mut changes = self.faults.subscribe();
        // Its sender lives in self: it can't fail.
        let _ = changes.wait_for(|faults| holds(faults)).await;
    }

    /// Crashes when the inference call that just began is the one too many.
    pub(super) fn crash_if_triggered(&self) {
        let (calls, in_flight) = self.ledger.inferences();
        let due = |set: &&Set| {
            let Some(Trigger { after_requests, above_in_flight, .. }) = set.active.fault.trigger() else {
                return false;
            };
            after_requests.is_some_and(|n| calls - set.calls_before > n)
                || above_in_flight.is_some_and(|n| in_flight > n)
        };
        let fault = self.faults.borrow().iter().find(due).map(|set| set.active.fault.clone());
        if let Some(fault) = fault {
            self.crash(&fault);
        }
    }

    fn crash(&self, fault: &Fault) {
        let code = match fault {
            Fault::Crash { exit_code, .. } => *exit_code,
            _ => {
                eprintln!("{}", out_of_memory_message(self.options.engine));
                137
            }
        };
        match self.options.on_crash {
            OnCrash::StopServing => {
                self.crashed.send_replace(Some(code));
            }
            OnCrash::EndProcess => {
                if matches!(fault, Fault::OutOfMemory { .. }) {
                    // As the kernel ends it: no handler runs.
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
                }
                std::process::exit(code)
            }
        }
    }

    /// The exit code of the crash, once there was one.
    pub(super) fn crashed(&self) -> watch::Receiver<Option<i32>> {
        self.crashed.subscribe()
    }

    fn models(&self) -> MutexGuard<'_, Models> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn listed(&self) -> Vec<String> {
        if self.fault(|f| matches!(f, Fault::NoModels {}).then_some(())).is_some() {
            return Vec::new();
        }
        let installed = self.models().installed().to_vec();
        installed.into_iter().filter(|name| !self.is_missing(name)).collect()
    }

    /// The listed name for a name asked for.
    pub(super) fn find(&self, asked: &str) -> Option<String> {
        let name = self.models().find(asked)?;
        self.listed().contains(&name).then_some(name)
    }

    fn is_missing(&self, name: &str) -> bool {
        let engine = self.options.engine;
        let gone =
            |f: &Fault| matches!(f, Fault::MissingModel { model } if crate::engines::same_model(engine, model, name));
        self.fault(|f| gone(f).then_some(())).is_some()
    }

    /// A pull that ended.
    pub(super) fn install(&self, name: &str) {
        let engine = self.options.engine;
        self.end_faults(|set| {
            matches!(&set.active.fault, Fault::MissingModel { model } if crate::engines::same_model(engine, model, name))
        });
        self.models().install(name);
        self.ledger.note_pull(name);
    }

    pub(super) fn runners(&self) -> Vec<Runner> {
        self.sweep();
        self.models().runners().to_vec()
    }

    pub(super) fn unload(&self, model: &str) {
        self.models().unload(model, Timestamp::now());
        self.sweep();
    }

    /// Lets go of runners whose time is over. A hang lives in a runner, so it ends with it.
    fn sweep(&self) {
        let gone = self.models().expire(Timestamp::now());
        for model in &gone {
            self.ledger.note_unload(model);
        }
        if !gone.is_empty() {
            self.end_faults(|set| matches!(set.active.fault, Fault::HangInference { survives_unload: false }));
            self.runners_changed.notify_waiters();
        }
    }

    pub(super) fn evict_all(&self) {
        let gone = self.models().evict_all();
        for model in gone {
            self.ledger.note_unload(&model);
        }
    }

    /// A place at the runner of a listed model, loaded if need be; waits its turn.
    pub(super) async fn acquire(self: &Arc<Self>, model: &str, keep: Option<Keep>) -> Result<Lease, QueueFull> {
        let _waiting = Waiting::enter(&self.waiting, self.options.queue)?;
        let load = self.fault(|f| if let Fault::SlowLoad { seconds } = f { Some(*seconds) } else { None });
        let load = load.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or_default();
        let keep = if self.options.engine == EngineKind::Ollama { keep } else { Some(Keep::Forever) };
        let (generation, ready_at, loaded) = loop {
            let mut changed = std::pin::pin!(self.runners_changed.notified());
            changed.as_mut().enable();
            self.sweep();
            let asked = self.models().ask(model, keep, load, Timestamp::now());
            match asked {
                Asked::Got { generation, ready_at, loaded, evicted } => {
                    if let Some(model) = evicted {
                        self.ledger.note_unload(&model);
                    }
                    break (generation, ready_at, loaded);
                }
                Asked::Wait => changed.await,
            }
        };
        let mut lease = Lease { shared: Arc::clone(self), generation, load: Duration::ZERO, lane: None };
        if loaded {
            self.ledger.note_load(model);
            lease.load = load;
        }
        let left = Duration::try_from(ready_at.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::sleep(left).await;
        if self.options.engine == EngineKind::Ollama {
            // The semaphore is never closed.
            lease.lane = self.lane(generation).acquire_owned().await.ok();
        }
        Ok(lease)
    }

    fn lane(&self, generation: u64) -> Arc<Semaphore> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let live: Vec<u64> = self.models().runners().iter().map(|runner| runner.generation).collect();
        lanes.retain(|generation, _| live.contains(generation));
        Arc::clone(lanes.entry(generation).or_insert_with(|| Arc::new(Semaphore::new(self.options.parallel.max(1)))))
    }
}

/// A call's place at a runner; dropping it ends the call.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    generation: u64,
    /// How long the model took to load for this call.
    pub(super) load: Duration,
    lane: Option<OwnedSemaphorePermit>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lane = None;
        self.shared.models().release(self.generation, Timestamp::now());
        self.shared.sweep();
        self.shared.runners_changed.notify_waiters();
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, most: usize) -> Result<Self, QueueFull> {
        let waiting = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= most { Err(QueueFull) } else { Ok(waiting) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As real ones were seen to put it, so that patterns for them can be tried.
fn out_of_memory_message(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Ollama => {
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: cudaMalloc failed: out of memory"
        }
        EngineKind::Mlx => {
            "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer execution \
             failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
        }
        EngineKind::OpenAi => "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB.",
    }
}

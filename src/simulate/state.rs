use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::engines::{EngineKind, same_model};

use super::calls::{Ledger, foreign_calls};
use super::in_force::{BegunFault, CallLoad, Faults, checked};
use super::models::{Keep, ModelRunner, Models, RunnerOffer};
use super::{ActiveFault, Fault, OnCrash, SimulateOptions};

/// A control call that makes the server die is still answered.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(50);

/// One server's memory.
#[derive(Debug)]
pub(super) struct SimulatedState {
    pub(super) options: SimulateOptions,
    pub(super) ledger: Ledger,
    pub(super) faults: Faults,
    next_fault: AtomicU64,
    crashed: watch::Sender<Option<i32>>,
    /// Cancelled when the server is stopped or has crashed.
    pub(super) over: CancellationToken,
    models: Mutex<Models>,
    runners_changed: Notify,
    /// Of each runner, as many permits as calls it runs at a time.
    lanes: Mutex<HashMap<u64, Arc<Semaphore>>>,
    waiting: AtomicUsize,
}

/// Why a call gets no place at a runner.
#[derive(Debug)]
pub(super) enum NoPlace {
    /// More calls wait than the server lets wait.
    QueueFull,
    LoadFailed,
}

impl SimulatedState {
    pub(super) fn new(options: SimulateOptions) -> Arc<Self> {
        let max_loaded = if options.engine == EngineKind::Mlx { 1 } else { options.max_loaded.max(1) };
        let models = Models::new(options.engine, &options.models, max_loaded);
        Arc::new(Self {
            ledger: Ledger::new(options.start),
            faults: Faults::new(options.start),
            options,
            next_fault: AtomicU64::new(0),
            crashed: watch::Sender::new(None),
            over: CancellationToken::new(),
            models: Mutex::new(models),
            runners_changed: Notify::new(),
            lanes: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    fn load(&self, opening: bool) -> CallLoad {
        let (calls, in_flight) = self.ledger.inferences();
        CallLoad { calls, in_flight, opening }
    }

    pub(super) fn add_faults(self: &Arc<Self>, faults: Vec<ActiveFault>) {
        for active in faults {
            let id = self.next_fault.fetch_add(1, Ordering::Relaxed);
            let after = active.when.after_seconds;
            let ends_at_once = active.fault.ends_the_process() && active.when.begins_at_once();
            match self.faults.add(id, active, self.load(false)) {
                Some(BegunFault { active, .. }) if ends_at_once => {
                    self.later(LAST_WORDS, move |shared| {
                        if shared.faults.is_set(id) {
                            shared.crash(&active.fault);
                        }
                    });
                }
                Some(begun) => self.begin(begun),
                None => {
                    if let Some(seconds) = after {
                        self.later(checked(seconds), move |shared| {
                            if let Some(begun) = shared.faults.begin(id, shared.load(false)) {
                                shared.begin(begun);
                            }
                        });
                    }
                }
            }
        }
    }

    /// Begins and ends faults by the count of calls; `opening` when one was just opened.
    pub(super) fn review_faults(self: &Arc<Self>, opening: bool) {
        for begun in self.faults.review(self.load(opening)) {
            self.begin(begun);
        }
    }

    /// What a fault does by itself from its beginning.
    fn begin(self: &Arc<Self>, BegunFault { id, active }: BegunFault) {
        if active.fault.ends_the_process() {
            return self.crash(&active.fault);
        }
        if let Some(seconds) = active.when.for_seconds {
            self.later(checked(seconds), move |shared| shared.faults.end(id));
        }
        if let Fault::ForeignCalls { count } = active.fault {
            foreign_calls(self, id, count);
        }
    }

    fn later(self: &Arc<Self>, after: Duration, act: impl FnOnce(Arc<Self>) + Send + 'static) {
        let (weak, over) = (Arc::downgrade(self), self.over.clone());
        tokio::spawn(async move {
            let waited = over.run_until_cancelled(tokio::time::sleep(after)).await;
            if let (Some(()), Some(shared)) = (waited, weak.upgrade()) {
                act(shared);
            }
        });
    }

    /// What the first fault in force says that has something to say.
    pub(super) fn fault<T>(&self, says: impl FnMut(&Fault) -> Option<T>) -> Option<T> {
        self.faults.first(says)
    }

    /// Whether some fault in force is such.
    pub(super) fn has(&self, is_such: impl Fn(&Fault) -> bool) -> bool {
        self.faults.first(|fault| is_such(fault).then_some(())).is_some()
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
                self.over.cancel();
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

    pub(super) fn listed(&self) -> Vec<String> {
        if self.has(|fault| matches!(fault, Fault::NoModels {})) {
            return Vec::new();
        }
        let installed = self.models.lock().installed().to_vec();
        installed.into_iter().filter(|name| !self.is_missing(name)).chain(self.cloud_model()).collect()
    }

    /// A model that is listed and runs elsewhere.
    pub(super) fn cloud_model(&self) -> Option<String> {
        let ollama = self.options.engine == EngineKind::Ollama;
        self.fault(|fault| if let Fault::CloudModel { model } = fault { Some(model.clone()) } else { None })
            .filter(|_| ollama)
    }

    /// The listed name for a name asked for.
    pub(super) fn find(&self, asked: &str) -> Option<String> {
        if let Some(cloud) = self.cloud_model().filter(|cloud| cloud == asked) {
            return Some(cloud);
        }
        let name = self.models.lock().find(asked)?;
        self.listed().contains(&name).then_some(name)
    }

    fn is_missing(&self, name: &str) -> bool {
        let engine = self.options.engine;
        self.has(|fault| matches!(fault, Fault::MissingModel { model } if same_model(engine, model, name)))
    }

    /// A pull that ended.
    pub(super) fn install(&self, name: &str) {
        let engine = self.options.engine;
        self.faults.end_such(|fault| matches!(fault, Fault::MissingModel { model } if same_model(engine, model, name)));
        self.models.lock().install(name);
        self.ledger.note_pull(name);
    }

    pub(super) fn derived(&self, name: &str) -> Option<(String, u32)> {
        self.models.lock().derived(name).cloned()
    }

    pub(super) fn derive(&self, name: &str, from: &str, context: u32) -> bool {
        self.models.lock().derive(name, from, context)
    }

    pub(super) fn runners(&self) -> Vec<ModelRunner> {
        self.sweep();
        self.models.lock().runners().to_vec()
    }

    pub(super) fn unload(&self, model: &str) {
        self.models.lock().unload(model, Timestamp::now());
        self.sweep();
    }

    /// Lets go of runners whose time is over. A hang lives in a runner, so it ends with it.
    fn sweep(&self) {
        let gone = self.models.lock().expire(Timestamp::now());
        for model in &gone {
            self.ledger.note_unload(model);
        }
        if !gone.is_empty() {
            self.faults.end_such(|fault| matches!(fault, Fault::HangInference { survives_unload: false }));
            self.runners_changed.notify_waiters();
        }
    }

    pub(super) fn evict_all(&self) {
        let gone = self.models.lock().evict_all();
        for model in gone {
            self.ledger.note_unload(&model);
        }
    }

    /// A place at the runner of a listed model, loaded if need be; waits its turn.
    pub(super) async fn acquire(self: &Arc<Self>, model: &str, keep: Option<Keep>) -> Result<RunnerLease, NoPlace> {
        let _waiting = Waiting::enter(&self.waiting, self.options.queue)?;
        let slow = |fault: &Fault| match fault {
            Fault::SlowLoad { seconds, cancelled } => Some((checked(*seconds), *cancelled)),
            _ => None,
        };
        let (load, cancelled) = self.fault(slow).unwrap_or_default();
        if !self.is_loaded(model) && self.fails_to_load(model) {
            tokio::time::sleep(load).await;
            return Err(NoPlace::LoadFailed);
        }
        let keep = if self.options.engine == EngineKind::Ollama { keep } else { Some(Keep::Forever) };
        let (generation, ready_at, loaded) = loop {
            let mut changed = std::pin::pin!(self.runners_changed.notified());
            changed.as_mut().enable();
            self.sweep();
            let asked = self.models.lock().ask(model, keep, load, Timestamp::now());
            match asked {
                RunnerOffer::Got { generation, ready_at, loaded, evicted } => {
                    if let Some(model) = evicted {
                        self.ledger.note_unload(&model);
                    }
                    break (generation, ready_at, loaded);
                }
                RunnerOffer::Wait => changed.await,
            }
        };
        let mut lease = RunnerLease {
            shared: Arc::clone(self),
            generation,
            load: Duration::ZERO,
            cancels_load: cancelled,
            lane: None,
            running: false,
        };
        if loaded {
            self.ledger.note_load(model);
            lease.load = load;
        }
        let left = Duration::try_from(ready_at.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::sleep(left).await;
        lease.cancels_load = false;
        // The semaphore is never closed.
        lease.lane = self.lane(generation).acquire_owned().await.ok();
        lease.running = true;
        self.ledger.note_running(true);
        Ok(lease)
    }

    fn is_loaded(&self, model: &str) -> bool {
        self.runners().iter().any(|runner| runner.model == model)
    }

    fn fails_to_load(&self, name: &str) -> bool {
        let engine = self.options.engine;
        self.has(|fault| match fault {
            Fault::FailLoad { model } => model.as_ref().is_none_or(|only| same_model(engine, only, name)),
            _ => false,
        })
    }

    fn lane(&self, generation: u64) -> Arc<Semaphore> {
        let mut lanes = self.lanes.lock();
        let live: Vec<u64> = self.models.lock().runners().iter().map(|runner| runner.generation).collect();
        lanes.retain(|generation, _| live.contains(generation));
        Arc::clone(lanes.entry(generation).or_insert_with(|| Arc::new(Semaphore::new(self.options.parallel.max(1)))))
    }
}

/// A call's place at a runner; dropping it ends the call.
#[derive(Debug)]
pub(super) struct RunnerLease {
    shared: Arc<SimulatedState>,
    generation: u64,
    /// How long the model took to load for this call.
    pub(super) load: Duration,
    /// Set while the model loads and would not without a client.
    cancels_load: bool,
    lane: Option<OwnedSemaphorePermit>,
    running: bool,
}

impl Drop for RunnerLease {
    fn drop(&mut self) {
        self.lane = None;
        if self.running {
            self.shared.ledger.note_running(false);
        }
        self.shared.models.lock().release(self.generation, Timestamp::now());
        if self.cancels_load {
            self.shared.models.lock().cancel_load(self.generation);
        }
        self.shared.sweep();
        self.shared.runners_changed.notify_waiters();
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, most: usize) -> Result<Self, NoPlace> {
        let waiting = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= most { Err(NoPlace::QueueFull) } else { Ok(waiting) }
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

//! Ends executions in the database, many at once. While it takes none they wait on disk.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{leases::HeldLease, spool::Spool};
use crate::{
    store::{self, Recorded, Store, StoreClass, StoreError},
    tasks::{Completion, Finished},
    telemetry::WorkerMetrics,
};

/// Completions in one statement.
const AT_ONCE: usize = 500;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// A database that takes longer is failing: what waits for it goes to disk meanwhile.
const SLOW: Duration = Duration::from_secs(1);
/// Between two log lines about the same.
const SAY_AGAIN: Duration = Duration::from_secs(60);

struct Item {
    finished: Finished,
    recorded: oneshot::Sender<bool>,
    spooled: bool,
    /// Kept open until this is recorded; none of a former process.
    _lease: Option<Arc<HeldLease>>,
}

/// Takes completions. Those that come while others are being recorded go together.
#[derive(Clone)]
pub struct Finisher {
    items: mpsc::UnboundedSender<Item>,
}

impl Finisher {
    /// Records in the background until `drained` and everything given to it is recorded, or on disk. `pool` is for messages.
    pub fn start(
        store: Arc<dyn Store>,
        spool: Spool,
        metrics: WorkerMetrics,
        pool: &str,
        drained: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (items, given) = mpsc::unbounded_channel();
        let recorder = Recorder {
            store,
            spool,
            metrics,
            what: format!("record the results of pool {pool}"),
            waiting: VecDeque::new(),
            counted: 0,
            said: None,
            spool_error: None,
        };
        (Self { items }, tokio::spawn(recorder.run(given, drained)))
    }

    /// Hands over an end. The receiver tells whether it changed anything; it may be dropped.
    pub fn finish(&self, finished: Finished, lease: Arc<HeldLease>) -> oneshot::Receiver<bool> {
        let (recorded, tells) = oneshot::channel();
        // Only a process that has drained takes no more; what comes then is taken away with its lease.
        let _ = self.items.send(Item { finished, recorded, spooled: false, _lease: Some(lease) });
        tells
    }
}

struct Recorder {
    store: Arc<dyn Store>,
    spool: Spool,
    metrics: WorkerMetrics,
    /// For status.
    what: String,
    waiting: VecDeque<Item>,
    /// What the metric was told.
    counted: i64,
    said: Option<Instant>,
    /// Why the last one could not be spooled.
    spool_error: Option<String>,
}

impl Recorder {
    async fn run(mut self, mut given: mpsc::UnboundedReceiver<Item>, drained: CancellationToken) {
        self.waiting = self.left_behind().await;
        // Fewer after each failure: one that alone fails does not keep the others from being recorded.
        let (mut at_once, mut wait, mut failing) = (AT_ONCE, FIRST_RETRY, false);
        let mut came = Vec::new();
        loop {
            while let Ok(item) = given.try_recv() {
                came.push(item);
            }
            if self.waiting.is_empty() && came.is_empty() {
                tokio::select! {
                    biased;
                    n = given.recv_many(&mut came, AT_ONCE) => if n == 0 { return },
                    () = drained.cancelled() => return,
                }
            }
            self.waiting.extend(came.drain(..));
            if failing {
                self.keep().await;
            }
            match self.turn(at_once, &mut given).await {
                None => {
                    (at_once, wait, failing) = ((at_once * 2).min(AT_ONCE), FIRST_RETRY, false);
                    self.told_over();
                }
                Some(error) => {
                    (at_once, failing) = ((at_once / 2).max(1), true);
                    self.keep().await;
                    self.tell(&error);
                    if drained.is_cancelled() && self.waiting.iter().all(|item| item.spooled) {
                        return;
                    }
                    self.rest(wait, &mut given, &drained).await;
                    wait = (wait * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// Records the first ones. What fails goes to the end of the line; returns why the last of it did.
    async fn turn(&mut self, at_once: usize, given: &mut mpsc::UnboundedReceiver<Item>) -> Option<StoreError> {
        let many = at_once.min(self.waiting.len());
        let ends: Vec<Finished> = self.waiting.iter().take(many).map(|item| item.finished.clone()).collect();
        let store = Arc::clone(&self.store);
        let recording = record_all(&*store, &ends);
        tokio::pin!(recording);
        let slow = tokio::time::sleep(SLOW);
        tokio::pin!(slow);
        let (mut is_slow, mut open, mut came) = (false, true, Vec::new());
        let answers = loop {
            tokio::select! {
                biased;
                answers = &mut recording => break answers,
                n = given.recv_many(&mut came, AT_ONCE), if open => {
                    open = n > 0;
                    self.waiting.extend(came.drain(..));
                    if is_slow {
                        self.keep().await;
                    }
                }
                () = &mut slow, if !is_slow => {
                    is_slow = true;
                    self.keep().await;
                }
            }
        };
        let mut failed = None;
        let mut on_disk = Vec::new();
        let tried: Vec<Item> = self.waiting.drain(..many).collect();
        for (item, answer) in tried.into_iter().zip(answers) {
            match answer {
                Ok(recorded) => {
                    if item.spooled {
                        on_disk.push((item.finished.completion.task, item.finished.completion.epoch));
                    }
                    self.recorded(item, &recorded);
                }
                Err(error) => {
                    failed = Some(error);
                    self.waiting.push_back(item);
                }
            }
        }
        if !on_disk.is_empty() {
            self.blocking(move |spool| spool.remove(&on_disk)).await;
        }
        failed
    }

    fn recorded(&self, item: Item, recorded: &Recorded) {
        let Completion { task, epoch, .. } = item.finished.completion;
        if let Recorded::Refused { why, .. } = recorded {
            tracing::error!(task, epoch, error = why, "the database refuses a result; recorded as a failed attempt");
        }
        if !recorded.changed() {
            self.metrics.late_result();
            tracing::info!(task, epoch, "a result came too late and changed nothing: the task was somebody else's");
        }
        let _ = item.recorded.send(recorded.changed());
    }

    /// What comes meanwhile is on disk before the next try.
    async fn rest(&mut self, wait: Duration, given: &mut mpsc::UnboundedReceiver<Item>, drained: &CancellationToken) {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        let mut came = Vec::new();
        // At the end nobody waits for more, but what is in memory only is not given up.
        let ends = drained.is_cancelled();
        loop {
            tokio::select! {
                biased;
                n = given.recv_many(&mut came, AT_ONCE), if !given.is_closed() || !given.is_empty() => if n > 0 {
                    self.waiting.extend(came.drain(..));
                    self.keep().await;
                },
                () = &mut over => return,
                () = drained.cancelled(), if !ends => return,
            }
        }
    }

    /// Writes what is not on disk yet.
    async fn keep(&mut self) {
        let missing: Vec<usize> =
            self.waiting.iter().enumerate().filter(|(_, item)| !item.spooled).map(|(place, _)| place).collect();
        let ends: Vec<Finished> = missing.iter().map(|place| self.waiting[*place].finished.clone()).collect();
        if !ends.is_empty() {
            let written = self.blocking(move |spool| spool.put(&ends)).await.unwrap_or_default();
            self.spool_error = written.iter().find_map(|one| one.as_ref().err().map(ToString::to_string));
            for (place, written) in missing.into_iter().zip(written) {
                self.waiting[place].spooled = written.is_ok();
            }
        }
        self.count();
    }

    /// What a former process could not record.
    async fn left_behind(&self) -> VecDeque<Item> {
        let waiting = self.blocking(|spool| spool.waiting()).await.unwrap_or_default();
        if !waiting.is_empty() {
            tracing::info!(results = waiting.len(), "replaying results that waited on disk");
        }
        let item = |finished| Item { finished, recorded: oneshot::channel().0, spooled: true, _lease: None };
        waiting.into_iter().map(item).collect()
    }

    /// Disks stand still for seconds: not on the runtime's threads.
    async fn blocking<T: Send + 'static>(&self, act: impl FnOnce(&Spool) -> T + Send + 'static) -> Option<T> {
        let spool = self.spool.clone();
        tokio::task::spawn_blocking(move || act(&spool)).await.ok()
    }

    fn tell(&mut self, error: &StoreError) {
        let (waiting, folder) = (self.waiting.len(), self.spool.folder().display());
        let in_memory = self.waiting.iter().filter(|item| !item.spooled).count();
        let where_ = match &self.spool_error {
            Some(why) if in_memory > 0 => {
                format!("{in_memory} of them in memory only, because {folder} can't be written: {why}")
            }
            _ => format!("on disk in {folder}"),
        };
        self.metrics.troubles.failed(&self.what, format!("{waiting} results wait, {where_}: {error}"), true);
        if self.said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(%error, results = waiting, in_memory, spool = %folder, "can't record results; trying again");
        }
    }

    fn told_over(&mut self) {
        if self.waiting.is_empty() {
            self.count();
            self.metrics.troubles.over(&self.what);
            if self.said.take().is_some() {
                tracing::info!("all results that waited are recorded");
            }
        }
    }

    /// What waits, for the metric of the process.
    fn count(&mut self) {
        let now = i64::try_from(self.waiting.len()).unwrap_or(i64::MAX);
        self.metrics.spooled(now - self.counted);
        self.counted = now;
    }
}

/// For each what became of it. Those that the database refuses for what they say must not keep others from being recorded.
async fn record_all(store: &dyn Store, ends: &[Finished]) -> Vec<Result<Recorded, StoreError>> {
    let completions: Vec<Completion> = ends.iter().map(|one| one.completion.clone()).collect();
    match store.complete(&completions).await {
        Ok(changed) => changed.into_iter().map(|changed| Ok(Recorded::AsItIs(changed))).collect(),
        Err(error) if error.class() == StoreClass::Refusal => one_by_one(store, ends).await,
        Err(error) => vec![Err(error); ends.len()],
    }
}

async fn one_by_one(store: &dyn Store, ends: &[Finished]) -> Vec<Result<Recorded, StoreError>> {
    let mut answers = Vec::with_capacity(ends.len());
    for one in ends {
        let answer = store::record(store, one).await;
        let away = answer.as_ref().err().filter(|error| error.class() == StoreClass::Passing).cloned();
        answers.push(answer);
        if let Some(error) = away {
            answers.resize(ends.len(), Err(error));
            break;
        }
    }
    answers
}

//! Ends executions in the database, many at once. While it is away they wait on disk.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{leases::HeldLease, spool::Spool};
use crate::{
    store::{Store, StoreError},
    tasks::Completion,
    telemetry::WorkerMetrics,
};

/// Completions in one statement.
const AT_ONCE: usize = 500;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

struct Item {
    completion: Completion,
    recorded: oneshot::Sender<bool>,
    spooled: bool,
    /// Kept open until this is recorded; none of a former process.
    lease: Option<Arc<HeldLease>>,
}

/// Takes completions. Those that come while others are being recorded go together.
#[derive(Clone)]
pub struct Finisher {
    items: mpsc::UnboundedSender<Item>,
}

impl Finisher {
    /// Records in the background until `drained` and everything given to it is recorded, or on disk.
    pub fn start(
        store: Arc<dyn Store>,
        spool: Spool,
        metrics: WorkerMetrics,
        drained: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (items, given) = mpsc::unbounded_channel();
        let recorder = Recorder { store, spool, metrics };
        (Self { items }, tokio::spawn(recorder.run(given, drained)))
    }

    /// Hands over a completion. The receiver tells whether it changed anything; it may be dropped.
    pub fn finish(&self, completion: Completion, lease: Arc<HeldLease>) -> oneshot::Receiver<bool> {
        let (recorded, tells) = oneshot::channel();
        // Only a process that has drained takes no more; what comes then is taken away with its lease.
        let _ = self.items.send(Item { completion, recorded, spooled: false, lease: Some(lease) });
        tells
    }
}

struct Recorder {
    store: Arc<dyn Store>,
    spool: Spool,
    metrics: WorkerMetrics,
}

impl Recorder {
    async fn run(self, mut given: mpsc::UnboundedReceiver<Item>, drained: CancellationToken) {
        let mut batch: Vec<Item> = self.left_behind();
        let mut wait = FIRST_RETRY;
        loop {
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    n = given.recv_many(&mut batch, AT_ONCE) => if n == 0 { return },
                    () = drained.cancelled() => return,
                }
            } else {
                while batch.len() < AT_ONCE
                    && let Ok(item) = given.try_recv()
                {
                    batch.push(item);
                }
            }
            match self.record(&mut batch).await {
                Ok(()) => wait = FIRST_RETRY,
                Err(error) => {
                    self.keep(&mut batch);
                    self.metrics.spooled(batch.len());
                    tracing::warn!(%error, results = batch.len(), "the database takes no results: they wait on disk");
                    if drained.is_cancelled() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = drained.cancelled() => {}
                    }
                    wait = (wait * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// What a former process could not record.
    fn left_behind(&self) -> Vec<Item> {
        let waiting = self.spool.waiting();
        if !waiting.is_empty() {
            tracing::info!(results = waiting.len(), "results that waited on disk are replayed");
        }
        let item = |completion| Item { completion, recorded: oneshot::channel().0, spooled: true, lease: None };
        waiting.into_iter().map(item).collect()
    }

    /// Empties the batch, or leaves in it what is to be tried again.
    async fn record(&self, batch: &mut Vec<Item>) -> Result<(), StoreError> {
        let completions: Vec<Completion> = batch.iter().map(|item| item.completion.clone()).collect();
        match self.store.complete(&completions).await {
            Ok(changed) => {
                for (item, changed) in batch.drain(..).zip(changed) {
                    self.recorded(item, changed);
                }
                self.metrics.spooled(0);
                Ok(())
            }
            Err(error @ StoreError::Unavailable(_)) => Err(error),
            // One that the database refuses must not keep the others from being recorded.
            Err(error) if batch.len() == 1 => {
                self.refused(batch.remove(0), &error);
                Ok(())
            }
            Err(_) => self.record_each(batch).await,
        }
    }

    async fn record_each(&self, batch: &mut Vec<Item>) -> Result<(), StoreError> {
        for place in (0..batch.len()).rev() {
            let completion = std::slice::from_ref(&batch[place].completion);
            match self.store.complete(completion).await {
                Ok(changed) => {
                    let item = batch.remove(place);
                    self.recorded(item, changed == [true]);
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    self.refused(batch.remove(place), &error);
                }
            }
        }
        Ok(())
    }

    fn refused(&self, item: Item, error: &StoreError) {
        let Item { completion, lease, .. } = item;
        tracing::error!(task = completion.task, %error, "a result was refused: its task is done again once its lease is closed");
        self.spool.remove(completion.task, completion.epoch);
        if let Some(lease) = lease {
            lease.doubt();
        }
    }

    fn recorded(&self, item: Item, changed: bool) {
        let Completion { task, epoch, .. } = item.completion;
        if item.spooled {
            self.spool.remove(task, epoch);
        }
        if !changed {
            self.metrics.late_result();
            tracing::info!(task, epoch, "a result came too late and changed nothing: the task was somebody else's");
        }
        let _ = item.recorded.send(changed);
    }

    fn keep(&self, batch: &mut [Item]) {
        for item in batch.iter_mut().filter(|item| !item.spooled) {
            match self.spool.put(&item.completion) {
                Ok(()) => item.spooled = true,
                Err(error) => {
                    tracing::error!(task = item.completion.task, folder = %self.spool.folder().display(), %error, "a result waits in memory only");
                }
            }
        }
    }
}

//! A queue in a schema of its own, filled with tasks that do nothing, and drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::CliError;
use crate::store::{
    self, Claimed, DatabaseUrl, DeclaredRow, Fence, FreeClaim, Home, Served, Store, StoreError, drop_schema, rounds,
};
use crate::tasks::{Attempt, AttemptClass, Completion, NewTask, Payload, QueueKey, Verdict};

const NAMESPACE: &str = "bench";
const QUEUE: &str = "default";
/// Longer than any run.
const LEASE: Duration = Duration::from_secs(24 * 3_600);
/// Tasks of one insertion.
const PAGE: u32 = 10_000;
/// Until a claimer that found nothing looks again whether the others are done.
const WAIT: Duration = Duration::from_millis(1);

/// An installation of its own in the database, for as long as it is measured.
pub struct Bench {
    /// Names the schema.
    pub url: DatabaseUrl,
    pub store: Arc<dyn Store>,
    fence: Fence,
}

/// What a drain did.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    pub tasks: u32,
    pub took: Duration,
}

impl Bench {
    /// Makes the schema and leads.
    pub async fn new(url: &DatabaseUrl) -> Result<Self, CliError> {
        let now = Timestamp::now().as_millisecond();
        let name = format!("ostler_bench_{}_{now}", std::process::id());
        let url = url.with_schema(&name).map_err(CliError::failed)?;
        let home = Home::Postgres(url.clone());
        store::migrate(&home, None, false).await?;
        let opened = async {
            let store = store::open(&home, None).await?;
            let fence = store.campaign("bench", LEASE).await?;
            let fence = fence.ok_or_else(|| StoreError::Broken("somebody leads in a new schema".to_owned()))?;
            Ok::<_, StoreError>((store, fence))
        };
        match opened.await {
            Ok((store, fence)) => Ok(Self { url, store, fence }),
            Err(error) => {
                drop_schema(&url).await?;
                Err(error.into())
            }
        }
    }

    pub async fn drop_schema(self) -> Result<(), CliError> {
        Ok(drop_schema(&self.url).await?)
    }

    /// One queue, and experts that take no slot.
    pub async fn declare(&self, experts: usize) -> Result<(), CliError> {
        self.project("TaskQueue", QUEUE, json!({})).await?;
        for expert in 0..experts {
            let spec = json!({"domains": ["backend"], "roles": ["engineer"], "handler": "Webhook", "maxConcurrentTasks": 10_000});
            self.project("Expert", &format!("expert-{expert:03}"), spec).await?;
        }
        Ok(())
    }

    async fn project(&self, kind: &str, name: &str, spec: Value) -> Result<(), StoreError> {
        let row = DeclaredRow {
            uid: format!("{kind}/{name}"),
            kind: kind.to_owned(),
            namespace: NAMESPACE.to_owned(),
            name: name.to_owned(),
            generation: 1,
            labels: std::collections::BTreeMap::new(),
            spec,
            suspended: false,
            held: None,
        };
        self.store.project_declared(&self.fence, &row).await
    }

    /// Gives tasks in; returns how long it took.
    pub async fn insert(&self, tasks: u32) -> Result<Duration, CliError> {
        let task = NewTask {
            namespace: NAMESPACE.to_owned(),
            queue: QUEUE.to_owned(),
            domain: "backend".to_owned(),
            role: "engineer".to_owned(),
            payload: Payload { data: Some(json!({"do": "nothing"})), ..Payload::default() },
            ..NewTask::default()
        };
        let began = Instant::now();
        let mut left = tasks;
        while left > 0 {
            let page = vec![task.clone(); left.min(PAGE) as usize];
            self.store.insert_tasks(&page).await?;
            left -= left.min(PAGE);
        }
        Ok(began.elapsed())
    }

    /// Assigns all that nobody has; returns how long it took.
    pub async fn assign(&self) -> Result<Duration, CliError> {
        let began = Instant::now();
        rounds::assign_after(&*self.store, &self.fence, 0, &mut None).await?;
        Ok(began.elapsed())
    }

    /// Claims and completes tasks until `tasks` are done.
    pub async fn drain(&self, tasks: u32, claimers: u32, batch: i32) -> Result<Drained, CliError> {
        let done = Arc::new(AtomicU32::new(0));
        let mut queues = Vec::new();
        for claimer in 0..claimers {
            let lease = self.store.open_lease(&format!("claimer-{claimer}"), &queue(), LEASE).await?;
            queues.push(Served { queue: queue(), lease });
        }
        let began = Instant::now();
        let claimers = queues.into_iter().map(|served| {
            let (store, done) = (self.store.clone(), done.clone());
            let claim = FreeClaim { queues: vec![served], most: batch };
            tokio::spawn(async move { drain(&*store, &claim, &done, tasks).await })
        });
        for claimer in claimers.collect::<Vec<_>>() {
            claimer.await.map_err(CliError::failed)??;
        }
        Ok(Drained { tasks, took: began.elapsed() })
    }
}

async fn drain(store: &dyn Store, claim: &FreeClaim, done: &AtomicU32, tasks: u32) -> Result<(), StoreError> {
    while done.load(Ordering::Acquire) < tasks {
        let claimed = store.claim_free(claim).await?;
        if claimed.is_empty() {
            tokio::time::sleep(WAIT).await;
            continue;
        }
        let completions: Vec<Completion> = claimed.into_iter().map(completion).collect();
        let changed = store.complete(&completions).await?.into_iter().filter(|changed| *changed).count();
        if changed != completions.len() {
            return Err(StoreError::Broken(format!("{changed} of {} completions were accepted", completions.len())));
        }
        done.fetch_add(u32::try_from(changed).unwrap_or(u32::MAX), Ordering::AcqRel);
    }
    Ok(())
}

fn completion(Claimed { task, lease }: Claimed) -> Completion {
    let now = Timestamp::now();
    let attempt = Attempt {
        expert: task.expert,
        backend: None,
        model: None,
        holder: lease.holder,
        started_at: now,
        ended_at: now,
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class: AttemptClass::Ok,
        error: None,
    };
    Completion {
        task: task.id,
        epoch: task.epoch,
        verdict: Verdict::Completed { result: json!({"text": "ok"}) },
        attempt,
    }
}

fn queue() -> QueueKey {
    QueueKey { namespace: NAMESPACE.to_owned(), name: QUEUE.to_owned() }
}

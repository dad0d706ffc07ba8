//! What the database declares, as a worker needs it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    api::{AnswerCache, ClaimedBy, ExpertSpec, Handler, TaskQueueSpec, WorkerPoolSpec},
    calls::{self, Backend, seconds},
    store::{DeclaredRow, Store, StoreError},
    tasks::{QueueKey, retry::RetryPolicy, route::Server},
};

/// A call's bound where no expert says: the default of `parameters.timeoutSeconds`.
const USUAL_CALL: Duration = Duration::from_secs(600);

type Key = (String, String);

/// Pools, queues, experts and backends as they were last read.
#[derive(Clone, Debug, Default)]
pub struct PoolView {
    /// `None`: nobody declares this worker's pool.
    pub pool: Option<DeclaredPool<WorkerPoolSpec>>,
    /// Those of the pool that are declared.
    pub queues: BTreeMap<QueueKey, Queue>,
    pub experts: BTreeMap<Key, Arc<ExpertSpec>>,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug)]
pub struct DeclaredPool<T> {
    pub spec: T,
    pub suspended: bool,
}

/// The rules of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub lease: Duration,
    pub retry: RetryPolicy,
    /// Results that are given again.
    pub cache: Option<AnswerCache>,
    /// Suspended, held by what it requires, or for others to claim from.
    pub closed: bool,
}

impl PoolView {
    /// Reads what is declared. What can't be read as a spec is left out, and said in the log.
    pub async fn read(store: &dyn Store, namespace: &str, pool: &str) -> Result<Self, StoreError> {
        let pools: Vec<(DeclaredRow, WorkerPoolSpec)> = specs(store.declared("WorkerPool").await?);
        let queues: Vec<(DeclaredRow, TaskQueueSpec)> = specs(store.declared("TaskQueue").await?);
        let experts: Vec<(DeclaredRow, ExpertSpec)> = specs(store.declared("Expert").await?);
        let pool = pools
            .into_iter()
            .find(|(row, _)| row.namespace == namespace && row.name == pool)
            .map(|(row, spec)| DeclaredPool { suspended: row.suspended || spec.suspend, spec });
        let of_pool = |row: &DeclaredRow| {
            let refs = pool.as_ref().map(|pool| pool.spec.queue_refs.as_slice()).unwrap_or_default();
            row.namespace == namespace && refs.iter().any(|queue| queue.name == row.name)
        };
        let queues = queues.into_iter().filter(|(row, _)| of_pool(row)).map(|(row, spec)| {
            let rules = Queue::of(&spec, row.suspended || row.held.is_some());
            (QueueKey { namespace: row.namespace, name: row.name }, rules)
        });
        let queues = queues.collect();
        let here = |row: &DeclaredRow| row.namespace == namespace;
        let experts = experts
            .into_iter()
            .filter(|(row, _)| here(row))
            .map(|(row, spec)| ((row.namespace, row.name), Arc::new(spec)))
            .collect();
        let backends = store.backends().await?.into_iter().filter(|row| row.namespace == namespace);
        Ok(Self { pool, queues, experts, backends: backends.filter_map(Backend::of).collect() })
    }

    /// Queues that may be claimed from now, with the length of their leases.
    pub fn open_queues(&self) -> Vec<(QueueKey, Duration)> {
        if self.pool.as_ref().is_none_or(|pool| pool.suspended) {
            return Vec::new();
        }
        self.queues.iter().filter(|(_, queue)| !queue.closed).map(|(key, queue)| (key.clone(), queue.lease)).collect()
    }

    pub fn expert(&self, namespace: &str, name: &str) -> Option<Arc<ExpertSpec>> {
        self.experts.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub fn has_webhooks(&self) -> bool {
        self.experts.values().any(|expert| expert.handler == Handler::Webhook)
    }

    /// The longest that a call to any model may take, for which slots are taken.
    pub fn longest_call(&self) -> Duration {
        let asking = self.experts.values().filter(|expert| expert.handler.calls_model());
        asking.map(|expert| seconds(expert.parameters.timeout_seconds)).max().unwrap_or(USUAL_CALL)
    }

    /// The servers as they are now. `cooling` are those that just refused a call of ours.
    pub async fn servers(&self, store: &dyn Store, cooling: impl Fn(&str) -> bool) -> Result<Vec<Server>, StoreError> {
        calls::servers(&self.backends, store, cooling).await
    }
}

impl Queue {
    fn of(spec: &TaskQueueSpec, closed: bool) -> Self {
        let retry = RetryPolicy {
            max_attempts: spec.retry.max_attempts,
            backoff: seconds(spec.retry.backoff_seconds),
            max_backoff: seconds(spec.retry.max_backoff_seconds),
        };
        Self {
            lease: seconds(spec.lease_seconds),
            retry,
            cache: spec.cache.clone(),
            closed: closed || spec.suspend || spec.claimed_by == ClaimedBy::Clients,
        }
    }
}

fn specs<T: DeserializeOwned>(rows: Vec<DeclaredRow>) -> Vec<(DeclaredRow, T)> {
    let read = |row: DeclaredRow| match serde_json::from_value(row.spec.clone()) {
        Ok(spec) => Some((row, spec)),
        Err(error) => {
            tracing::error!(kind = row.kind, name = row.name, %error, "a projected resource can't be read: another release wrote it");
            None
        }
    };
    rows.into_iter().filter_map(read).collect()
}

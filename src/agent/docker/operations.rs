//! Operations on containers: each is written down before anything is done, and taken up again after a restart of the agent.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::act::{Actor, ContainerActionError};
use crate::{
    agent::{
        gate::Refused,
        keep::{OperationBook, OperationRecord, ended},
    },
    host::{
        AgentRefusal, ContainerAction, ContainerFailure, ContainerOperation, ContainerOperationRequest,
        ContainerTarget, Phase,
    },
    telemetry::crash_point,
};

/// The least memory that an engine lets a container have, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;
/// How long operations of an earlier agent wait for the engine.
const CATCH_UP: Duration = Duration::from_secs(60);

/// An operation as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerOperationRecord {
    pub request: ContainerOperationRequest,
    pub status: ContainerOperation,
    /// The container that it acts on, once it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl OperationRecord for ContainerOperationRecord {
    type Request = ContainerOperationRequest;
    type Failure = ContainerActionError;

    fn accepted(request: ContainerOperationRequest, id: String, key: Option<String>, now: Timestamp) -> Self {
        let status = ContainerOperation {
            id,
            target: request.target.clone(),
            action: request.action,
            phase: Phase::Accepted,
            message: String::new(),
            failure: None,
            accepted_at: now,
            finished_at: None,
            idempotency_key: key,
        };
        Self { request, status, container: None }
    }

    fn request(&self) -> &ContainerOperationRequest {
        &self.request
    }

    fn id(&self) -> &str {
        &self.status.id
    }

    fn key(&self) -> Option<&str> {
        self.status.idempotency_key.as_deref()
    }

    fn subject(&self) -> &str {
        self.request.target.name()
    }

    fn action(&self) -> &'static str {
        self.status.action.as_str()
    }

    fn finished_at(&self) -> Option<Timestamp> {
        self.status.finished_at
    }

    fn end(&mut self, outcome: &Result<String, ContainerActionError>, now: Timestamp) {
        let status = &mut self.status;
        status.finished_at = Some(now);
        (status.phase, status.message) = ended(outcome);
        status.failure = outcome.as_ref().err().map(|failed| failed.failure);
    }
}

type Turn = Arc<tokio::sync::Mutex<()>>;

/// Does operations, one at a time for each container.
#[derive(Clone, Debug)]
pub struct Operations {
    pub actor: Actor,
    pub book: Arc<OperationBook<ContainerOperationRecord>>,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
    turns: Arc<Mutex<HashMap<String, Turn>>>,
}

impl Operations {
    pub fn new(
        actor: Actor,
        book: OperationBook<ContainerOperationRecord>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self { actor, book: Arc::new(book), tasks, shutdown, turns: Arc::default() }
    }

    /// What an earlier agent accepted and did not finish, once the engine answers.
    pub fn catch_up(&self) {
        let left = self.book.all_unfinished();
        if left.is_empty() {
            return;
        }
        let all = self.clone();
        self.tasks.spawn(async move {
            let until = Instant::now() + CATCH_UP;
            while all.actor.seen.runtime().error.is_some() && Instant::now() < until {
                if all.shutdown.run_until_cancelled(sleep(Duration::from_millis(200))).await.is_none() {
                    return;
                }
            }
            left.iter().for_each(|entry| all.begin(entry));
        });
    }

    /// Accepts an operation. Blocks on the disk.
    pub fn accept(
        &self,
        request: ContainerOperationRequest,
        key: Option<String>,
    ) -> Result<ContainerOperation, Refused> {
        let (entry, is_new) = self.book.accept(request, key, Timestamp::now(), |request| self.judge(request))?;
        if !is_new {
            return Ok(entry.status);
        }
        crash_point("agent.container-operation-recorded");
        let request = &entry.request;
        tracing::info!(container = request.target.name(), action = request.action.as_str(), id = %entry.status.id,
            reason = %request.reason, "operation on a container accepted");
        self.begin(&entry);
        Ok(entry.status)
    }

    /// What can be seen at once to be impossible is refused, not accepted.
    fn judge(&self, request: &ContainerOperationRequest) -> Result<(), Refused> {
        if let ContainerAction::Resize { memory_bytes } = request.action
            && memory_bytes < LEAST_MEMORY
        {
            let why = format!("memoryBytes {memory_bytes}: engines let no container have less than {LEAST_MEMORY}");
            return Err(Refused::new(AgentRefusal::BadRequest, why));
        }
        self.actor.seen.find(&request.target, Timestamp::now()).map(drop)
    }

    fn begin(&self, entry: &ContainerOperationRecord) {
        let (all, id) = (self.clone(), entry.status.id.clone());
        self.tasks.spawn(async move { all.operate(&id).await });
    }

    async fn operate(&self, id: &str) {
        let Some(entry) = self.book.get(id) else { return };
        let (name, _) = self.actor.named(&entry.request.target);
        let turn = self.turn(&name);
        let work = async {
            let _mine = turn.lock().await;
            self.actor.seen.set_operation(&name, Some(id));
            let done = self.perform(&entry).await;
            self.actor.seen.set_operation(&name, None);
            done
        };
        match self.shutdown.run_until_cancelled(work).await {
            Some(done) => {
                crash_point("agent.container-operation-done-before-record");
                self.book.end(&entry, &done);
            }
            None => tracing::info!(id, "the agent is stopping; the operation continues at its next start"),
        }
        drop(turn);
        self.forget_turns();
    }

    /// Acts for a service of the agent's file, which keeps a book of its own.
    pub async fn act(&self, target: &ContainerTarget, action: ContainerAction) -> Result<String, ContainerActionError> {
        let request =
            ContainerOperationRequest { target: target.clone(), id: None, action, reason: "service".to_owned() };
        let (name, _) = self.actor.named(target);
        let turn = self.turn(&name);
        let done = {
            let _mine = turn.lock().await;
            self.actor.act(&request, Timestamp::now()).await
        };
        drop(turn);
        self.forget_turns();
        done
    }

    async fn perform(&self, entry: &ContainerOperationRecord) -> Result<String, ContainerActionError> {
        let (_, container) = self.actor.named(&entry.request.target);
        let begun = self.book.change(&entry.status.id, |e| {
            e.status.phase = Phase::Running;
            e.container = container;
        });
        begun.map_err(|e| ContainerActionError::new(ContainerFailure::Engine, e.to_string()))?;
        crash_point("agent.container-operation-begun");
        self.actor.act(&entry.request, entry.status.accepted_at).await
    }

    fn turn(&self, name: &str) -> Turn {
        let mut turns = self.turns.lock();
        Arc::clone(turns.entry(name.to_owned()).or_default())
    }

    /// Turns that nobody waits for.
    fn forget_turns(&self) {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    }
}

//! A round of assignment: reads who may take what, decides by the pure rule, writes what is still unassigned.
//!
//! Only the leader writes assignments. Whoever else wants a round asks for one: the request travels as a `reconcile` does,
//! and the leader's report comes back as a document that carries the request's token.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{BootInstant, Fence, ResourceKey, Store, StoreError, world};
use crate::tasks::{
    TaskId,
    assign::{AssignReport, Roster, Tally},
};

/// Tasks of one batch.
const BATCH: i64 = 5_000;
/// The document that holds the last report.
const DOCUMENT: &str = "assignment";
/// How often somebody who asked looks for the report.
const LOOK: Duration = Duration::from_millis(100);

/// What was asked of the leader, and what it did.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    token: String,
    report: AssignReport,
}

/// What one round found.
#[derive(Debug)]
pub struct Round {
    pub tally: Tally,
    /// The highest id that was looked at.
    pub last: TaskId,
}

/// One round over all that nobody has, with its report. With `fence` it is written; without, it is only what a round would do.
///
/// # Errors
/// Those of the store; [`StoreError::Fenced`] when the lead was lost.
pub async fn assign_once(store: &dyn Store, fence: Option<&Fence>) -> Result<AssignReport, StoreError> {
    let pending = store.queue_counts().await?.iter().map(|queue| queue.pending).sum();
    let round = assign_after(store, fence, 0).await?;
    Ok(round.tally.report(pending, fence.is_none()))
}

/// A round over the tasks with an id above `after`. Without any it reads nothing else.
///
/// # Errors
/// Those of the store; [`StoreError::Fenced`] when the lead was lost.
pub async fn assign_after(store: &dyn Store, fence: Option<&Fence>, after: TaskId) -> Result<Round, StoreError> {
    let mut round = Round { tally: Tally::default(), last: after };
    let mut roster: Option<Roster> = None;
    loop {
        let tasks = store.unassigned(round.last, BATCH).await?;
        let Some(last) = tasks.last() else { return Ok(round) };
        round.last = last.id;
        if roster.is_none() {
            roster = Some(read_roster(store).await?);
        }
        let Some(known) = roster.as_mut() else { continue };
        let batch = known.assign(&tasks);
        if let Some(fence) = fence.filter(|_| !batch.assignments.is_empty()) {
            store.assign(fence, &batch.assignments).await?;
        }
        round.tally.add(&tasks, &batch);
        if i64::try_from(tasks.len()).is_ok_and(|n| n < BATCH) {
            return Ok(round);
        }
    }
}

async fn read_roster(store: &dyn Store) -> Result<Roster, StoreError> {
    let experts = world::experts(store).await?.into_iter().map(|expert| expert.view).collect();
    let queues = store.declared("TaskQueue").await?.iter().filter_map(world::queue_state).map(|q| q.view).collect();
    Ok(Roster::new(experts, queues))
}

/// What a request for a round is about, among people's wishes.
pub fn round_key() -> ResourceKey {
    ResourceKey { kind: "Assignment".into(), namespace: String::new(), name: "all".into() }
}

/// Asks the leader for a round, and waits for its report. `None`: nobody leads, or it took longer than `within`; the round
/// comes when somebody leads.
///
/// # Errors
/// Those of the store.
pub async fn ask_for_round(store: &dyn Store, within: Duration) -> Result<Option<AssignReport>, StoreError> {
    let token = Uuid::now_v7().to_string();
    store.request_reconcile(&round_key(), &token).await?;
    let until = BootInstant::now() + within;
    loop {
        let document = store.recovery(DOCUMENT).await?;
        let answer = document.and_then(|document| serde_json::from_value::<Answer>(document).ok());
        if let Some(answer) = answer.filter(|answer| answer.token >= token) {
            return Ok(Some(answer.report));
        }
        if BootInstant::now() >= until {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The token of the last round that was answered.
///
/// # Errors
/// Those of the store.
pub async fn answered(store: &dyn Store) -> Result<Option<String>, StoreError> {
    let document = store.recovery(DOCUMENT).await?;
    Ok(document.and_then(|document| serde_json::from_value::<Answer>(document).ok()).map(|answer| answer.token))
}

/// Answers a request.
///
/// # Errors
/// Those of the store; [`StoreError::Fenced`] when the lead was lost.
pub async fn answer(store: &dyn Store, fence: &Fence, token: &str, report: AssignReport) -> Result<(), StoreError> {
    let answer = Answer { token: token.to_owned(), report };
    let document = serde_json::to_value(&answer).map_err(|e| StoreError::Broken(e.to_string()))?;
    store.save_recovery(fence, DOCUMENT, &document).await
}

//! Assigns tasks: as they come in, and all that nobody has in every period of a queue.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    api::TaskQueueSpec,
    controllers::shared::{Key, Wishes},
    store::{DeclaredRow, StoreError, rounds, spec_of},
    tasks::TaskId,
};

use super::Desk;

/// Between two rounds: what comes in meanwhile goes into one.
const GAP: Duration = Duration::from_millis(50);
/// While no queue is declared.
const PERIOD: Duration = Duration::from_secs(10);
/// After an error.
const AGAIN: Duration = Duration::from_secs(2);
/// Ids can become visible out of order: a round over what is new begins so many lower.
const OVERLAP: TaskId = 1_000;

/// Where a term's rounds are.
#[derive(Default)]
struct Progress {
    /// The highest id that was looked at.
    last: TaskId,
    /// What decided in the last whole round: when it is another, what nobody could take may have somebody now.
    declared: Option<(Vec<DeclaredRow>, Vec<DeclaredRow>)>,
    whole_at: Option<Instant>,
    /// The last request that was answered.
    answered: Option<String>,
}

pub async fn run(desk: Desk, mut wishes: Wishes) {
    let answered = desk.note("the last request for a round", rounds::answered(&*desk.store).await).flatten();
    let mut progress = Progress { answered, ..Progress::default() };
    loop {
        desk.beat.beat();
        let wait = match desk.note("assign", round(&desk, &wishes, &mut progress).await) {
            Some(period) => period,
            None => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        tokio::select! {
            () = desk.store.tasks_changed(wait.min(PERIOD)) => {}
            true = wishes.changed() => {}
        }
        tokio::time::sleep(GAP).await;
    }
}

/// One round over what is new, or over all where that is due. Returns the period of the queues.
async fn round(desk: &Desk, wishes: &Wishes, progress: &mut Progress) -> Result<Duration, StoreError> {
    let (store, fence) = (&*desk.store, desk.term.fence());
    let declared = (store.declared("Expert").await?, store.declared("TaskQueue").await?);
    let period = declared.1.iter().filter_map(period_of).min().unwrap_or(PERIOD);
    if let Some(token) = asked(wishes).filter(|token| progress.answered.as_ref() != Some(token)) {
        let report = rounds::answer(store, fence, &token).await?;
        desk.metrics.tasks.assigned(report.assigned.iter().map(|given| given.count).sum());
        progress.answered = Some(token);
    }
    let due = progress.whole_at.is_none_or(|at| at.elapsed() >= period);
    let whole = due || progress.declared.as_ref() != Some(&declared);
    let after = if whole { 0 } else { (progress.last - OVERLAP).max(0) };
    let round = rounds::assign_after(store, fence, after).await?;
    let given = round.tally.given();
    if given > 0 {
        tracing::info!(assigned = given, nobody = round.tally.nobody(), "tasks assigned");
    }
    desk.metrics.tasks.assigned(given);
    if whole {
        desk.metrics.tasks.nobody(round.tally.nobody());
        progress.whole_at = Some(Instant::now());
        progress.declared = Some(declared);
    }
    progress.last = progress.last.max(round.last);
    Ok(period)
}

/// The request for a round, if somebody asked.
fn asked(wishes: &Wishes) -> Option<String> {
    let key = rounds::round_key();
    wishes.reconcile_token(&key.kind, &Key::new(key.namespace, key.name))
}

fn period_of(row: &DeclaredRow) -> Option<Duration> {
    let spec: TaskQueueSpec = spec_of(row)?;
    Some(Duration::from_secs(spec.assignment.period_seconds.unsigned_abs().max(1).into()))
}

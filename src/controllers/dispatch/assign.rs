//! Assigns tasks: as they come in, and all that nobody has in every period of a queue.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::{
    api::TaskQueueSpec,
    base::Burst,
    controllers::shared::Wishes,
    store::{DeclaredRow, StoreError, Topics, rounds, spec_of},
    tasks::{TaskId, assign::Roster},
};

use super::LoopContext;

/// Between the beginnings of rounds where one follows the other: what comes in meanwhile goes into one.
const GAP: Duration = Duration::from_millis(50);
/// While no queue is declared.
const PERIOD: Duration = Duration::from_secs(10);
/// Whole rounds while there is nothing that nobody could take.
const SELDOM: Duration = Duration::from_secs(60);
/// After an error.
const AGAIN: Duration = Duration::from_secs(2);
/// A round goes over all that nobody has, unless that is more than this: then it goes over what is new.
const FEW: i64 = 5_000;
/// Ids can become visible out of order: a round over what is new begins so many lower, which is as many as ten of the largest calls insert
/// at the same time.
const OVERLAP: TaskId = 100_000;

/// Where a term's rounds are.
#[derive(Default)]
struct Progress {
    /// The highest id that was looked at.
    last: TaskId,
    /// What decides: when it is another, what nobody could take may have somebody now.
    declared: Option<(Vec<DeclaredRow>, Vec<DeclaredRow>)>,
    /// Who takes what, with loads as they were in the last whole round and what was given since.
    roster: Option<Roster>,
    whole_at: Option<Instant>,
    /// How many nobody could take then.
    nobody: i64,
    /// The last request that was answered, by namespace.
    answered: HashMap<String, Option<String>>,
}

pub async fn run(context: LoopContext, mut wishes: Wishes) {
    let mut changes = context.store.follow(Topics::NEW | Topics::WORLD);
    let mut world = context.store.follow(Topics::WORLD);
    let mut progress = Progress::default();
    let mut burst = Burst::new(GAP);
    loop {
        context.beat.beat();
        let gap_ends = Instant::now() + burst.begin(Instant::now());
        if world.take() {
            progress.declared = None;
        }
        let wait = match context.note("assign", round(&context, &wishes, &mut progress).await) {
            Some(wait) => wait,
            None => {
                progress = Progress { answered: progress.answered, ..Progress::default() };
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        // In parts, so that the loop is seen to be alive.
        let asleep = Instant::now();
        while asleep.elapsed() < wait {
            context.beat.beat();
            let changed = tokio::select! {
                changed = changes.changed(wait.saturating_sub(asleep.elapsed()).min(PERIOD)) => changed,
                true = wishes.changed() => true,
            };
            if changed {
                break;
            }
        }
        tokio::time::sleep_until(gap_ends).await;
    }
}

/// One round over what is new, or over all where that is due. Returns when the next whole one is.
async fn round(context: &LoopContext, wishes: &Wishes, progress: &mut Progress) -> Result<Duration, StoreError> {
    let (store, fence) = (&*context.store, context.term.fence());
    let known = progress.declared.take();
    let changed = known.is_none();
    let declared = match known {
        Some(known) => known,
        None => (store.declared("Expert").await?, store.declared("TaskQueue").await?),
    };
    let period = declared.1.iter().filter_map(period_of).min().unwrap_or(PERIOD);
    progress.declared = Some(declared);
    for (namespace, token) in wishes.requests_of(rounds::ROUND_KIND) {
        let of = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
        if !progress.answered.contains_key(&namespace) {
            // By an earlier leader.
            progress.answered.insert(namespace.clone(), rounds::answered(store, of).await?);
        }
        if progress.answered[&namespace].as_ref() != Some(&token) {
            let report = rounds::answer(store, fence, of, &token).await?;
            context.metrics.tasks.assigned(report.assigned.iter().map(|given| given.count).sum());
            progress.answered.insert(namespace, Some(token));
        }
    }
    let period = if progress.nobody > 0 { period } else { period.max(SELDOM) };
    let whole = changed || progress.whole_at.is_none_or(|at| at.elapsed() >= period);
    if whole {
        progress.roster = None;
    }
    let after = if whole || progress.nobody < FEW { 0 } else { (progress.last - OVERLAP).max(0) };
    let round = rounds::assign_after(store, fence, after, &mut progress.roster).await?;
    let given = round.tally.given();
    if given > 0 {
        tracing::info!(assigned = given, nobody = round.tally.nobody(), "tasks assigned");
    }
    context.metrics.tasks.assigned(given);
    if after == 0 {
        progress.nobody = round.tally.nobody();
        context.metrics.tasks.nobody(progress.nobody);
    }
    if whole {
        progress.whole_at = Some(Instant::now());
    }
    progress.last = progress.last.max(round.last);
    Ok(period.saturating_sub(progress.whole_at.map_or(Duration::ZERO, |at| at.elapsed())))
}

fn period_of(row: &DeclaredRow) -> Option<Duration> {
    let spec: TaskQueueSpec = spec_of(row)?;
    Some(Duration::from_secs(spec.assignment.period_seconds.unsigned_abs().max(1).into()))
}

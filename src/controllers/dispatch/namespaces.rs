//! Tasks go with their namespace: those of one that is deleted are cancelled, and none of them is left to another that is made under
//! its name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    base::tick,
    platform::{Namespaces, Platform},
    store::{QueueCounts, StoreError, TaskCommand, TaskFilter},
    tasks::retry::doubled,
};

use super::LoopContext;

const PERIOD: Duration = Duration::from_secs(5);
/// The longest wait after failures: going through very many tasks may take longer than a statement is given.
const LONGEST: Duration = Duration::from_secs(600);
/// The clocks of database and API server may differ by so much.
const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// Tasks that one statement changes, and statements in a row.
const BATCH: i64 = 1_000;
const BATCHES: usize = 20;

/// What is to be done about the tasks of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// It does not exist: nobody waits for them.
    Cancel { namespace: String },
    /// It was made then: older ones are of another that had its name.
    Drop { namespace: String, made_at: Timestamp },
}

pub async fn run(context: LoopContext, platform: Arc<dyn Platform>) {
    let (mut done, mut failures) = (Done::default(), 0);
    loop {
        context.beat.beat();
        match platform.namespaces().await {
            Ok(known) if context.term.still_leads() => {
                let passed = context.note("tasks of former namespaces", pass(&context, &known, &mut done).await);
                failures = if passed.is_some() { 1 } else { failures + 1 };
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "could not read namespaces; will retry"),
        }
        // In parts, so that the loop is seen to be alive.
        for _ in 0..(doubled(PERIOD, LONGEST, failures).as_secs() / PERIOD.as_secs()) {
            tick(PERIOD).await;
            context.beat.beat();
        }
    }
}

/// What this term has done.
#[derive(Default)]
struct Done {
    /// When the namespaces were made of whose predecessors nothing is left.
    cleared: BTreeMap<String, Timestamp>,
    /// The namespaces when all was done.
    seen: Namespaces,
}

/// While no namespace comes or goes, the database is not asked.
async fn pass(context: &LoopContext, known: &Namespaces, done: &mut Done) -> Result<(), StoreError> {
    if *known == done.seen {
        return Ok(());
    }
    let counts = context.store.queue_counts().await?;
    let mut rest = false;
    for step in steps(known, &counts, &done.cleared) {
        match step {
            Step::Cancel { namespace } => {
                let filter = TaskFilter { namespace: Some(namespace.clone()), ..TaskFilter::default() };
                let (ended, all) = carry_out(context, &filter, &TaskCommand::Cancel).await?;
                rest |= !all;
                tracing::info!(namespace, ended, "namespace is deleted; cancelled its tasks");
            }
            Step::Drop { namespace, made_at } => {
                let created_before = made_at.checked_sub(SKEW).ok();
                let filter = TaskFilter { namespace: Some(namespace.clone()), created_before, ..TaskFilter::default() };
                let is_live = counts.iter().any(|counted| counted.namespace == namespace);
                let (_, all) =
                    if is_live { carry_out(context, &filter, &TaskCommand::Cancel).await? } else { (0, true) };
                let (dropped, all_dropped) = carry_out(context, &filter, &TaskCommand::Purge).await?;
                if dropped > 0 {
                    tracing::info!(
                        namespace,
                        dropped,
                        "namespace was created again; dropped the tasks of its predecessor"
                    );
                }
                rest |= !all || !all_dropped;
                if all && all_dropped {
                    done.cleared.insert(namespace, made_at);
                }
            }
        }
    }
    if !rest {
        done.seen = known.clone();
    }
    Ok(())
}

/// How many tasks it was carried out on, and whether that is all.
async fn carry_out(
    context: &LoopContext,
    filter: &TaskFilter,
    command: &TaskCommand,
) -> Result<(usize, bool), StoreError> {
    let mut count = 0;
    for _ in 0..BATCHES {
        context.beat.beat();
        let done = context.store.command_tasks(filter, command, "its namespace was deleted", BATCH).await?.len();
        count += done;
        if done == 0 {
            return Ok((count, true));
        }
    }
    Ok((count, false))
}

fn steps(known: &Namespaces, counts: &[QueueCounts], cleared: &BTreeMap<String, Timestamp>) -> Vec<Step> {
    let live = counts.iter().filter(|c| c.pending + c.in_progress + c.deferred_to_human > 0);
    let mut gone: Vec<&String> = live.map(|c| &c.namespace).filter(|namespace| known.is_gone(namespace)).collect();
    gone.dedup();
    let cancel = gone.into_iter().map(|namespace| Step::Cancel { namespace: namespace.clone() });
    let new = known.there.iter().filter(|(namespace, made_at)| cleared.get(*namespace) != Some(made_at));
    let drop = new.map(|(namespace, made_at)| Step::Drop { namespace: namespace.clone(), made_at: *made_at });
    cancel.chain(drop).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn counts(namespace: &str, pending: i64) -> QueueCounts {
        QueueCounts { pending, completed: 1, ..QueueCounts::none(namespace, "q") }
    }

    #[test]
    fn tasks_are_cancelled_with_their_namespace_and_dropped_before_another_of_its_name() {
        let cancel = |namespace: &str| Step::Cancel { namespace: namespace.into() };
        let drop = |namespace: &str, second| Step::Drop { namespace: namespace.into(), made_at: at(second) };
        let there = [("a".to_owned(), at(10)), ("b".to_owned(), at(20))];
        let mut known = Namespaces { there: there.into(), gone: ["c".to_owned()].into(), complete: false };
        let all = [counts("a", 1), counts("c", 1), counts("c", 2), counts("d", 1), counts("e", 0)];
        let mut cleared = BTreeMap::from([("a".to_owned(), at(10))]);
        assert_eq!(steps(&known, &all, &cleared), [cancel("c"), drop("b", 20)], "nothing is known of d");
        known.complete = true;
        assert_eq!(steps(&known, &all, &cleared), [cancel("c"), cancel("d"), drop("b", 20)]);
        cleared.insert("b".to_owned(), at(19));
        assert_eq!(steps(&known, &[], &cleared), [drop("b", 20)], "made anew");
        cleared.insert("b".to_owned(), at(20));
        assert_eq!(steps(&known, &[], &cleared), []);
    }
}

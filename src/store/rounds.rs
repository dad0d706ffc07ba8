//! A round of assignment: reads who may take what, decides by the pure rule, writes what is still unassigned.
//!
//! Only the leader writes assignments. Whoever else wants a round asks for one: the request travels as a `reconcile` does,
//! and the leader's report comes back as a document that carries the request's token.

use std::time::Duration;

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{BootInstant, Fence, ResourceKey, Store, StoreError, words::tell_refused, world};
use crate::tasks::{
    Assignment, TaskId, Unassigned,
    assign::{AssignReport, Batch, Roster, Tally},
};

/// Tasks of one batch.
const BATCH: i64 = 5_000;
/// Batches that are written at once, while the next one is read and planned.
const WRITES: usize = 2;
/// Tasks of one page whose assignments are refused one by one; with more of them the page is refused.
const MOST_REFUSED: usize = 16;
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

/// One round over all that nobody has, or all of `namespace`, with its report. With `fence` it is written; without, it is only
/// what a round would do.
///
/// # Errors
/// Those of the store; [`StoreError::Fenced`] when the lead was lost.
pub async fn assign_once(
    store: &dyn Store,
    fence: Option<&Fence>,
    namespace: Option<&str>,
) -> Result<AssignReport, StoreError> {
    let counts = store.queue_counts().await?;
    let ours = counts.iter().filter(|queue| namespace.is_none_or(|wanted| queue.namespace == wanted));
    let pending = ours.map(|queue| queue.pending).sum();
    let round = assign_above(store, fence, 0, namespace, &mut None).await?;
    Ok(round.tally.report(pending, fence.is_none()))
}

/// A round over the tasks with an id above `after`. Without any it reads nothing else. A `roster` that is known from rounds before is
/// gone on with; else it is read and kept there.
///
/// # Errors
/// Those of the store; [`StoreError::Fenced`] when the lead was lost.
pub async fn assign_after(
    store: &dyn Store,
    fence: &Fence,
    after: TaskId,
    roster: &mut Option<Roster>,
) -> Result<Round, StoreError> {
    assign_above(store, Some(fence), after, None, roster).await
}

async fn assign_above(
    store: &dyn Store,
    fence: Option<&Fence>,
    after: TaskId,
    namespace: Option<&str>,
    roster: &mut Option<Roster>,
) -> Result<Round, StoreError> {
    let pages = Pages { store, namespace, after, exhausted: false, roster };
    let mut written = pages.written(fence);
    let mut round = Round { tally: Tally::default(), last: after };
    while let Some(page) = written.try_next().await? {
        round.tally.add(&page.tasks, &page.batch);
        round.last = page.last;
    }
    Ok(round)
}

/// Tasks that nobody has, and who shall have them.
struct Page {
    tasks: Vec<Unassigned>,
    batch: Batch,
    /// The highest id that was looked at.
    last: TaskId,
}

/// Reads page by page. Loads count what pages before were given, written or not.
struct Pages<'a> {
    store: &'a dyn Store,
    namespace: Option<&'a str>,
    after: TaskId,
    exhausted: bool,
    roster: &'a mut Option<Roster>,
}

impl<'a> Pages<'a> {
    /// In their order, each once it is written.
    fn written(self, fence: Option<&'a Fence>) -> BoxStream<'a, Result<Page, StoreError>> {
        let store = self.store;
        let planned = stream::try_unfold(self, |mut pages| async {
            let page = pages.next().await?;
            Ok::<_, StoreError>(page.map(|page| (page, pages)))
        });
        let write = move |page: Page| async move {
            if let Some(fence) = fence.filter(|_| !page.batch.assignments.is_empty()) {
                write_assignments(store, fence, &page.batch.assignments).await?;
            }
            Ok(page)
        };
        planned.map_ok(write).try_buffered(WRITES).boxed()
    }

    async fn next(&mut self) -> Result<Option<Page>, StoreError> {
        if self.exhausted {
            return Ok(None);
        }
        let mut tasks = self.store.unassigned(self.after, BATCH).await?;
        self.exhausted = i64::try_from(tasks.len()).is_ok_and(|n| n < BATCH);
        let Some(last) = tasks.last().map(|task| task.id) else { return Ok(None) };
        self.after = last;
        tasks.retain(|task| self.namespace.is_none_or(|wanted| task.queue.namespace == wanted));
        let roster = match &mut *self.roster {
            Some(roster) => roster,
            none => none.insert(read_roster(self.store).await?),
        };
        let batch = roster.assign(&tasks);
        Ok(Some(Page { tasks, batch, last }))
    }
}

/// Writes assignments; by halves where the database refuses them for one task, so that nobody else waits because of that.
///
/// # Errors
/// Those of the store, and a refusal of more tasks than are singled out.
pub async fn write_assignments(store: &dyn Store, fence: &Fence, all: &[Assignment]) -> Result<(), StoreError> {
    let (mut parts, mut refused) = (vec![all], 0);
    while let Some(part) = parts.pop() {
        match store.assign(fence, part).await {
            Ok(_) => {}
            Err(StoreError::Refused(_)) if part.len() > 1 && refused < MOST_REFUSED => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            Err(StoreError::Refused(why)) if part.len() == 1 => {
                refused += 1;
                tell_refused(part[0].task, &why);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn read_roster(store: &dyn Store) -> Result<Roster, StoreError> {
    let experts = world::experts(store).await?.into_iter().map(|expert| expert.view).collect();
    let queues = store.declared("TaskQueue").await?.iter().filter_map(world::queue_state).map(|q| q.view).collect();
    Ok(Roster::new(experts, queues))
}

/// Of what kind requests for rounds are, among people's wishes.
pub const ROUND_KIND: &str = "Assignment";

/// What a request for a round over all, or all of a namespace, is about: those of one namespace never overwrite another's.
pub fn round_key(namespace: Option<&str>) -> ResourceKey {
    ResourceKey { kind: ROUND_KIND.into(), namespace: namespace.unwrap_or_default().into(), name: "all".into() }
}

fn document(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| DOCUMENT.to_owned(), |namespace| format!("{DOCUMENT}/{namespace}"))
}

/// Asks the leader for a round over all, or all of `namespace`, and waits for its report. `None`: nobody leads, or it took
/// longer than `within`; the round comes when somebody leads.
///
/// # Errors
/// Those of the store.
pub async fn ask_for_round(
    store: &dyn Store,
    namespace: Option<&str>,
    within: Duration,
) -> Result<Option<AssignReport>, StoreError> {
    // Rising, so that the answer to a later request answers this one.
    let token = Uuid::now_v7().to_string();
    store.request_reconcile(&round_key(namespace), &token).await?;
    let until = BootInstant::now() + within;
    loop {
        let answer = last_answer(store, namespace).await?;
        if let Some(answer) = answer.filter(|answer| answer.token >= token) {
            return Ok(Some(answer.report));
        }
        if BootInstant::now() >= until {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn last_answer(store: &dyn Store, namespace: Option<&str>) -> Result<Option<Answer>, StoreError> {
    let document = store.recovery(&document(namespace)).await?;
    Ok(document.and_then(|document| serde_json::from_value(document).ok()))
}

/// The token of the last round over all, or all of `namespace`, that was answered.
///
/// # Errors
/// Those of the store.
pub async fn answered(store: &dyn Store, namespace: Option<&str>) -> Result<Option<String>, StoreError> {
    Ok(last_answer(store, namespace).await?.map(|answer| answer.token))
}

/// Does what was asked for, and answers.
///
/// # Errors
/// Those of the store; [`StoreError::Fenced`] when the lead was lost.
pub async fn answer(
    store: &dyn Store,
    fence: &Fence,
    namespace: Option<&str>,
    token: &str,
) -> Result<AssignReport, StoreError> {
    let report = assign_once(store, Some(fence), namespace).await?;
    let answer = Answer { token: token.to_owned(), report };
    let value = serde_json::to_value(&answer).map_err(|e| StoreError::Broken(e.to_string()))?;
    store.save_recovery(fence, &document(namespace), &value).await?;
    Ok(answer.report)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use serde_json::json;

    use super::*;
    use crate::{
        store::{DeclaredRow, Home, open, sqlite::FolderAccess},
        tasks::{NewTask, Payload},
    };

    const LONG: Duration = Duration::from_secs(60);

    fn row(kind: &str, name: &str, spec: serde_json::Value) -> DeclaredRow {
        DeclaredRow {
            uid: format!("{kind}-{name}"),
            kind: kind.into(),
            namespace: "default".into(),
            name: name.into(),
            generation: 1,
            labels: BTreeMap::new(),
            spec,
            suspended: false,
            held: None,
        }
    }

    fn task(domain: &str) -> NewTask {
        NewTask {
            namespace: "default".into(),
            queue: "default".into(),
            domain: domain.into(),
            payload: Payload { prompt: Some("p".into()), ..Payload::default() },
            ..NewTask::default()
        }
    }

    /// A store with two experts, four tasks that one of them does, and one that nobody does.
    async fn shop(folder: &std::path::Path) -> (Arc<dyn Store>, Fence) {
        let home = Home::Folder { path: folder.to_owned(), hold: FolderAccess::Lock };
        let store = open(&home, None).await.unwrap();
        let fence = store.campaign("me", LONG).await.unwrap().unwrap();
        for row in [
            row("TaskQueue", "default", json!({})),
            row("Expert", "igor", json!({"domains": ["backend"], "model": "small"})),
            row("Expert", "anna", json!({"domains": ["backend"], "model": "small"})),
        ] {
            store.project_declared(&fence, &row).await.unwrap();
        }
        let mut tasks = vec![task("backend"); 4];
        tasks.push(task("legal"));
        store.insert_tasks(&tasks).await.unwrap();
        (store, fence)
    }

    #[tokio::test]
    async fn a_round_assigns_what_it_can_and_says_what_it_cannot() {
        let folder = std::env::temp_dir().join(format!("ostler-rounds-{}", Uuid::new_v4()));
        let (store, fence) = shop(&folder).await;
        let counts = |report: &AssignReport| {
            let given: Vec<_> = report.assigned.iter().map(|g| (g.expert.clone(), g.count)).collect();
            let nobody: Vec<_> = report.nobody.iter().map(|n| (n.domain.clone(), n.count)).collect();
            ((report.pending, report.unassigned, report.already), given, nobody)
        };
        let (each, legal) = (vec![("anna".to_owned(), 2), ("igor".to_owned(), 2)], vec![("legal".to_owned(), 1)]);
        let dry = assign_once(&*store, None, None).await.unwrap();
        assert!(dry.dry_run);
        assert_eq!(counts(&dry), ((5, 5, 0), each.clone(), legal.clone()));
        let done = assign_once(&*store, Some(&fence), None).await.unwrap();
        assert_eq!(counts(&done), ((5, 5, 0), each, legal.clone()), "the dry run wrote nothing");
        let again = assign_once(&*store, Some(&fence), None).await.unwrap();
        assert_eq!(counts(&again), ((5, 1, 4), Vec::new(), legal));
        drop(store);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn who_asks_for_a_round_gets_the_leaders_report_and_nothing_from_nobody() {
        let folder = std::env::temp_dir().join(format!("ostler-rounds-{}", Uuid::new_v4()));
        let (store, fence) = shop(&folder).await;
        assert_eq!(ask_for_round(&*store, Some("default"), Duration::from_millis(1)).await.unwrap(), None);
        let before = store.controls().await.unwrap().reconcile_requested;
        let leader = async {
            loop {
                let asked = store.controls().await.unwrap().reconcile_requested;
                let new: Vec<_> = asked.into_iter().filter(|request| !before.contains(request)).collect();
                // Whoever asked about the other namespace did so meanwhile: neither is lost.
                if let [(first, token), (second, other)] = &new[..] {
                    assert_eq!((first.namespace.as_str(), second.namespace.as_str()), ("default", "other"));
                    answer(&*store, &fence, Some("other"), other).await.unwrap();
                    answer(&*store, &fence, Some("default"), token).await.unwrap();
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ask = async |namespace| ask_for_round(&*store, Some(namespace), LONG).await.unwrap().unwrap();
        let (report, other, ()) = tokio::join!(ask("default"), ask("other"), leader);
        assert_eq!(report.assigned.iter().map(|g| g.count).sum::<i64>(), 4);
        assert_eq!((other.pending, other.assigned.len()), (0, 0));
        drop(store);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

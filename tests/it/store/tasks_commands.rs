//! What people do to tasks.

use std::time::Duration;

use jiff::SignedDuration;
use ostler::store::{TaskCommand, TaskFilter, TaskPage};
use ostler::tasks::{AttemptClass, Completion, NewTask, Payload, TaskId, TaskState, Verdict};

use super::bench::{Bench, eventually};
use super::tasks_bench::*;

fn reason() -> String {
    "because".to_owned()
}

/// One task in each state, in the order of `TaskState::ALL`.
async fn one_in_each_state(bench: &Bench) -> Vec<TaskId> {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "hook", 6).await;
    let worker = lease(&bench.store, "worker").await;
    let claimed = claim_hooks(&bench.store, &worker, 6).await;
    for (at, verdict) in [
        (0, Verdict::Requeue { after: Duration::ZERO, reason: reason() }),
        (2, done()),
        (3, Verdict::Failed { reason: reason() }),
        (4, Verdict::Cancelled { reason: reason() }),
        (5, Verdict::DeferredToHuman { reason: reason() }),
    ] {
        complete(bench, &claimed[at], verdict).await;
    }
    for (id, wanted) in ids.iter().zip(TaskState::ALL) {
        assert_eq!(state(bench, *id).await, wanted);
    }
    ids
}

/// What each state becomes by a command; `None`: it does not apply.
async fn commanded(bench: &Bench, command: TaskCommand, wanted: [Option<TaskState>; 6]) -> Vec<TaskId> {
    let ids = one_in_each_state(bench).await;
    let nothing = TaskFilter { queue: Some("other".to_owned()), ..filter(&ids) };
    assert_eq!(bench.store.command_tasks(&nothing, &command, "by ann", 99).await, Ok(vec![]), "the filter");
    let mut done = bench.store.command_tasks(&filter(&ids), &command, "by ann", 99).await.expect("command");
    done.sort_unstable();
    let applies: Vec<_> = ids.iter().zip(wanted).filter(|(_, wanted)| wanted.is_some()).map(|(id, _)| *id).collect();
    assert_eq!(done, applies);
    for ((id, before), wanted) in ids.iter().zip(TaskState::ALL).zip(wanted) {
        let task = bench.store.task(*id).await.expect("read");
        if let (Some(wanted), Some(task)) = (wanted, task) {
            assert_eq!(task.state, wanted, "from {before:?}");
            assert_eq!(task.reason.as_deref(), Some("by ann"), "from {before:?}");
            let anew = before == TaskState::DeferredToHuman || before.is_terminal();
            let anew = anew && wanted == TaskState::Pending;
            assert_eq!(task.cycle, if anew { 2 } else { 1 }, "from {before:?}");
            if anew {
                assert_eq!((task.attempts_used, task.free_requeues, task.leases_lost), (0, 0, 0));
                assert_eq!((task.attempts.len(), task.result), (1, None), "from {before:?}");
            }
        } else if wanted.is_none() {
            assert_eq!(state(bench, *id).await, before, "untouched");
        }
    }
    ids
}

pub async fn cancel_ends_what_is_live(bench: &Bench) {
    let gone = Some(TaskState::Cancelled);
    let ids = commanded(bench, TaskCommand::Cancel, [gone, gone, None, None, None, gone]).await;
    let lost = bench.store.lost_claims(&[(ids[1], 1)]).await;
    assert_eq!(lost, Ok(vec![ids[1]]), "whoever runs it is told at the next heartbeat");
    let running = task(bench, ids[1]).await;
    assert_eq!((running.epoch, running.free_requeues), (2, 1));
    let late = Completion { task: ids[1], epoch: 1, verdict: done(), attempt: attempt(AttemptClass::Ok) };
    assert_eq!(bench.store.complete(&[late]).await, Ok(vec![false]));
}

pub async fn retry_opens_a_new_cycle_of_what_ended(bench: &Bench) {
    let anew = Some(TaskState::Pending);
    let ids = commanded(bench, TaskCommand::Retry, [None, None, anew, anew, anew, None]).await;
    let worker = lease(&bench.store, "worker").await;
    let claimed = claim_hooks(&bench.store, &worker, 9).await;
    assert_eq!(claimed.len(), 4, "it keeps its expert, and is due");
    let one = claimed.iter().find(|one| one.task.id == ids[2]).expect("it is among them");
    assert_eq!(one.task.epoch, 2);
    complete(bench, one, done()).await;
}

pub async fn resume_gives_deferred_tasks_all_their_attempts_again(bench: &Bench) {
    let anew = Some(TaskState::Pending);
    commanded(bench, TaskCommand::Resume, [None, None, None, None, None, anew]).await;
}

pub async fn reassign_gives_waiting_and_deferred_tasks_to_somebody_else(bench: &Bench) {
    let anew = Some(TaskState::Pending);
    let command = TaskCommand::Reassign { expert: "olga".to_owned(), model: Some("large".to_owned()) };
    let ids = commanded(bench, command, [anew, None, None, None, None, anew]).await;
    for id in [ids[0], ids[5]] {
        let task = task(bench, id).await;
        assert_eq!((task.expert.as_deref(), task.assigned_model.as_deref()), (Some("olga"), Some("large")));
    }
    let worker = lease(&bench.store, "worker").await;
    let mut claimed = given_ids(&claim_slots(bench, &slot_claim(&worker, 9)).await);
    claimed.sort_unstable();
    assert_eq!(claimed, [ids[0], ids[5]]);
}

pub async fn close_ends_deferred_tasks_as_failed(bench: &Bench) {
    commanded(bench, TaskCommand::Close, [None, None, None, None, None, Some(TaskState::Failed)]).await;
}

pub async fn purge_deletes_what_ended(bench: &Bench) {
    let gone = Some(TaskState::Cancelled);
    let ids = commanded(bench, TaskCommand::Purge, [None, None, gone, gone, gone, None]).await;
    for id in &ids[2..5] {
        assert_eq!(bench.store.task(*id).await, Ok(None));
    }
    assert_eq!(bench.store.tasks(&TaskFilter::default(), &all_on_a_page()).await.expect("read").len(), 3);
}

pub async fn a_command_stops_at_its_bound_and_a_filter_without_conditions_is_all(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "igor", 5).await;
    let cancel = async |most| bench.store.command_tasks(&TaskFilter::default(), &TaskCommand::Cancel, "", most).await;
    assert_eq!(cancel(2).await.expect("cancel").len(), 2);
    let mut rest = cancel(99).await.expect("cancel");
    assert_eq!(rest.len(), 3);
    assert_eq!(cancel(99).await, Ok(vec![]));
    // A bound counts what the command applies to, not what the filter finds.
    let retried = bench.store.command_tasks(&filter(&rest), &TaskCommand::Retry, "", 1).await.expect("retry");
    assert_eq!(retried.len(), 1);
    let cancelled = bench.store.command_tasks(&filter(&ids), &TaskCommand::Cancel, "", 1).await;
    assert_eq!(cancelled, Ok(retried));
    rest.sort_unstable();
    assert!(rest.iter().all(|id| ids.contains(id)));
}

pub async fn a_command_can_be_for_tasks_older_than_some_moment(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let old = give_many(bench, &fence, "igor", 3).await;
    let moment = task(bench, old[2]).await.created_at + SignedDuration::from_micros(1);
    while bench.store.task(give_many(bench, &fence, "igor", 1).await[0]).await.expect("read").unwrap().created_at
        < moment
    {}
    let older = TaskFilter { created_before: Some(moment), ..TaskFilter::default() };
    for command in [TaskCommand::Cancel, TaskCommand::Purge] {
        let mut done = bench.store.command_tasks(&older, &command, "", 99).await.expect("command");
        done.sort_unstable();
        assert_eq!(done[..3], old, "{command:?}");
    }
    let left = bench.store.tasks(&TaskFilter::default(), &all_on_a_page()).await.expect("read");
    assert!(!left.is_empty() && left.iter().all(|task| task.created_at >= moment), "{left:?}");
}

/// A payload of so many bytes that no compression makes small.
fn large(bytes: usize) -> NewTask {
    let prompt = (0..bytes / 36 + 1).map(|_| uuid::Uuid::new_v4().to_string()).collect::<String>();
    NewTask { payload: Payload { prompt: Some(prompt), ..Payload::default() }, ..new_task() }
}

pub async fn large_tasks_are_read_and_cancelled_in_parts_whatever_their_number(bench: &Bench) {
    const MEGABYTE: usize = 1 << 20;
    shop(bench, 1).await;
    let one = large(MEGABYTE);
    let mut ids = Vec::new();
    for _ in 0..24 {
        ids.extend(insert(bench, &vec![one.clone(); 2]).await);
    }
    let mut page = TaskPage { limit: 1_000, ..TaskPage::default() };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let tasks = bench.store.tasks(&TaskFilter::default(), &page).await.expect("a page");
        assert!(tasks.len() <= 17, "{} of a megabyte each", tasks.len());
        let Some(last) = tasks.last() else { break };
        page.before = Some(last.id);
        pages += 1;
        seen.extend(tasks.iter().map(|task| task.id));
    }
    seen.reverse();
    assert_eq!((seen, pages), (ids.clone(), 3));
    let brief = TaskPage { limit: 1_000, brief: true, ..TaskPage::default() };
    assert_eq!(bench.store.tasks(&TaskFilter::default(), &brief).await.expect("a page").len(), 48);
    let half = command(bench, &TaskFilter::default(), &TaskCommand::Cancel, 20).await;
    assert_eq!(half, ids[..20], "the oldest");
    assert_eq!(command(bench, &TaskFilter::default(), &TaskCommand::Cancel, 1_000).await, ids[20..]);
    let (mut after, mut ended) = (None, Vec::new());
    eventually("all are shown", async || {
        loop {
            let changed = bench.store.task_changes(&TaskFilter::default(), after, 1_000, false).await.expect("changes");
            assert!(changed.len() <= 17, "{}", changed.len());
            let Some(last) = changed.last() else { return ended.len() == 48 };
            after = Some(ostler::store::TaskCursor::of(last));
            ended.extend(changed.iter().map(|task| task.id));
        }
    })
    .await;
}

async fn command(bench: &Bench, filter: &TaskFilter, command: &TaskCommand, most: i64) -> Vec<TaskId> {
    bench.store.command_tasks(filter, command, "by a person", most).await.expect("done")
}

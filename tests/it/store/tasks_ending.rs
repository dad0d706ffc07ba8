//! How executions end, what takes claims away, and what people do to tasks.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ostler::store::{FreeClaim, Lease, Reapable, Reaped, StoreError, TaskCommand, TaskFilter, TaskPage};
use ostler::tasks::{AttemptClass, Completion, NewTask, Payload, QueueKey, TaskId, TaskState, Verdict};
use serde_json::json;

use super::bench::{Bench, backend, eventually};
use super::tasks_bench::*;

const TEN: Duration = Duration::from_secs(10);

fn reason() -> String {
    "because".to_owned()
}

pub async fn each_verdict_leads_where_the_machine_says(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let worker = lease(&bench.store, "worker").await;
    for (verdict, state, used, free, waits) in [
        (done(), TaskState::Completed, 1, 0, false),
        (Verdict::Retry { after: TEN, reason: reason() }, TaskState::Pending, 1, 0, true),
        (Verdict::Requeue { after: TEN, reason: reason() }, TaskState::Pending, 0, 1, true),
        (Verdict::Failed { reason: reason() }, TaskState::Failed, 1, 0, false),
        (Verdict::DeferredToHuman { reason: reason() }, TaskState::DeferredToHuman, 1, 0, false),
        (Verdict::Cancelled { reason: reason() }, TaskState::Cancelled, 0, 1, false),
    ] {
        let id = give_many(bench, &fence, "hook", 1).await[0];
        let claimed = claim_hooks(&bench.store, &worker, 1).await.remove(0);
        let claimed_at = task(bench, id).await.state_since;
        let ended = end(&claimed, verdict.clone());
        assert_eq!(bench.store.complete(std::slice::from_ref(&ended)).await, Ok(vec![true]), "{verdict:?}");
        let task = task(bench, id).await;
        assert_eq!((task.state, task.attempts_used, task.free_requeues), (state, used, free), "{verdict:?}");
        assert_eq!((task.epoch, task.cycle, task.leases_lost), (1, 1, 0), "{verdict:?}");
        assert_eq!(task.attempts, std::slice::from_ref(&ended.attempt));
        assert!(task.state_since >= claimed_at);
        match &verdict {
            Verdict::Completed { result } => {
                assert_eq!((task.result.as_ref(), task.reason.as_deref()), (Some(result), None));
            }
            _ => assert_eq!((task.result, task.reason), (None, Some(reason())), "{verdict:?}"),
        }
        if waits {
            assert_eq!(task.run_after, Some(task.state_since + SignedDuration::from_secs(10)), "{verdict:?}");
            assert_eq!((task.expert.as_deref(), task.assigned_model), (Some("hook"), None), "it keeps its expert");
            assert!(claim_hooks(&bench.store, &worker, 9).await.is_empty(), "not yet");
        }
        assert_eq!(bench.store.complete(&[ended]).await, Ok(vec![false]), "once is enough");
    }
}

pub async fn a_batch_of_completions_is_answered_one_by_one(bench: &Bench) {
    let fence = shop(bench, 50).await;
    give_many(bench, &fence, "igor", 3).await;
    let worker = lease(&bench.store, "worker").await;
    let given = claim_slots(bench, &slot_claim(&worker, 3)).await.given;
    let claimed: Vec<_> = given.into_iter().map(|(_, one)| one).collect();
    let first = end(&claimed[0], done());
    let early = Completion { epoch: 0, ..end(&claimed[1], done()) };
    let late = Completion { epoch: 2, ..end(&claimed[1], done()) };
    let nobody = Completion { task: claimed[2].task.id + 1_000, ..end(&claimed[2], done()) };
    let twice = end(&claimed[0], Verdict::Failed { reason: reason() });
    let last = end(&claimed[2], Verdict::Retry { after: TEN, reason: reason() });
    let answers = bench.store.complete(&[early, first, nobody, twice, last, late]).await;
    assert_eq!(answers, Ok(vec![false, true, false, false, true, false]));
    assert_eq!(state(bench, claimed[0].task.id).await, TaskState::Completed);
    assert_eq!(state(bench, claimed[1].task.id).await, TaskState::InProgress);
    assert_eq!(state(bench, claimed[2].task.id).await, TaskState::Pending);
    assert_eq!(bench.store.complete(&[]).await, Ok(vec![]));
}

pub async fn a_task_remembers_its_last_twenty_attempts(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let id = give_many(bench, &fence, "hook", 1).await[0];
    let worker = lease(&bench.store, "worker").await;
    for number in 0..23 {
        let claimed = claim_hooks(&bench.store, &worker, 1).await.remove(0);
        let mut ended = end(&claimed, Verdict::Retry { after: Duration::ZERO, reason: reason() });
        ended.attempt.error = Some(format!("error {number}"));
        assert_eq!(bench.store.complete(&[ended]).await, Ok(vec![true]));
    }
    let task = task(bench, id).await;
    assert_eq!((task.attempts_used, task.attempts.len(), task.epoch), (23, 20, 23));
    assert_eq!(task.attempts[0].error.as_deref(), Some("error 3"));
    assert_eq!(task.attempts[19].error.as_deref(), Some("error 22"));
}

/// Lets the lease lapse.
async fn lapse(bench: &Bench, lease: &Lease) {
    assert_eq!(bench.store.renew_leases(&[(lease.clone(), Duration::ZERO)]).await, Ok(vec![]));
}

pub async fn a_lost_lease_gives_its_tasks_back_and_the_third_time_to_a_human(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "hook", 2).await;
    let mut old = Vec::new();
    for times in 1..=3 {
        let worker = lease(&bench.store, &format!("worker-{times}")).await;
        let claimed = claim_hooks(&bench.store, &worker, 9).await;
        assert_eq!(super::tasks_bench::ids(&claimed), ids);
        assert_eq!(bench.store.reap(&fence).await, Ok(Reaped::default()), "its lease holds");
        lapse(bench, &worker).await;
        let reaped = bench.store.reap(&fence).await.expect("reap");
        let (requeued, deferred) = if times < 3 { (2, 0) } else { (0, 2) };
        assert_eq!(reaped, Reaped { leases: 1, requeued, deferred, expired: 0 });
        let task = task(bench, ids[0]).await;
        assert_eq!((task.leases_lost, task.attempts_used, task.free_requeues), (times, 0, 0));
        assert_eq!(task.epoch, i64::from(times) * 2, "a claim and its end");
        assert_eq!(task.attempts.len(), usize::try_from(times).expect("few"));
        let last = task.attempts.last().expect("noted");
        assert_eq!((last.class, last.holder.as_str()), (AttemptClass::LeaseLost, worker.holder.as_str()));
        assert_eq!(last.expert, "hook");
        assert_eq!(task.state, if times < 3 { TaskState::Pending } else { TaskState::DeferredToHuman });
        assert!(task.reason.is_some_and(|reason| reason.contains("lost")), "why");
        old.extend(claimed);
        let lost: Vec<_> = old.iter().map(|one| (one.task.id, one.task.epoch)).collect();
        assert_eq!(bench.store.lost_claims(&lost).await.expect("ask").len(), lost.len());
        assert_eq!(bench.store.renew_leases(&[(worker.clone(), MINUTE)]).await, Ok(vec![worker]), "gone for good");
    }
    let late: Vec<_> = old.iter().map(|one| end(one, done())).collect();
    assert_eq!(bench.store.complete(&late).await, Ok(vec![false; 6]), "what comes late changes nothing");
    assert_eq!(state(bench, ids[1]).await, TaskState::DeferredToHuman);
}

pub async fn a_lapsed_lease_that_nobody_took_is_renewed_under_its_epoch(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "hook", 1).await;
    let (worker, other) = (lease(&bench.store, "worker").await, lease(&bench.store, "other").await);
    let claimed = claim_hooks(&bench.store, &worker, 1).await.remove(0);
    lapse(bench, &worker).await;
    lapse(bench, &other).await;
    let both = [(worker.clone(), MINUTE), (other.clone(), Duration::ZERO)];
    assert_eq!(bench.store.renew_leases(&both).await, Ok(vec![]));
    let queue = queue_key();
    let elsewhere = QueueKey { name: "elsewhere".to_owned(), ..queue.clone() };
    let waits = bench.store.reap_of(&fence, &Reapable::Of(vec![elsewhere.clone()])).await;
    assert_eq!(waits, Ok(Reaped::default()), "its queue's leases have not been waited for");
    let reaped = bench.store.reap_of(&fence, &Reapable::Of(vec![elsewhere, queue])).await.expect("reap");
    assert_eq!((reaped.leases, reaped.requeued), (1, 0), "the other's");
    assert_eq!(bench.store.renew_leases(&both).await, Ok(vec![other.clone()]));
    let forged = Lease { holder: "other".to_owned(), ..worker };
    assert_eq!(bench.store.renew_leases(&[(forged.clone(), MINUTE)]).await, Ok(vec![forged]));
    assert_eq!(bench.store.lost_claims(&[(ids[0], 1)]).await, Ok(vec![]));
    complete(bench, &claimed, done()).await;
}

pub async fn a_closed_lease_frees_its_tasks_at_once(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "hook", 3).await;
    let (worker, other) = (lease(&bench.store, "worker").await, lease(&bench.store, "other").await);
    let mine = claim_hooks(&bench.store, &worker, 2).await;
    let others = claim_hooks(&bench.store, &other, 1).await;
    bench.store.close_lease(&worker).await.expect("close");
    bench.store.close_lease(&worker).await.expect("twice does no harm");
    for id in &ids[..2] {
        let task = task(bench, *id).await;
        assert_eq!((task.state, task.attempts_used, task.leases_lost), (TaskState::Pending, 0, 0));
        assert_eq!((task.free_requeues, task.epoch), (1, 2));
    }
    let claims: Vec<_> = mine.iter().chain(&others).map(|one| (one.task.id, one.task.epoch)).collect();
    assert_eq!(bench.store.lost_claims(&claims).await, Ok(ids[..2].to_vec()));
    assert_eq!(bench.store.complete(&[end(&mine[0], done())]).await, Ok(vec![false]));
    assert_eq!(super::tasks_bench::ids(&claim_hooks(&bench.store, &other, 9).await), ids[..2], "claimable at once");
    complete(bench, &others[0], done()).await;
}

pub async fn a_task_that_was_handed_over_has_a_lease_of_its_own(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "hook", 2).await;
    let worker = lease(&bench.store, "worker").await;
    let claimed = claim_hooks(&bench.store, &worker, 2).await;
    let own = bench.store.hand_over(ids[0], 1, MINUTE).await.expect("ours");
    assert_eq!(own.holder, format!("task/{}", ids[0]));
    let fenced = bench.store.hand_over(ids[1], 7, MINUTE).await;
    assert!(matches!(fenced, Err(StoreError::Fenced(_))), "{fenced:?}");
    bench.store.close_lease(&worker).await.expect("close");
    assert_eq!(
        bench.store.lost_claims(&[(ids[0], 1), (ids[1], 1)]).await,
        Ok(vec![ids[1]]),
        "its worker is not needed"
    );
    assert_eq!(bench.store.renew_leases(&[(own.clone(), Duration::ZERO)]).await, Ok(vec![]));
    assert_eq!(bench.store.reap(&fence).await.expect("reap").requeued, 1);
    assert_eq!(task(bench, ids[0]).await.leases_lost, 1, "its agent was silent");
    assert_eq!(bench.store.complete(&[end(&claimed[0], done())]).await, Ok(vec![false]));

    let worker = lease(&bench.store, "next").await;
    let again = claim_hooks(&bench.store, &worker, 2).await;
    let own = bench.store.hand_over(ids[0], 3, MINUTE).await.expect("ours");
    let one = again.iter().find(|one| one.task.id == ids[0]).expect("both");
    complete(bench, one, done()).await;
    assert_eq!(bench.store.renew_leases(&[(own.clone(), MINUTE)]).await, Ok(vec![own]), "its lease went with it");
}

pub async fn a_task_past_its_deadline_fails_instead_of_being_tried(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let past = NewTask { deadline: Some(Timestamp::now() - SignedDuration::from_secs(1)), ..new_task() };
    let later = NewTask { deadline: Some(Timestamp::now() + SignedDuration::from_hours(1)), ..new_task() };
    let unassigned = insert(bench, std::slice::from_ref(&past)).await[0];
    let ids = give(bench, &fence, "igor", &[past, later]).await;
    assert_eq!(bench.store.reap(&fence).await, Ok(Reaped { expired: 2, ..Reaped::default() }));
    for id in [unassigned, ids[0]] {
        let task = task(bench, id).await;
        assert_eq!((task.state, task.attempts_used), (TaskState::Failed, 0));
        assert!(task.reason.is_some_and(|reason| reason.contains("deadline")), "why");
    }
    assert_eq!(state(bench, ids[1]).await, TaskState::Pending);
    assert_eq!(bench.store.reap(&fence).await, Ok(Reaped::default()));
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

pub async fn what_becomes_pending_follows_its_expert(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "igor", 3).await;
    bench.store.project_backend(&fence, &backend("u1")).await.expect("project");
    let worker = lease(&bench.store, "worker").await;
    let given = claim_slots(bench, &slot_claim(&worker, 3)).await.given;
    let mut igor = expert("igor", "larger", 50);
    bench.store.project_declared(&fence, &igor).await.expect("project");
    assert_eq!(task(bench, ids[0]).await.assigned_model.as_deref(), Some("small"), "it runs");
    let back = || Verdict::Requeue { after: Duration::ZERO, reason: reason() };
    complete(bench, &given[0].1, back()).await;
    assert_eq!(task(bench, ids[0]).await.assigned_model.as_deref(), Some("larger"));
    igor.suspended = true;
    bench.store.project_declared(&fence, &igor).await.expect("project");
    complete(bench, &given[1].1, back()).await;
    bench.store.sweep_declared(&fence, "Expert", &[]).await.expect("sweep");
    bench.store.close_lease(&worker).await.expect("close");
    for id in &ids {
        let task = task(bench, *id).await;
        assert_eq!((task.state, task.expert, task.assignment_reason), (TaskState::Pending, None, None));
    }
    let worker = lease(&bench.store, "worker").await;
    assert!(claim_slots(bench, &slot_claim(&worker, 3)).await.given.is_empty());
    let free = FreeClaim { queues: served(&worker), most: 9 };
    assert_eq!(bench.store.claim_free(&free).await, Ok(vec![]), "a task without an expert is no webhook's");
}

pub async fn a_result_of_any_shape_is_kept(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let worker = lease(&bench.store, "worker").await;
    for result in [json!(null), json!({"vectors": [[0.25, -1.5e-7]]}), json!({"text": "ü\n\u{1f40e}"}), json!([1, "a"])]
    {
        let id = give_many(bench, &fence, "hook", 1).await[0];
        let claimed = claim_hooks(&bench.store, &worker, 1).await.remove(0);
        complete(bench, &claimed, Verdict::Completed { result: result.clone() }).await;
        assert_eq!(task(bench, id).await.result.unwrap_or_default(), result);
    }
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

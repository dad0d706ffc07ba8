//! How executions end, and what takes claims away.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ostler::store::{FreeClaim, Lease, Reapable, Reaped, StoreError};
use ostler::tasks::{AttemptClass, Completion, NewTask, QueueKey, TaskState, Verdict};
use serde_json::json;

use super::bench::{Bench, backend};
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

//! Claims: who gets what, in which order, and never too much.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ostler::store::{
    Admission, CallLife, DeclaredRow, FreeClaim, Lease, Served, ServerRow, SlotClaim, Store, StoreError, TaskCommand,
};
use ostler::tasks::{NewTask, QueueKey, TaskState, Verdict};

use super::bench::{Bench, URL, call, server};
use super::tasks_bench::*;

pub async fn only_what_is_assigned_and_due_is_claimed(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let now = Timestamp::now();
    let (past, future) = (now - SignedDuration::from_secs(9), now + SignedDuration::from_hours(1));
    insert(bench, &[new_task(), NewTask { expert: Some("igor".to_owned()), ..new_task() }]).await;
    let ids = give(
        bench,
        &fence,
        "igor",
        &[
            NewTask { run_after: Some(future), ..new_task() },
            NewTask { deadline: Some(past), ..new_task() },
            NewTask { run_after: Some(past), deadline: Some(future), ..new_task() },
            NewTask { queue: "other".to_owned(), ..new_task() },
            NewTask { model: Some("huge".to_owned()), ..new_task() },
        ],
    )
    .await;
    let hook = give_many(bench, &fence, "hook", 1).await;
    let lease = lease(&bench.store, "worker").await;
    let answer = claim_slots(bench, &slot_claim(&lease, 9)).await;
    assert_eq!(given_ids(&answer), [ids[2]]);
    assert!(!answer.full && !answer.closed, "tasks ran out, slots did not");
    let (slot, claimed) = &answer.given[0];
    let whole = task(bench, ids[2]).await;
    assert_eq!((whole.state, whole.epoch, &claimed.lease), (TaskState::InProgress, 1, &lease));
    assert_eq!(claimed.task, whole.into(), "as it is");
    assert_eq!((slot.holder.as_str(), slot.server_url.as_str()), ("worker", URL));
    let rows = bench.store.slots(URL).await.expect("slots");
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].number, rows[0].epoch, rows[0].model.as_deref()), (slot.number, slot.epoch, Some("small")));
    assert_eq!(super::tasks_bench::ids(&claim_hooks(&bench.store, &lease, 9).await), hook, "a webhook's takes no slot");
    assert_eq!(bench.occupied().await, 1);
}

pub async fn the_higher_priority_goes_first_and_the_older_of_two_alike(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let with = |priority| NewTask { priority, ..new_task() };
    let ids = give(bench, &fence, "igor", &[with(0), with(-5), with(7), with(0), with(100), with(7)]).await;
    let lease = lease(&bench.store, "worker").await;
    let mut order = Vec::new();
    for most in [1, 3, 2] {
        order.extend(given_ids(&claim_slots(bench, &slot_claim(&lease, most)).await));
    }
    let wanted: Vec<_> = [4, 2, 5, 0, 3, 1].into_iter().map(|at: usize| ids[at]).collect();
    assert_eq!(order, wanted);
    // Webhooks' tasks, too.
    let hooks = give(bench, &fence, "hook", &[with(0), with(9)]).await;
    let lease = lease_for(&bench.store, "worker", MINUTE).await;
    assert_eq!(super::tasks_bench::ids(&claim_hooks(&bench.store, &lease, 9).await), [hooks[1], hooks[0]]);
}

/// What is written down is what claims sort by, so ten minutes need not pass.
pub async fn ten_minutes_of_waiting_count_as_one_priority(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let with = |priority| NewTask { priority, ..new_task() };
    let ids = give(bench, &fence, "igor", &[with(2), with(0)]).await;
    let ranks = bench.numbers("SELECT rank FROM tasks ORDER BY id").await;
    assert_eq!(ranks[1] - ranks[0], 2 * 600_000, "both became pending at once");
    let since = task(bench, ids[1]).await.state_since.as_millisecond();
    assert!((ranks[1] - since).abs() <= 1, "{} at {since}", ranks[1]);
    bench.by_hand("UPDATE tasks SET rank = rank - 1199999 WHERE priority = 0").await;
    let lease = lease(&bench.store, "worker").await;
    assert_eq!(claim_one(bench, &lease).await.1.task.id, ids[0], "a millisecond less than twenty minutes");
    let third = give(bench, &fence, "igor", &[with(2)]).await[0];
    bench.by_hand("UPDATE tasks SET rank = rank - 600000 WHERE priority = 0").await;
    let next: Vec<_> = given_ids(&claim_slots(bench, &slot_claim(&lease, 2)).await);
    assert_eq!(next, [ids[1], third]);
}

pub async fn no_task_is_claimed_twice(bench: &Bench) {
    const TASKS: usize = 200;
    let fence = shop(bench, 50).await;
    give_many(bench, &fence, "hook", TASKS / 2).await;
    let mut all = bench.store.declared("Expert").await.expect("read");
    all.retain(|row| row.name == "hook");
    all[0].spec["maxConcurrentTasks"] = 1_000.into();
    bench.store.project_declared(&fence, &all[0]).await.expect("project");
    give_many(bench, &fence, "hook", TASKS / 2).await;
    let stores = openers(bench).await;
    let claimers: Vec<_> = (0..50)
        .map(|number: usize| {
            let store = stores[number % stores.len()].clone();
            tokio::spawn(async move {
                let lease = patiently(|| store.open_lease("worker", default_queue(), MINUTE)).await;
                let mut got = Vec::new();
                loop {
                    let claim = FreeClaim { queues: served(&lease), most: 1 + i32::try_from(number % 4).expect("few") };
                    let claimed = patiently(|| store.claim_free(&claim)).await;
                    if claimed.is_empty() {
                        return got;
                    }
                    assert!(claimed.len() <= usize::try_from(claim.most).expect("few"));
                    assert!(claimed.iter().all(|one| one.task.epoch == 1 && one.lease == lease));
                    got.extend(ids(&claimed));
                }
            })
        })
        .collect();
    let mut got = Vec::new();
    for claimer in claimers {
        got.extend(claimer.await.expect("no panic"));
    }
    assert_eq!(got.len(), TASKS);
    assert_eq!(got.iter().collect::<HashSet<_>>().len(), TASKS);
}

fn default_queue() -> &'static QueueKey {
    static KEY: std::sync::OnceLock<QueueKey> = std::sync::OnceLock::new();
    KEY.get_or_init(queue_key)
}

async fn openers(bench: &Bench) -> Vec<Arc<dyn Store>> {
    let mut stores = vec![bench.store.clone()];
    for _ in 0..4 {
        stores.push(bench.peer().await);
    }
    stores
}

pub async fn an_experts_places_are_exact_under_fifty_claimers(bench: &Bench) {
    const PLACES: i64 = 3;
    const TASKS: i64 = 100;
    let fence = shop(bench, 50).await;
    bench.store.project_declared(&fence, &webhook("hook", 3)).await.expect("project");
    give_many(bench, &fence, "hook", 100).await;
    let (running, most, finished) =
        (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let stores = openers(bench).await;
    let claimers: Vec<_> = (0..50)
        .map(|number: usize| {
            let store = stores[number % stores.len()].clone();
            let (running, most, finished) = (running.clone(), most.clone(), finished.clone());
            tokio::spawn(async move {
                let lease = patiently(|| store.open_lease("worker", default_queue(), MINUTE)).await;
                let claim = FreeClaim { queues: served(&lease), most: 2 };
                let deadline = std::time::Instant::now() + 2 * MINUTE;
                while finished.load(Ordering::SeqCst) < TASKS {
                    assert!(std::time::Instant::now() < deadline, "{finished:?} finished");
                    let claimed = patiently(|| store.claim_free(&claim)).await;
                    let count = i64::try_from(claimed.len()).expect("few");
                    most.fetch_max(running.fetch_add(count, Ordering::SeqCst) + count, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    running.fetch_sub(count, Ordering::SeqCst);
                    let ends: Vec<_> = claimed.iter().map(|one| end(one, done())).collect();
                    if !ends.is_empty() {
                        assert!(patiently(|| store.complete(&ends)).await.into_iter().all(|changed| changed));
                        finished.fetch_add(count, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    for claimer in claimers {
        claimer.await.expect("no panic");
    }
    assert!(most.load(Ordering::SeqCst) <= PLACES, "{most:?} at once");
    give_many(bench, &fence, "hook", 9).await;
    let lease = lease(&bench.store, "worker").await;
    assert_eq!(claim_hooks(&bench.store, &lease, 9).await.len(), 3, "all places are free again, and no more");
}

pub async fn every_way_out_frees_the_experts_place(bench: &Bench) {
    let fence = shop(bench, 50).await;
    bench.store.project_declared(&fence, &webhook("hook", 1)).await.expect("project");
    let ids = give_many(bench, &fence, "hook", 9).await;
    let verdicts = [
        done(),
        Verdict::Retry { after: MINUTE, reason: "r".to_owned() },
        Verdict::Requeue { after: MINUTE, reason: "r".to_owned() },
        Verdict::Failed { reason: "r".to_owned() },
        Verdict::DeferredToHuman { reason: "r".to_owned() },
        Verdict::Cancelled { reason: "r".to_owned() },
    ];
    let worker = lease(&bench.store, "worker").await;
    for verdict in verdicts {
        let claimed = claim_hooks(&bench.store, &worker, 9).await;
        assert_eq!(claimed.len(), 1, "before {verdict:?}");
        assert!(claim_hooks(&bench.store, &worker, 9).await.is_empty());
        complete(bench, &claimed[0], verdict).await;
    }
    let running = claim_hooks(&bench.store, &worker, 9).await;
    let running = filter(&super::tasks_bench::ids(&running));
    let cancelled = bench.store.command_tasks(&running, &TaskCommand::Cancel, "", 9).await;
    assert_eq!(cancelled.expect("cancel").len(), 1);
    assert_eq!(claim_hooks(&bench.store, &worker, 9).await.len(), 1, "after a cancel");
    bench.store.close_lease(&worker).await.expect("close");
    let short = lease_for(&bench.store, "short", MINUTE).await;
    assert_eq!(claim_hooks(&bench.store, &short, 9).await.len(), 1, "after a closed lease");
    assert_eq!(bench.store.renew_leases(&[(short, Duration::ZERO)]).await, Ok(vec![]));
    bench.store.reap(&fence).await.expect("reap");
    let last = lease(&bench.store, "last").await;
    assert_eq!(claim_hooks(&bench.store, &last, 9).await.len(), 1, "after a lost lease");
    assert!(claim_hooks(&bench.store, &last, 9).await.is_empty());
    assert_eq!(ids.len(), 9);
}

pub async fn a_full_expert_holds_nobody_up(bench: &Bench) {
    let fence = shop(bench, 50).await;
    bench.store.project_declared(&fence, &expert("igor", "small", 2)).await.expect("project");
    bench.store.project_declared(&fence, &expert("anna", "small", 9)).await.expect("project");
    let igors = give_many(bench, &fence, "igor", 60).await;
    let annas = give_many(bench, &fence, "anna", 2).await;
    let lease = lease(&bench.store, "worker").await;
    let answer = claim_slots(bench, &slot_claim(&lease, 10)).await;
    assert_eq!(given_ids(&answer), [igors[0], igors[1], annas[0], annas[1]]);
    assert_eq!(bench.occupied().await, 4);
}

pub async fn slot_and_task_are_taken_together_or_neither(bench: &Bench) {
    let fence = shop(bench, 2).await;
    let lease = lease(&bench.store, "worker").await;
    let none = claim_slots(bench, &slot_claim(&lease, 2)).await;
    assert!(none.given.is_empty() && !none.closed);
    assert_eq!(bench.occupied().await, 0, "no task, no slot");

    let ids = give_many(bench, &fence, "igor", 5).await;
    let answer = claim_slots(bench, &slot_claim(&lease, 4)).await;
    assert_eq!(given_ids(&answer), ids[..2]);
    assert!(answer.full && !answer.closed, "{answer:?}");
    let more = claim_slots(bench, &slot_claim(&lease, 1)).await;
    assert!(more.given.is_empty() && more.full);
    assert_eq!(state(bench, ids[2]).await, TaskState::Pending, "no slot, no task");

    bench.store.release_slot(&answer.given[0].0, Duration::ZERO).await.expect("release");
    let one = ServerRow { admission: Admission::One, ..server(2) };
    bench.store.put_server(&fence, &one).await.expect("put");
    assert!(claim_slots(bench, &slot_claim(&lease, 1)).await.full, "one is let in, and one is there");
    bench.store.put_server(&fence, &ServerRow { admission: Admission::Closed, ..server(2) }).await.expect("put");
    let closed = claim_slots(bench, &slot_claim(&lease, 1)).await;
    assert!(closed.given.is_empty() && closed.closed, "{closed:?}");
    let nowhere = SlotClaim { server_url: "http://nowhere".to_owned(), ..slot_claim(&lease, 1) };
    assert!(claim_slots(bench, &nowhere).await.closed);
    assert_eq!(state(bench, ids[2]).await, TaskState::Pending);
}

pub async fn a_server_is_asked_for_the_models_that_the_claim_names(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let small = give_many(bench, &fence, "igor", 2).await;
    let large = give_many(bench, &fence, "olga", 2).await;
    let lease = lease(&bench.store, "worker").await;
    let model = |namespace: &str, alias: &str| SlotClaim {
        models: vec![(namespace.to_owned(), alias.to_owned())],
        ..slot_claim(&lease, 9)
    };
    assert!(claim_slots(bench, &model("other", "large")).await.given.is_empty());
    assert!(claim_slots(bench, &model(NS, "huge")).await.given.is_empty());
    assert!(claim_slots(bench, &SlotClaim { models: vec![], ..slot_claim(&lease, 9) }).await.given.is_empty());
    assert_eq!(given_ids(&claim_slots(bench, &model(NS, "large")).await), large);
    assert_eq!(given_ids(&claim_slots(bench, &model(NS, "small")).await), small);
}

pub async fn a_slot_prefers_the_loaded_model_within_bounds(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let small = give_many(bench, &fence, "igor", 3).await;
    let large = give_many(bench, &fence, "olga", 3).await;
    let urgent = give(bench, &fence, "igor", &[NewTask { priority: 1, ..new_task() }]).await[0];
    let lease = lease(&bench.store, "worker").await;
    let loaded =
        |affinity| SlotClaim { loaded: Some((NS.to_owned(), "large".to_owned())), affinity, ..slot_claim(&lease, 1) };
    let next = async |claim: SlotClaim| given_ids(&claim_slots(bench, &claim).await)[0];
    assert_eq!(next(loaded(MINUTE)).await, urgent, "a higher priority goes first all the same");
    assert_eq!(next(loaded(MINUTE)).await, large[0], "though it came later");
    assert_eq!(next(loaded(Duration::ZERO)).await, small[0], "but not when the other waited longer than the bound");
    assert_eq!(next(slot_claim(&lease, 1)).await, small[1], "nor when nothing is loaded");
    let two = claim_slots(bench, &SlotClaim { most: 2, ..loaded(MINUTE) }).await;
    assert_eq!(given_ids(&two), large[1..]);
    assert_eq!(next(loaded(MINUTE)).await, small[2], "the others' turn comes when the loaded model's are done");
}

async fn nothing_until(bench: &Bench, lease: &Lease, what: &str) {
    assert!(claim_slots(bench, &slot_claim(lease, 9)).await.given.is_empty(), "{what}");
    assert!(claim_hooks(&bench.store, lease, 9).await.is_empty(), "{what}");
}

pub async fn a_queue_that_is_suspended_held_or_gone_gives_nothing(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "igor", 1).await;
    let hooks = give_many(bench, &fence, "hook", 1).await;
    let lease = lease(&bench.store, "worker").await;
    let held = Some("waits for LLMBackend ollama to be Ready for 60 s".to_owned());
    for (row, what) in [
        (DeclaredRow { suspended: true, ..queue("default") }, "suspended"),
        (DeclaredRow { held, ..queue("default") }, "held"),
    ] {
        bench.store.project_declared(&fence, &row).await.expect("project");
        nothing_until(bench, &lease, what).await;
    }
    bench.store.project_declared(&fence, &queue("default")).await.expect("project");
    assert_eq!(bench.store.sweep_declared(&fence, "TaskQueue", &[]).await.expect("sweep").len(), 1);
    nothing_until(bench, &lease, "gone").await;
    assert_eq!(state(bench, ids[0]).await, TaskState::Pending, "its tasks stay");
    bench.store.project_declared(&fence, &queue("default")).await.expect("project");
    assert_eq!(given_ids(&claim_slots(bench, &slot_claim(&lease, 9)).await), ids);
    assert_eq!(super::tasks_bench::ids(&claim_hooks(&bench.store, &lease, 9).await), hooks);
}

pub async fn a_claim_needs_a_lease_that_holds(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let ids = give_many(bench, &fence, "igor", 2).await;
    give_many(bench, &fence, "hook", 2).await;
    let worker = lease(&bench.store, "worker").await;
    let never = Lease { id: worker.id + 1_000, holder: "worker".to_owned() };
    nothing_until(bench, &never, "no such lease").await;
    nothing_until(bench, &Lease { holder: "other".to_owned(), ..worker.clone() }, "another's lease").await;
    assert_eq!(bench.store.renew_leases(&[(worker.clone(), Duration::ZERO)]).await, Ok(vec![]));
    nothing_until(bench, &worker, "lapsed").await;
    assert_eq!(bench.store.renew_leases(&[(worker.clone(), MINUTE)]).await, Ok(vec![]), "nobody took it");
    assert_eq!(claim_one(bench, &worker).await.1.task.id, ids[0]);
    bench.store.close_lease(&worker).await.expect("close");
    nothing_until(bench, &worker, "closed").await;
}

pub async fn several_queues_are_one_line(bench: &Bench) {
    let fence = shop(bench, 50).await;
    bench.store.project_declared(&fence, &queue("nightly")).await.expect("project");
    let to = |queue: &str, priority| NewTask { queue: queue.to_owned(), priority, ..new_task() };
    let given = [to("nightly", 0), to("default", 0), to("nightly", 5), to("default", 1)];
    let ids = give(bench, &fence, "igor", &given).await;
    let nightly = QueueKey { name: "nightly".to_owned(), ..queue_key() };
    let mut queues = served(&lease(&bench.store, "worker").await);
    let second = bench.store.open_lease("worker", &nightly, MINUTE).await.expect("open");
    queues.push(Served { queue: nightly, lease: second.clone() });
    let claim = SlotClaim { queues, ..slot_claim(&second, 9) };
    let answer = claim_slots(bench, &claim).await;
    assert_eq!(given_ids(&answer), [ids[2], ids[3], ids[0], ids[1]]);
    for (_, one) in &answer.given {
        assert_eq!(one.lease == second, one.task.queue == "nightly", "each under its queue's lease");
    }
}

pub async fn a_held_slot_takes_its_next_task(bench: &Bench) {
    let fence = shop(bench, 2).await;
    let ids = give_many(bench, &fence, "igor", 4).await;
    let lease = lease(&bench.store, "worker").await;
    let claim = slot_claim(&lease, 1);
    let (slot, first) = claim_one(bench, &lease).await;
    let before = bench.store.slots(URL).await.expect("slots").remove(0);
    let next = bench.store.claim_next(&slot, &claim, CallLife::default()).await.expect("ours").expect("waits");
    assert_eq!((first.task.id, next.task.id), (ids[0], ids[1]));
    let after = bench.store.slots(URL).await.expect("slots");
    assert_eq!(after.len(), 1, "the same slot");
    assert_eq!((after[0].number, after[0].epoch), (slot.number, slot.epoch));
    assert!(after[0].call_ends_at > before.call_ends_at && after[0].lease_expires_at > before.lease_expires_at);
    bench.store.renew_slot(&slot, MINUTE, CallLife::default()).await.expect("still its holder's");

    // A next call is a new call: it does not start above the limit in force then.
    bench.take(&call("gateway")).await;
    bench.store.put_server(&fence, &server(1)).await.expect("put");
    assert_eq!(bench.store.claim_next(&slot, &claim, CallLife::default()).await, Ok(None), "lowered meanwhile");
    bench.store.put_server(&fence, &ServerRow { admission: Admission::Closed, ..server(2) }).await.expect("put");
    assert_eq!(bench.store.claim_next(&slot, &claim, CallLife::default()).await, Ok(None), "closed meanwhile");
    bench.store.put_server(&fence, &server(2)).await.expect("put");
    assert_eq!(
        bench.store.claim_next(&slot, &claim, CallLife::default()).await.expect("ours").map(|one| one.task.id),
        Some(ids[2])
    );

    bench.store.abort_slots(&fence, URL).await.expect("abort");
    let aborted = bench.store.claim_next(&slot, &claim, CallLife::default()).await;
    assert!(matches!(aborted, Err(StoreError::Fenced(_))), "{aborted:?}");
    bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
    let released = bench.store.claim_next(&slot, &claim, CallLife::default()).await;
    assert!(matches!(released, Err(StoreError::Fenced(_))), "{released:?}");
    assert_eq!(state(bench, ids[3]).await, TaskState::Pending);
    let (slot, _) = claim_one(bench, &lease).await;
    assert_eq!(bench.store.claim_next(&slot, &claim, CallLife::default()).await, Ok(None), "nothing waits");
}

//! Tasks given in and seen.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ostler::store::{ExpertLoad, Follower, Inserted, TaskCommand, TaskFilter, TaskPage, Topics};
use ostler::tasks::{Message, NewTask, Payload, TaskState};
use serde_json::json;

use super::bench::Bench;
use super::tasks_bench::*;

fn in_an_hour() -> Timestamp {
    let hour = Timestamp::now() + SignedDuration::from_hours(1);
    Timestamp::from_microsecond(hour.as_microsecond()).expect("a time")
}

fn keyed(key: &str) -> NewTask {
    NewTask { key: Some(key.to_owned()), ..new_task() }
}

pub async fn a_task_is_read_back_as_it_was_given_in(bench: &Bench) {
    let given = NewTask {
        namespace: "team".to_owned(),
        queue: "nightly".to_owned(),
        domain: "ops".to_owned(),
        role: "sre".to_owned(),
        payload: Payload {
            messages: Some(vec![Message { role: "user".to_owned(), content: "ünï \"quoted\"".to_owned() }]),
            schema: Some(json!({"type": "object"})),
            max_tokens: Some(77),
            ..Payload::default()
        },
        model: Some("large".to_owned()),
        priority: -7,
        run_after: Some(in_an_hour()),
        deadline: Some(in_an_hour() + SignedDuration::from_secs(5)),
        key: Some("k".to_owned()),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        expert: Some("igor".to_owned()),
    };
    let before = Timestamp::now();
    let inserted = bench.store.insert_tasks(std::slice::from_ref(&given)).await.expect("insert");
    let task = task(bench, inserted[0].id).await;
    assert!(!inserted[0].existed);
    let NewTask { namespace, queue, domain, role, payload, model, priority, run_after, deadline, key, labels, expert } =
        given;
    assert_eq!((task.namespace, task.queue, task.domain, task.role), (namespace, queue, domain, role));
    assert_eq!((task.payload, task.model, task.priority), (payload, model, priority));
    assert_eq!((task.run_after, task.deadline, task.key, task.labels), (run_after, deadline, key, labels));
    assert_eq!((task.state, task.expert, task.assignment_reason), (TaskState::Pending, expert, None));
    assert_eq!((task.attempts_used, task.free_requeues, task.leases_lost), (0, 0, 0));
    assert_eq!((task.cycle, task.epoch, task.assigned_model, task.result), (1, 0, None, None));
    assert_eq!(task.created_at, task.state_since);
    // The database's clock is this machine's.
    assert!(task.created_at.duration_since(before).as_secs().abs() < 60, "{} at {before}", task.created_at);
}

pub async fn a_key_gives_the_task_that_exists(bench: &Bench) {
    let fence = shop(bench, 2).await;
    let batch = bench.store.insert_tasks(&[keyed("a"), keyed("b"), keyed("a")]).await.expect("insert");
    assert_eq!(batch.iter().map(|one| one.existed).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(batch[0].id, batch[2].id);
    let elsewhere =
        [NewTask { queue: "other".to_owned(), ..keyed("a") }, NewTask { namespace: "other".to_owned(), ..keyed("a") }];
    assert!(bench.store.insert_tasks(&elsewhere).await.expect("insert").iter().all(|one| !one.existed));
    let again = async || bench.store.insert_tasks(&[keyed("a")]).await.expect("insert")[0];
    assert_eq!(again().await, Inserted { id: batch[0].id, existed: true });

    let assign = assignment(batch[0].id, "igor", Some("small".to_owned()));
    bench.store.assign(&fence, &[assign]).await.expect("assign");
    let lease = lease(&bench.store, "worker").await;
    let (_, claimed) = claim_one(bench, &lease).await;
    assert!(again().await.existed, "while it runs");
    complete(bench, &claimed, done()).await;
    assert_eq!(again().await, Inserted { id: batch[0].id, existed: true }, "and when it has ended");
    let purged = bench.store.command_tasks(&filter(&[batch[0].id]), &TaskCommand::Purge, "", 1).await;
    assert_eq!(purged, Ok(vec![batch[0].id]));
    let new = again().await;
    assert!(!new.existed && new.id > batch[0].id, "{new:?}: until it is purged");
}

pub async fn keys_that_many_give_at_once_make_one_task_each(bench: &Bench) {
    let batch: Vec<_> = (0..100).map(|number| keyed(&format!("k{number}"))).collect();
    let mut givers = Vec::new();
    for number in 0..4 {
        let (store, mut batch) = (bench.peer().await, batch.clone());
        if number % 2 == 1 {
            batch.reverse();
        }
        givers.push(tokio::spawn(async move {
            let inserted = store.insert_tasks(&batch).await.expect("insert");
            let keys = batch.into_iter().map(|task| task.key.expect("given"));
            keys.zip(inserted).map(|(key, one)| (key, one.id, one.existed)).collect::<Vec<_>>()
        }));
    }
    let (mut new, mut pairs) = (0, BTreeSet::new());
    for giver in givers {
        for (key, id, existed) in giver.await.expect("no panic") {
            new += usize::from(!existed);
            pairs.insert((key, id));
        }
    }
    assert_eq!((new, pairs.len()), (100, 100));
    assert_eq!(bench.store.queue_counts().await.expect("count")[0].pending, 100);
}

pub async fn pages_go_from_the_newest_down(bench: &Bench) {
    let fence = shop(bench, 2).await;
    let ids = give_many(bench, &fence, "igor", 25).await;
    assert!(ids.is_sorted(), "{ids:?}");
    // Some have ended: they are in their place among the others.
    let lease = lease(&bench.store, "worker").await;
    for _ in 0..2 {
        for (slot, claimed) in claim_slots(bench, &slot_claim(&lease, 2)).await.given {
            complete(bench, &claimed, done()).await;
            bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
        }
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = TaskPage { before, limit: 10, brief: true };
        let tasks = bench.store.tasks(&TaskFilter::default(), &page).await.expect("read");
        assert!(tasks.len() <= 10);
        assert!(tasks.iter().all(|task| task.payload == Payload::default() && task.result.is_none()), "brief");
        let Some(last) = tasks.last() else { break };
        before = Some(last.id);
        seen.extend(tasks.iter().map(|task| task.id));
    }
    let wanted: Vec<_> = ids.iter().rev().copied().collect();
    assert_eq!(seen, wanted);
    let whole = bench.store.tasks(&filter(&ids[..1]), &all_on_a_page()).await.expect("read");
    assert_eq!(whole[0].result, Some(json!({"text": "hello"})));
    assert_eq!(whole[0].payload, new_task().payload);
    assert_eq!(bench.store.task(ids[24] + 1_000).await, Ok(None));
}

pub async fn a_filter_gives_what_matches_all_of_it(bench: &Bench) {
    let fence = shop(bench, 2).await;
    let label = |word: &str| [("team".to_owned(), word.to_owned()), ("x".to_owned(), "y".to_owned())].into();
    let given = [
        NewTask { namespace: "team".to_owned(), ..keyed("n") },
        NewTask { queue: "nightly".to_owned(), ..new_task() },
        NewTask { domain: "ops".to_owned(), ..new_task() },
        NewTask { role: "sre".to_owned(), labels: label("b"), ..new_task() },
        NewTask { labels: label("a"), ..keyed("k") },
        NewTask { expert: Some("olga".to_owned()), ..new_task() },
    ];
    let ids = give(bench, &fence, "igor", &given[..5]).await;
    let named = insert(bench, &given[5..]).await[0];
    let text = |word: &str| Some(word.to_owned());
    let lease = lease(&bench.store, "worker").await;
    bench.store.command_tasks(&filter(&ids[2..3]), &TaskCommand::Cancel, "no", 1).await.expect("cancel");
    let running = claim_one(bench, &lease).await.1.task.id;
    assert_eq!(running, ids[3], "the first of its queue that is left");
    let empty = TaskFilter::default;
    for (filter, wanted) in [
        (empty(), vec![named, ids[4], ids[3], ids[2], ids[1], ids[0]]),
        (TaskFilter { namespace: text("team"), ..empty() }, vec![ids[0]]),
        (TaskFilter { queue: text("nightly"), ..empty() }, vec![ids[1]]),
        (TaskFilter { domain: text("ops"), ..empty() }, vec![ids[2]]),
        (TaskFilter { role: text("sre"), ..empty() }, vec![ids[3]]),
        (TaskFilter { key: text("k"), ..empty() }, vec![ids[4]]),
        (TaskFilter { key: text("k"), namespace: text("team"), ..empty() }, vec![]),
        (TaskFilter { expert: text("olga"), ..empty() }, vec![named]),
        (TaskFilter { unassigned: Some(true), ..empty() }, vec![]),
        (TaskFilter { labels: [("team".to_owned(), "a".to_owned())].into(), ..empty() }, vec![ids[4]]),
        (TaskFilter { labels: [("x".to_owned(), "y".to_owned())].into(), ..empty() }, vec![ids[4], ids[3]]),
        (TaskFilter { states: vec![TaskState::Cancelled], ..empty() }, vec![ids[2]]),
        (TaskFilter { states: vec![TaskState::InProgress], ..empty() }, vec![ids[3]]),
        (TaskFilter { states: vec![TaskState::InProgress, TaskState::Cancelled], ..empty() }, vec![ids[3], ids[2]]),
        (TaskFilter { states: vec![TaskState::Failed], ..empty() }, vec![]),
        (TaskFilter { ids: vec![ids[2], ids[4], 999_999], ..empty() }, vec![ids[4], ids[2]]),
        (TaskFilter { since: Some(in_an_hour()), ..empty() }, vec![]),
        (
            TaskFilter { since: Some(task(bench, ids[2]).await.state_since), ids: ids[2..4].to_vec(), ..empty() },
            vec![ids[3], ids[2]],
        ),
    ] {
        let found = bench.store.tasks(&filter, &all_on_a_page()).await.expect("read");
        assert_eq!(found.iter().map(|task| task.id).collect::<Vec<_>>(), wanted, "{filter:?}");
    }
}

pub async fn a_task_without_a_deadline_gets_its_queues(bench: &Bench) {
    let fence = shop(bench, 2).await;
    bench
        .store
        .project_declared(&fence, &declared("TaskQueue", "quick", json!({"deadlineSeconds": 100})))
        .await
        .expect("project");
    let quick = NewTask { queue: "quick".to_owned(), ..new_task() };
    let own = NewTask { deadline: Some(in_an_hour()), ..quick.clone() };
    let later = NewTask { run_after: Some(in_an_hour()), ..quick.clone() };
    let ids = insert(bench, &[quick, own, later, new_task()]).await;
    let hundred = SignedDuration::from_secs(100);
    let quick = task(bench, ids[0]).await;
    assert_eq!(quick.deadline, Some(quick.created_at + hundred));
    assert!(task(bench, ids[1]).await.deadline.is_some_and(|deadline| deadline > quick.created_at + 10 * hundred));
    let later = task(bench, ids[2]).await;
    assert_eq!(later.deadline, later.run_after.map(|at| at + hundred), "from when it may run");
    assert_eq!(task(bench, ids[3]).await.deadline, None);
}

pub async fn tasks_are_counted_by_what_they_wait_for(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let later = NewTask { run_after: Some(in_an_hour()), ..new_task() };
    let free = insert(bench, &[new_task(), new_task(), later.clone()]).await;
    let ids = give_many(bench, &fence, "igor", 6).await;
    insert(bench, &[NewTask { queue: "other".to_owned(), ..later }]).await;
    let lease = lease(&bench.store, "worker").await;
    let running = claim_slots(bench, &slot_claim(&lease, 4)).await.given;
    assert_eq!(running.iter().map(|(_, one)| one.task.id).collect::<Vec<_>>(), ids[..4]);
    let failed = ostler::tasks::Verdict::Failed { reason: "no".to_owned() };
    let deferred = ostler::tasks::Verdict::DeferredToHuman { reason: "help".to_owned() };
    for ((_, one), verdict) in running.iter().zip([done(), failed, deferred]) {
        complete(bench, one, verdict).await;
    }
    let counts = bench.store.queue_counts().await.expect("count");
    assert_eq!(counts.iter().map(|row| row.queue.as_str()).collect::<Vec<_>>(), ["default", "other"]);
    let row = &counts[0];
    assert_eq!((row.pending, row.unassigned, row.in_progress, row.deferred_to_human), (5, 3, 1, 1));
    assert_eq!((row.completed, row.failed), (1, 1));
    assert_eq!(row.oldest_pending, Some(task(bench, free[0]).await.state_since));
    assert_eq!((counts[1].pending, counts[1].oldest_pending), (1, None), "none is due");

    let mut waiting = bench.store.waiting().await.expect("read");
    waiting.sort_by_key(|group| (group.queue.clone(), group.expert.clone(), !group.due));
    let shown: Vec<_> = waiting
        .iter()
        .map(|group| (group.queue.as_str(), group.expert.as_deref(), group.model.as_deref(), group.due, group.count))
        .collect();
    let wanted = [
        ("default", None, None, true, 2),
        ("default", None, None, false, 1),
        ("default", Some("igor"), Some("small"), true, 2),
        ("other", None, None, false, 1),
    ];
    assert_eq!(shown, wanted);
    assert_eq!((waiting[0].domain.as_str(), waiting[0].role.as_str()), ("backend", "engineer"));
    let load = ExpertLoad { namespace: NS.to_owned(), expert: "igor".to_owned(), pending: 2, in_progress: 1 };
    assert_eq!(bench.store.expert_loads().await, Ok(vec![load]));

    let other = ostler::tasks::QueueKey { name: "other".to_owned(), ..queue_key() };
    assert_eq!(bench.store.slots_wanted(std::slice::from_ref(&other)).await, Ok(false), "its task is not due");
    assert_eq!(bench.store.slots_wanted(&[other, queue_key()]).await, Ok(true));
    assert_eq!(claim_slots(bench, &slot_claim(&lease, 9)).await.given.len(), 2);
    assert_eq!(bench.store.slots_wanted(&[queue_key()]).await, Ok(false), "what has nobody takes no slot");
}

pub async fn whoever_waits_is_told_of_changes_by_others(bench: &Bench) {
    let fence = shop(bench, 2).await;
    let peer = bench.peer().await;
    let (quiet, long) = (Duration::from_secs(1), Duration::from_secs(20));
    let follow = |topics| [peer.follow(topics), bench.store.follow(topics)];
    let (mut new, mut ready, mut wishes) = (follow(Topics::NEW), follow(Topics::READY), follow(Topics::WISHES));
    let told = async |followers: &mut [Follower; 2], most| {
        let [other, own] = followers;
        tokio::join!(other.changed(most), own.changed(most))
    };
    // What was before may be told once more.
    while told(&mut ready, quiet).await != (false, false) {}
    told(&mut new, quiet).await;
    told(&mut wishes, quiet).await;
    let ids = insert(bench, &[new_task()]).await;
    assert_eq!(told(&mut new, long).await, (true, true), "in another process and in the same");
    assert_eq!(told(&mut ready, quiet).await, (false, false), "nobody has it yet");
    let assignments = [assignment(ids[0], "igor", Some("small".to_owned()))];
    assert_eq!(bench.store.assign(&fence, &assignments).await, Ok(1));
    assert_eq!(told(&mut ready, long).await, (true, true));
    peer.request_reconcile(&ostler::store::rounds::round_key(None), "token").await.expect("ask");
    assert_eq!(told(&mut wishes, long).await, (true, true));
    assert_eq!(told(&mut new, quiet).await, (false, false), "no other kind of change");
}

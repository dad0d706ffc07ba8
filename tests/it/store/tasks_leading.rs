//! What only the leader does to tasks, and what workers say of themselves.

use std::time::Duration;

use ostler::store::{
    CallStats, DeclaredRow, Fence, Fired, Replaced, Retention, StoreError, TaskCommand, TaskFilter, WorkerReport,
};
use ostler::tasks::{NewTask, QueueKey, TaskId, TaskState, Verdict};
use serde_json::json;

use super::bench::{Bench, URL, at};
use super::tasks_bench::*;

async fn all_writes(bench: &Bench, fence: &Fence, pending: TaskId) -> Vec<(&'static str, Option<StoreError>)> {
    let store = &bench.store;
    let retention = [Retention { queue: Some(queue_key()), completed: Duration::ZERO, failed: Duration::ZERO }];
    let model = Some("small".to_owned());
    vec![
        ("project_declared", store.project_declared(fence, &expert("new", "small", 1)).await.err()),
        ("sweep_declared", store.sweep_declared(fence, "TaskQueue", &[]).await.err()),
        ("assign", store.assign(fence, &[assignment(pending, "igor", model)]).await.err()),
        ("reap", store.reap(fence).await.err()),
        ("retain", store.retain(fence, &retention).await.err()),
        ("fire", store.fire(fence, "s", at(7), &[new_task()], None).await.err()),
    ]
}

pub async fn an_old_leader_changes_no_task(bench: &Bench) {
    let old = shop(bench, 50).await;
    let claimed = give_many(bench, &old, "hook", 2).await;
    let pending = insert(bench, &[new_task()]).await[0];
    let worker = lease(&bench.store, "worker").await;
    let running = claim_hooks(&bench.store, &worker, 2).await;
    complete(bench, &running[0], done()).await;
    assert_eq!(bench.store.renew_leases(&[(worker, Duration::ZERO)]).await, Ok(vec![]));
    bench.store.resign(&old).await.expect("resign");
    let new = bench.lead("successor").await;
    for fence in [&old, &Fence { epoch: old.epoch, ..new.clone() }, &Fence { epoch: new.epoch + 1, ..new.clone() }] {
        for (name, error) in all_writes(bench, fence, pending).await {
            assert!(matches!(error, Some(StoreError::Fenced(_))), "{name}: {error:?}");
        }
    }
    assert_eq!(bench.store.declared("Expert").await.expect("read").len(), 3);
    assert_eq!(bench.store.declared("TaskQueue").await.expect("read").len(), 1);
    assert_eq!(task(bench, pending).await.expert, None);
    assert_eq!(state(bench, claimed[1]).await, TaskState::InProgress);
    assert_eq!(state(bench, claimed[0]).await, TaskState::Completed);
    assert_eq!(bench.store.last_runs().await, Ok(vec![]));
    for (name, error) in all_writes(bench, &new, pending).await {
        assert_eq!(error, None, "{name}");
    }
    assert_eq!(bench.store.task(claimed[0]).await, Ok(None));
    assert_eq!(state(bench, claimed[1]).await, TaskState::Pending);
}

pub async fn what_is_declared_is_read_back_until_it_is_gone(bench: &Bench) {
    let fence = bench.lead("leader").await;
    let held = Some("waits for LLMBackend ollama".to_owned());
    let nightly =
        DeclaredRow { held, generation: 7, ..declared("TaskQueue", "nightly", json!({"a": [1, null, "ü"]})) };
    let elsewhere = DeclaredRow { namespace: "a-team".to_owned(), uid: "u7".to_owned(), ..queue("nightly") };
    for row in [&nightly, &elsewhere, &expert("igor", "small", 1)] {
        bench.store.project_declared(&fence, row).await.expect("project");
    }
    assert_eq!(bench.store.declared("TaskQueue").await, Ok(vec![elsewhere.clone(), nightly.clone()]));
    assert_eq!(bench.store.declared("WorkerPool").await, Ok(vec![]));
    let changed = DeclaredRow { suspended: true, held: None, generation: 8, ..nightly.clone() };
    bench.store.project_declared(&fence, &changed).await.expect("project");
    assert_eq!(bench.store.declared("TaskQueue").await, Ok(vec![elsewhere.clone(), changed.clone()]));
    let complete = [elsewhere.uid.clone()];
    assert_eq!(bench.store.sweep_declared(&fence, "TaskQueue", &complete).await, Ok(vec![changed.clone()]));
    assert_eq!(bench.store.sweep_declared(&fence, "TaskQueue", &complete).await, Ok(vec![]), "once");
    assert_eq!(bench.store.declared("TaskQueue").await, Ok(vec![elsewhere.clone()]));
    assert_eq!(bench.store.declared("Expert").await.expect("read").len(), 1, "of its kind alone");
    // Back under its uid, or under another one.
    bench.store.project_declared(&fence, &changed).await.expect("project");
    let anew = DeclaredRow { uid: "another".to_owned(), ..changed };
    bench.store.project_declared(&fence, &anew).await.expect("project: deleted and made again between two listings");
    assert_eq!(bench.store.declared("TaskQueue").await, Ok(vec![elsewhere, anew]));
}

pub async fn a_changed_expert_moves_its_waiting_tasks(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let own = NewTask { model: Some("huge".to_owned()), ..new_task() };
    let named = NewTask { expert: Some("igor".to_owned()), ..new_task() };
    let ids = give(bench, &fence, "igor", &[new_task(), own]).await;
    let olgas = give_many(bench, &fence, "olga", 1).await[0];
    let named = insert(bench, &[named]).await[0];
    bench.store.project_declared(&fence, &expert("igor", "medium", 50)).await.expect("project");
    let model = async |id| task(bench, id).await.assigned_model;
    assert_eq!(model(ids[0]).await.as_deref(), Some("medium"));
    assert_eq!(model(ids[1]).await.as_deref(), Some("huge"), "the task asks for one itself");
    assert_eq!(model(olgas).await.as_deref(), Some("large"));
    assert_eq!(model(named).await, None, "not assigned yet");

    let suspended = DeclaredRow { suspended: true, ..expert("igor", "medium", 50) };
    bench.store.project_declared(&fence, &suspended).await.expect("project");
    for id in &ids {
        let task = task(bench, *id).await;
        assert_eq!((task.expert, task.assignment_reason, task.assigned_model), (None, None, None));
        assert!(task.candidates.is_empty());
    }
    assert_eq!(task(bench, olgas).await.expert.as_deref(), Some("olga"));
    let uids = ["Expert-igor".to_owned(), "Expert-hook".to_owned()];
    assert_eq!(bench.store.sweep_declared(&fence, "Expert", &uids).await.expect("sweep").len(), 1);
    assert_eq!(task(bench, olgas).await.expert, None, "gone");
    let unassigned = bench.store.unassigned(0, 99).await.expect("read");
    assert_eq!(unassigned.iter().map(|one| one.id).collect::<Vec<_>>(), [ids[0], ids[1], olgas, named]);
}

pub async fn only_what_is_unassigned_is_assigned(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let named = NewTask { expert: Some("olga".to_owned()), model: Some("huge".to_owned()), ..new_task() };
    let ids = insert(bench, &[new_task(), new_task(), named, new_task()]).await;
    let first = bench.store.unassigned(0, 2).await.expect("read");
    assert_eq!(first.iter().map(|one| one.id).collect::<Vec<_>>(), ids[..2]);
    let rest = bench.store.unassigned(ids[1], 9).await.expect("read");
    assert_eq!(rest.iter().map(|one| one.id).collect::<Vec<_>>(), ids[2..]);
    assert_eq!((rest[0].expert.as_deref(), rest[0].model.as_deref()), (Some("olga"), Some("huge")));
    assert_eq!(
        (rest[0].queue.clone(), rest[0].domain.as_str(), rest[0].role.as_str()),
        (queue_key(), "backend", "engineer")
    );

    let small = || Some("small".to_owned());
    bench.store.command_tasks(&filter(&ids[3..]), &TaskCommand::Cancel, "", 1).await.expect("cancel");
    let batch = [
        assignment(ids[0], "igor", small()),
        assignment(ids[2], "olga", Some("huge".to_owned())),
        assignment(ids[3], "igor", small()),
        assignment(ids[3] + 1_000, "igor", small()),
    ];
    assert_eq!(bench.store.assign(&fence, &batch).await, Ok(2), "one has ended, one is not there");
    assert_eq!(bench.store.assign(&fence, &batch).await, Ok(0), "they are assigned");
    assert_eq!(bench.store.assign(&fence, &[assignment(ids[0], "anna", small())]).await, Ok(0));
    let task = task(bench, ids[0]).await;
    assert_eq!((task.expert.as_deref(), task.assigned_model.as_deref()), (Some("igor"), Some("small")));
    assert_eq!(
        (task.assignment_reason.as_deref(), task.candidates),
        (Some("domain and role"), vec!["igor".to_owned()])
    );
    let left = bench.store.unassigned(0, 9).await.expect("read");
    assert_eq!(left.iter().map(|one| one.id).collect::<Vec<_>>(), [ids[1]]);
    // A webhook's has no model, and is assigned all the same.
    assert_eq!(bench.store.assign(&fence, &[assignment(ids[1], "hook", None)]).await, Ok(1));
    assert_eq!(bench.store.unassigned(0, 9).await, Ok(vec![]));
}

pub async fn ended_tasks_are_kept_as_long_as_their_queue_says(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let worker = lease(&bench.store, "worker").await;
    let keyed = NewTask { key: Some("k".to_owned()), ..new_task() };
    let ids = give(bench, &fence, "hook", &[keyed.clone(), new_task(), new_task(), new_task(), new_task()]).await;
    let claimed = claim_hooks(&bench.store, &worker, 4).await;
    let reason = || "r".to_owned();
    let verdicts = [
        done(),
        Verdict::Failed { reason: reason() },
        Verdict::Cancelled { reason: reason() },
        Verdict::DeferredToHuman { reason: reason() },
    ];
    for (one, verdict) in claimed.iter().zip(verdicts) {
        complete(bench, one, verdict).await;
    }
    let hour = Duration::from_secs(3_600);
    let kept = |name: &str, completed, failed| {
        let queue = QueueKey { name: name.to_owned(), ..queue_key() };
        [Retention { queue: Some(queue), completed, failed }]
    };
    let retain = async |retention: &[Retention]| bench.store.retain(&fence, retention).await.expect("retain");
    assert_eq!(retain(&kept("default", hour, hour)).await, 0);
    assert_eq!(retain(&kept("default", Duration::MAX, Duration::MAX)).await, 0, "for ever");
    assert_eq!(retain(&kept("other", Duration::ZERO, Duration::ZERO)).await, 0);
    assert_eq!(retain(&[]).await, 0, "a queue that is gone keeps its tasks");
    assert_eq!(retain(&kept("default", Duration::ZERO, hour)).await, 1);
    assert_eq!(bench.store.task(ids[0]).await, Ok(None));
    assert!(!bench.store.insert_tasks(&[keyed]).await.expect("insert")[0].existed, "its key went with it");
    assert_eq!(retain(&kept("default", hour, Duration::ZERO)).await, 2, "cancelled ones count as failed");
    assert_eq!(state(bench, ids[3]).await, TaskState::DeferredToHuman, "live ones stay, however old");
    assert_eq!(state(bench, ids[4]).await, TaskState::Pending);
}

pub async fn a_run_of_a_schedule_is_fired_once(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let fire = async |schedule: &str, second, tasks: &[NewTask]| {
        bench.store.fire(&fence, schedule, at(second), tasks, None).await.expect("fire") != Fired::Before
    };
    let keyed = NewTask { key: Some("k".to_owned()), ..new_task() };
    assert!(fire("a", 100, &[keyed.clone(), new_task()]).await);
    assert!(!fire("a", 100, &[new_task()]).await, "once");
    assert!(fire("b", 100, &[keyed]).await, "another schedule; its task is there already");
    assert!(fire("a", 200, &[]).await);
    assert!(!fire("a", 100, &[new_task()]).await, "not even after a later one");
    assert_eq!(bench.store.queue_counts().await.expect("count")[0].pending, 2);
    let mut last = bench.store.last_runs().await.expect("read");
    last.sort();
    assert_eq!(last, [("a".to_owned(), at(200), false), ("b".to_owned(), at(100), false)]);
    let peer = bench.peer().await;
    let five = vec![new_task(); 5];
    let (here, there) =
        tokio::join!(bench.store.fire(&fence, "c", at(300), &five, None), peer.fire(&fence, "c", at(300), &five, None));
    assert_ne!(here.expect("fire"), there.expect("fire"), "one of two");
    assert_eq!(bench.store.queue_counts().await.expect("count")[0].pending, 7);
}

pub async fn a_run_replaces_what_was_there_before_and_nothing_of_its_own(bench: &Bench) {
    let fence = shop(bench, 50).await;
    let labeled = |schedule: &str| NewTask {
        labels: [("ostler.dev/schedule".to_owned(), schedule.to_owned())].into(),
        ..new_task()
    };
    let replaces = Replaced {
        filter: TaskFilter {
            states: vec![TaskState::Pending, TaskState::InProgress, TaskState::DeferredToHuman],
            ..TaskFilter { labels: labeled("a").labels, ..TaskFilter::default() }
        },
        reason: "replaced".to_owned(),
    };
    let fire = async |second, tasks: usize, replaces: Option<&Replaced>| {
        bench.store.fire(&fence, "a", at(second), &vec![labeled("a"); tasks], replaces).await.expect("fire")
    };
    let pending = async || bench.store.queue_counts().await.expect("count").first().map_or(0, |queue| queue.pending);
    insert(bench, &[labeled("b")]).await;
    assert_eq!(fire(100, 3, Some(&replaces)).await, Fired::Now { replaced: true }, "there was nothing");
    assert_eq!(pending().await, 4);
    // More than one transaction cancels.
    assert_ne!(fire(200, 2_500, None).await, Fired::Before);
    assert_eq!(fire(300, 2, Some(&replaces)).await, Fired::Now { replaced: false });
    let begun = pending().await;
    assert!(begun < 2_506 && begun > 3, "{begun}: the first batch goes with the run");
    assert_eq!(
        fire(300, 2, Some(&replaces)).await,
        Fired::Before,
        "a lost answer fires nothing twice, and cancels nothing"
    );
    assert_eq!(pending().await, begun);
    let last = bench.store.last_runs().await.expect("read");
    assert_eq!(last, [("a".to_owned(), at(300), true)], "a successor goes on");
    while !bench.store.replace_more(&fence, "a", at(300), &replaces).await.expect("go on") {}
    assert_eq!(pending().await, 3, "its own two, and another schedule's");
    assert_eq!(bench.store.last_runs().await.expect("read"), [("a".to_owned(), at(300), false)]);
    assert_eq!(bench.store.replace_more(&fence, "a", at(300), &replaces).await, Ok(true), "it is done");
    let old = Fence { epoch: fence.epoch + 1, ..fence.clone() };
    let fired = bench.store.fire(&old, "a", at(400), &[labeled("a")], Some(&replaces)).await;
    assert!(matches!(fired, Err(StoreError::Fenced(_))), "{fired:?}");
    let more = bench.store.replace_more(&old, "a", at(300), &replaces).await;
    assert!(matches!(more, Err(StoreError::Fenced(_))), "{more:?}");
    assert_eq!(pending().await, 3, "who leads no more cancels nothing");
}

pub async fn workers_report_until_they_leave(bench: &Bench) {
    let report = |holder: &str, in_flight| WorkerReport {
        holder: holder.to_owned(),
        namespace: NS.to_owned(),
        pool: "smart".to_owned(),
        host: "mac".to_owned(),
        in_flight,
        effective_concurrency: 15,
        limited_by: "Backends".to_owned(),
        draining: false,
        calls: vec![CallStats {
            server_url: URL.to_owned(),
            model: "llama3.2:3b".to_owned(),
            calls: 3,
            errors: 1,
            tokens: 99,
            token_millis: 1_234,
        }],
        evidence: Vec::new(),
        open_calls: Vec::new(),
        reported_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let peer = bench.peer().await;
    // Whoever may lead sees its own and those of other processes.
    for (store, holder, in_flight) in [(&bench.store, "a", 1), (&peer, "b", 2), (&bench.store, "a", 3)] {
        store.report_worker(&report(holder, in_flight)).await.expect("report");
    }
    let mut rows = bench.store.workers().await.expect("read");
    rows.sort_by(|a, b| a.report.holder.cmp(&b.report.holder));
    assert_eq!(rows.iter().map(|row| row.report.clone()).collect::<Vec<_>>(), [report("a", 3), report("b", 2)]);
    assert!(rows.iter().all(|row| row.age < MINUTE), "{rows:?}");
    bench.store.worker_left("a").await.expect("leave");
    bench.store.worker_left("a").await.expect("twice does no harm");
    let rows = bench.store.workers().await.expect("read");
    assert_eq!(rows.into_iter().map(|row| row.report).collect::<Vec<_>>(), [report("b", 2)]);
}

//! Journal, controls, local objects.

use std::{slice, time::Duration};

use jiff::{SignedDuration, Timestamp};
use ostler::causes::{Acknowledgment, Cause, CauseClass, CauseSeverity, Delivery, WhoActs};
use ostler::store::{ControlSet, JournalEntry, JournalFilter, LocalObject, Pause, ResourceKey, Suspension};
use serde_json::json;

use super::bench::{Bench, LEASE, at, eventually};

fn key(kind: &str, name: &str) -> ResourceKey {
    ResourceKey { kind: kind.to_owned(), namespace: "default".to_owned(), name: name.to_owned() }
}

pub async fn the_journal_is_filtered_and_pruned(bench: &Bench) {
    let entry = |second, kind, name| JournalEntry {
        at: at(second),
        about: key(kind, name),
        warning: second % 2 == 0,
        reason: "Restarted".to_owned(),
        message: format!("attempt at {second}"),
    };
    for (second, kind, name) in
        [(3, "LLMBackend", "mlx"), (1, "LLMBackend", "ollama"), (2, "HostAgent", "mac"), (3, "LLMBackend", "ollama")]
    {
        bench.store.append(&entry(second, kind, name)).await.expect("append");
    }
    let read = async |filter: JournalFilter| bench.store.journal(&filter).await.expect("journal");
    let all = read(JournalFilter::default()).await;
    let newest_first = [
        entry(3, "LLMBackend", "ollama"),
        entry(3, "LLMBackend", "mlx"),
        entry(2, "HostAgent", "mac"),
        entry(1, "LLMBackend", "ollama"),
    ];
    assert_eq!(all, newest_first, "of one time, the last said comes first");
    let word = |text: &str| Some(text.to_owned());
    for (filter, wanted) in [
        (JournalFilter { kind: word("LLMBackend"), ..JournalFilter::default() }, 3),
        (JournalFilter { kind: word("LLMBackend"), name: word("ollama"), ..JournalFilter::default() }, 2),
        (JournalFilter { namespace: word("other"), ..JournalFilter::default() }, 0),
        (JournalFilter { since: Some(at(2)), ..JournalFilter::default() }, 3),
        (JournalFilter { limit: 2, ..JournalFilter::default() }, 2),
    ] {
        assert_eq!(read(filter.clone()).await.len(), wanted, "{filter:?}");
    }
    assert_eq!(bench.store.prune_journal(at(3)).await, Ok(2));
    assert_eq!(read(JournalFilter::default()).await, newest_first[..2]);
}

pub async fn controls_are_set_and_taken_back(bench: &Bench) {
    let read = async || bench.store.controls().await.expect("controls");
    assert_eq!(read().await, ControlSet::default());

    let pause = Pause { since: at(1), until: None, by: "jo".to_owned() };
    bench.store.set_pause(Some(&pause)).await.expect("pause");
    let suspension = Suspension { suspended: true, by: "jo".to_owned(), at: at(2) };
    bench.store.set_suspended(&key("LLMBackend", "mlx"), Some(&suspension)).await.expect("suspend");
    for token in ["t1", "t2"] {
        bench.store.request_reconcile(&key("LLMBackend", "mlx"), token).await.expect("request");
    }
    let set = read().await;
    assert_eq!(set.pause, Some(pause));
    assert_eq!(set.suspended, [(key("LLMBackend", "mlx"), suspension.clone())]);
    assert_eq!(set.reconcile_requested, [(key("LLMBackend", "mlx"), "t2".to_owned())]);

    let resumed = Suspension { suspended: false, ..suspension };
    bench.store.set_suspended(&key("LLMBackend", "mlx"), Some(&resumed)).await.expect("resume");
    assert_eq!(read().await.suspended[0].1, resumed);
    bench.store.set_suspended(&key("LLMBackend", "mlx"), None).await.expect("leave it to the manifest");
    assert_eq!(read().await.suspended, []);

    let soon = Timestamp::now() + SignedDuration::from_millis(500);
    bench.store.set_pause(Some(&Pause { since: at(1), until: Some(soon), by: "jo".to_owned() })).await.expect("pause");
    assert_eq!(
        read().await.pause.and_then(|pause| pause.until.map(Timestamp::as_millisecond)),
        Some(soon.as_millisecond())
    );
    eventually("a pause ends by itself", async || read().await.pause.is_none()).await;
    bench.store.set_pause(None).await.expect("unpause");
    tokio::time::timeout(Duration::from_secs(5), read()).await.expect("reads don't wait");
}

pub async fn local_objects_are_kept_until_deleted(bench: &Bench) {
    let object = LocalObject {
        key: key("LLMBackend", "mlx"),
        uid: "u1".to_owned(),
        generation: 1,
        resource_version: 5,
        created_at: at(1),
        manifest: json!({"spec": {"engine": "MLX"}}),
        status: None,
    };
    bench.store.put_local_object(&object).await.expect("put");
    let changed = LocalObject { generation: 2, status: Some(json!({"state": "Serving"})), ..object.clone() };
    bench.store.put_local_object(&changed).await.expect("put");
    let other = LocalObject { key: key("HostAgent", "mac"), ..object };
    bench.store.put_local_object(&other).await.expect("put");
    assert_eq!(bench.store.local_objects().await, Ok(vec![other.clone(), changed.clone()]));
    bench.store.request_reconcile(&changed.key, "t").await.expect("request");
    bench.store.delete_local_object(&changed.key).await.expect("delete");
    bench.store.delete_local_object(&changed.key).await.expect("twice does no harm");
    assert_eq!(bench.store.local_objects().await, Ok(vec![other]));
    assert_eq!(bench.store.controls().await, Ok(ControlSet::default()), "what was asked of it goes with it");
}

fn cause(name: &str, opened: i64) -> Cause {
    let root = key("LLMBackend", name);
    Cause {
        key: format!("LLMBackend/default/{name}/Down"),
        opened_at: at(opened),
        root: root.clone(),
        class: CauseClass::Down,
        severity: CauseSeverity::Critical,
        worst: CauseSeverity::Critical,
        acts: WhoActs::Person,
        title: format!("{root} is down"),
        evidence: "größer\\u0000".to_owned(),
        tried: vec!["Restart: did not help".to_owned()],
        next: "look".to_owned(),
        members: vec![key("TaskQueue", "default")],
        member_count: 1,
        most: 1,
        most_title: format!("{root} is down"),
        waiting: 405,
        since: at(opened),
        times: 1,
        well_since: None,
        resolved_at: None,
        ended: None,
        folded_into: None,
        updated_at: at(opened),
    }
}

pub async fn causes_are_kept_with_who_took_them_and_who_was_told(bench: &Bench) {
    let fence = bench.store.campaign("leader", LEASE).await.expect("campaign").expect("free");
    let (mlx, ollama) = (cause("mlx", 1), cause("ollama", 2));
    let delivery = Delivery {
        uid: "n".to_owned(),
        cause: mlx.key.clone(),
        opened_at: mlx.opened_at,
        due: Some(ostler::causes::Telling::Opened),
        due_at: at(3),
        not_before: at(3),
        told: None,
        told_at: None,
        attempts: 0,
        failing_since: None,
        error: None,
        refused: false,
    };
    bench.store.put_causes(&fence, &[mlx.clone(), ollama.clone()], slice::from_ref(&delivery)).await.expect("put");
    let read = async || {
        let known = bench.store.causes(at(50)).await.expect("causes");
        known.into_iter().map(|k| (k.cause, k.acknowledged.map(|a| a.by))).collect::<Vec<_>>()
    };
    assert_eq!(read().await, [(ollama.clone(), None), (mlx.clone(), None)], "the latest first");
    assert_eq!(bench.store.deliveries().await, Ok(vec![delivery.clone()]));

    let ack = Acknowledgment { by: "jo".to_owned(), until: at(99) };
    assert_eq!(bench.store.acknowledge_cause(&mlx.key, &ack).await, Ok(true));
    assert_eq!(bench.store.acknowledge_cause("nothing", &ack).await, Ok(false));
    let worse = Cause { waiting: 406, ..mlx.clone() };
    let told = delivery.sent(at(4));
    bench.store.put_causes(&fence, slice::from_ref(&worse), slice::from_ref(&told)).await.expect("put");
    assert_eq!(read().await, [(ollama.clone(), None), (worse.clone(), Some("jo".to_owned()))], "a write keeps it");
    assert_eq!(bench.store.deliveries().await, Ok(vec![told]));

    let over = Cause { resolved_at: Some(at(60)), ..worse.clone() };
    let old = Cause { resolved_at: Some(at(40)), ..ollama.clone() };
    bench.store.put_causes(&fence, &[over.clone(), old], &[]).await.expect("put");
    assert_eq!(read().await, [(over.clone(), None)], "its end ends that, and older ones are not read");
    assert_eq!(bench.store.acknowledge_cause(&mlx.key, &ack).await, Ok(false), "it is over");
    let again = Cause { resolved_at: None, times: 2, ..over };
    bench.store.put_causes(&fence, slice::from_ref(&again), &[]).await.expect("put");
    assert_eq!(read().await, [(again.clone(), None)]);

    bench.store.resign(&fence).await.expect("resign");
    let refused = bench.store.put_causes(&fence, slice::from_ref(&mlx), &[]).await;
    assert!(matches!(refused, Err(ostler::store::StoreError::Fenced(_))), "{refused:?}");
    let fence = bench.store.campaign("another", LEASE).await.expect("campaign").expect("free");
    let ended = Cause { resolved_at: Some(at(61)), ..again };
    bench.store.put_causes(&fence, &[ended], &[]).await.expect("put");
    assert_eq!(bench.store.prune_causes(&fence, at(70)).await, Ok(2));
    assert_eq!((read().await.len(), bench.store.deliveries().await.expect("deliveries").len()), (0, 0));
}

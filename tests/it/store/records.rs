//! Journal, controls, local objects.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ostler::store::{ControlSet, JournalEntry, JournalFilter, LocalObject, Pause, ResourceKey, Suspension};
use serde_json::json;

use super::bench::{Bench, at, eventually};

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

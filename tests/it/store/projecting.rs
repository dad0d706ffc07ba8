//! Projections, observations, recovery documents.

use jiff::Timestamp;
use ostler::store::{BackendRow, CallLife, Observation, SlotAnswer};
use serde_json::json;

use super::bench::{Bench, at, backend, call, server};

pub async fn a_projected_backend_is_read_back_as_it_was(bench: &Bench) {
    let fence = bench.lead("a").await;
    let mut row = backend("u1");
    bench.store.project_backend(&fence, &row).await.expect("insert");
    assert_eq!(bench.store.backends().await.expect("backends"), [row.clone()]);
    row.ready = false;
    row.ready_since = None;
    row.spec = json!({"engine": "MLX", "note": "NUL \u{0} and ünïcode"});
    bench.store.project_backend(&fence, &row).await.expect("update");
    let seen = bench.store.backends().await.expect("backends");
    assert_eq!((seen.len(), seen[0].ready, seen[0].ready_since), (1, false, None));
    assert!(seen[0].spec["note"].as_str().is_some_and(|note| note.ends_with("ünïcode")), "{:?}", seen[0].spec);
}

pub async fn what_does_not_differ_is_not_written(bench: &Bench) {
    let fence = bench.serving(2).await;
    let row = BackendRow {
        ready_since: Some(Timestamp::from_nanosecond(1_700_000_000_123_456_789).expect("a time")),
        ..backend("u1")
    };
    bench.store.project_backend(&fence, &row).await.expect("project");
    let before = bench.fingerprint().await;
    for _ in 0..3 {
        bench.store.project_backend(&fence, &row).await.expect("project");
        bench.store.put_server(&fence, &server(2)).await.expect("put the server");
        bench.store.sweep_backends(&fence, &["u1".to_owned()]).await.expect("sweep");
        assert_eq!(bench.peer().await.leader().await.expect("read").map(|leader| leader.epoch), Some(fence.epoch));
    }
    assert_eq!(bench.fingerprint().await, before, "a steady system makes no writes");
    bench.store.project_backend(&fence, &BackendRow { ready: false, ..row }).await.expect("project");
    assert_ne!(bench.fingerprint().await, before, "or else this test proves nothing");
}

pub async fn a_sweep_marks_what_is_missing_and_a_projection_brings_it_back(bench: &Bench) {
    let fence = bench.lead("a").await;
    for uid in ["u1", "u2", "u3"] {
        bench.store.project_backend(&fence, &backend(uid)).await.expect("project");
    }
    let sweep = async |complete: &[&str]| {
        let complete: Vec<String> = complete.iter().map(ToString::to_string).collect();
        let gone = bench.store.sweep_backends(&fence, &complete).await.expect("sweep");
        gone.into_iter().map(|row| row.uid).collect::<Vec<_>>()
    };
    let living = async || {
        let rows = bench.store.backends().await.expect("backends");
        rows.into_iter().map(|row| row.uid).collect::<Vec<_>>()
    };
    assert_eq!(sweep(&["u1", "u2", "u3", "unknown"]).await, [""; 0]);
    assert_eq!(sweep(&["u2"]).await, ["u1", "u3"]);
    assert_eq!(sweep(&["u2"]).await, [""; 0], "each is told of once");
    assert_eq!(living().await, ["u2"]);
    bench.store.project_backend(&fence, &backend("u1")).await.expect("project");
    assert_eq!(living().await, ["u1", "u2"], "a backend that was gone is back");
}

pub async fn a_gone_backends_server_gives_no_new_slots(bench: &Bench) {
    let fence = bench.serving(2).await;
    for uid in ["u1", "twin"] {
        bench.store.project_backend(&fence, &backend(uid)).await.expect("project");
    }
    let running = bench.take(&call("a")).await;
    bench.store.sweep_backends(&fence, &["twin".to_owned()]).await.expect("sweep");
    let other = bench.take(&call("b")).await;
    bench.store.release_slot(&other, std::time::Duration::ZERO).await.expect("release");
    bench.store.sweep_backends(&fence, &[]).await.expect("sweep");
    assert_eq!(bench.store.take_slot(&call("b")).await, Ok(SlotAnswer::Closed), "nobody declares it any more");
    bench.store.renew_slot(&running, super::bench::LEASE, CallLife::default()).await.expect("running calls finish");
    bench.store.put_server(&fence, &server(2)).await.expect("declared again");
    bench.take(&call("b")).await;
}

pub async fn recovery_documents_and_observations_are_kept_by_uid(bench: &Bench) {
    let fence = bench.lead("a").await;
    assert_eq!(bench.store.recovery("u1").await, Ok(None));
    let first = json!({"episode": "e1", "attempts": 1, "log": "bytes \u{0}\u{1} of an engine"});
    bench.store.save_recovery(&fence, "u1", &first).await.expect("save");
    let second = json!({"episode": "e1", "attempts": 2, "nested": {"a": [1, null, true, "x"]}});
    bench.store.save_recovery(&fence, "u1", &second).await.expect("save");
    bench.store.save_recovery(&fence, "u2", &first).await.expect("a NUL is no reason not to heal");
    assert_eq!(bench.peer().await.recovery("u1").await, Ok(Some(second)), "a successor reads it");

    let seen = Observation {
        probe_at: Some(at(1_700_000_000)),
        probe_verdict: Some("Refused".to_owned()),
        probe_millis: Some(3),
        ..Observation::default()
    };
    let before = ["u1", "u2"].map(|uid| (uid.to_owned(), Observation::default()));
    bench.store.record_observations(&fence, &before).await.expect("record");
    bench.store.record_observations(&fence, &[("u1".to_owned(), seen.clone())]).await.expect("record");
    assert_eq!(bench.store.observations().await, Ok(vec![("u1".to_owned(), seen), before[1].clone()]));
}

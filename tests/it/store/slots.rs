//! Slots: exact, leased, fenced.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ostler::store::{Admission, CallLife, ServerRow, SlotAnswer, SlotPurpose, SlotRequest, StoreError};

use super::bench::{Bench, LEASE, URL, call, eventually, request, server};

const NO_TIME: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);

pub async fn exactly_the_limit_is_given_to_fifty_takers(bench: &Bench) {
    const LIMIT: i32 = 3;
    bench.serving(LIMIT).await;
    let mut stores = vec![bench.store.clone()];
    for _ in 0..4 {
        stores.push(bench.peer().await);
    }
    let (running, most, served) =
        (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let takers: Vec<_> = (0..50)
        .map(|number| {
            let store = stores[number % stores.len()].clone();
            let (running, most, served) = (running.clone(), most.clone(), served.clone());
            tokio::spawn(async move {
                let request = call(&format!("taker-{number}"));
                let deadline = std::time::Instant::now() + MINUTE;
                loop {
                    assert!(std::time::Instant::now() < deadline, "taker {number} got no slot");
                    match store.take_slot(&request).await {
                        Ok(SlotAnswer::Given(slot)) => {
                            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                            running.fetch_sub(1, Ordering::SeqCst);
                            served.fetch_add(1, Ordering::SeqCst);
                            store.release_slot(&slot, NO_TIME).await.expect("release");
                            return;
                        }
                        Ok(SlotAnswer::Full { limit, .. }) => assert_eq!(limit, LIMIT),
                        Ok(other) => panic!("the server is open and has calls left: {other:?}"),
                        // So many takers on so small a machine may wait longer for the database than a store does.
                        Err(StoreError::Unavailable(_)) => {}
                        Err(error) => panic!("taker {number}: {error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    for taker in takers {
        taker.await.expect("no taker panics");
    }
    assert_eq!(served.load(Ordering::SeqCst), 50);
    assert!(most.load(Ordering::SeqCst) <= i64::from(LIMIT), "{} ran at once", most.load(Ordering::SeqCst));
    assert_eq!(occupied(bench).await, 0);
    for number in 1..=i64::from(LIMIT) {
        assert_eq!(bench.take(&call("after")).await.number, number, "none was lost");
    }
}

pub async fn a_lowered_limit_stops_new_calls_and_no_running_one(bench: &Bench) {
    let fence = bench.serving(3).await;
    let mut slots = Vec::new();
    for holder in ["a", "b", "c"] {
        slots.push(bench.take(&call(holder)).await);
    }
    bench.store.put_server(&fence, &server(1)).await.expect("lower the limit");
    for slot in &slots {
        bench.store.renew_slot(slot, LEASE, CallLife::default()).await.expect("running calls go on");
    }
    let refused = bench.store.take_slot(&call("d")).await;
    assert_eq!(refused, Ok(SlotAnswer::Full { occupied: 3, limit: 1 }));
    for (slot, still) in slots[1..].iter().zip([2, 1]) {
        bench.store.release_slot(slot, NO_TIME).await.expect("release");
        assert_eq!(bench.store.take_slot(&call("d")).await, Ok(SlotAnswer::Full { occupied: still, limit: 1 }));
    }
    bench.store.release_slot(&slots[0], NO_TIME).await.expect("release");
    assert_eq!(bench.take(&call("d")).await.number, 1);
}

pub async fn a_lapsed_lease_counts_until_its_call_must_have_ended(bench: &Bench) {
    bench.serving(1).await;
    bench.take(&request("dead", NO_TIME, Duration::from_secs(1))).await;
    let full = Ok(SlotAnswer::Full { occupied: 1, limit: 1 });
    assert_eq!(bench.store.take_slot(&call("b")).await, full, "its generation may still run");
    eventually(
        "the call has ended",
        async || matches!(bench.store.take_slot(&call("b")).await, Ok(SlotAnswer::Given(slot)) if slot.epoch == 2),
    )
    .await;
}

pub async fn a_slot_that_lapsed_before_another_instance_began_does_not_count(bench: &Bench) {
    let fence = bench.serving(2).await;
    let dead = bench.take(&request("dead", NO_TIME, MINUTE)).await;
    let alive = bench.take(&call("alive")).await;
    let put = async |instance: Option<&str>, running_for: Option<Duration>| {
        let row = ServerRow { instance: instance.map(Into::into), ..server(2) };
        bench.store.put_server_running(&fence, &row, running_for).await.expect("put the server");
    };
    put(None, Some(NO_TIME)).await;
    assert_eq!(bench.occupied().await, 2, "an unknown instance proves nothing");
    put(Some("8@2"), None).await;
    assert_eq!(bench.occupied().await, 2, "nobody knows when it began");
    put(Some("9@3"), Some(MINUTE)).await;
    assert_eq!(bench.occupied().await, 2, "it may have got the call");
    put(Some("10@4"), Some(NO_TIME)).await;
    assert_eq!(bench.occupied().await, 1, "it began after the call must have been sent");
    let late = bench.store.renew_slot(&dead, LEASE, CallLife::default()).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
    put(None, None).await;
    assert_eq!(bench.occupied().await, 1, "what was freed stays free");
    let rows = bench.store.slots(URL).await.expect("slots");
    assert_eq!(
        (rows[0].holder.as_str(), rows[0].number),
        ("alive", alive.number),
        "a valid lease counts, whatever runs"
    );
    assert_eq!(bench.take(&call("next")).await.number, 1);
}

pub async fn a_lapsed_slot_that_still_counts_is_renewed_under_its_epoch(bench: &Bench) {
    bench.serving(1).await;
    let paused = bench.take(&request("paused", NO_TIME, MINUTE)).await;
    bench.store.renew_slot(&paused, LEASE, CallLife::default()).await.expect("a pause is not a death");
    let ended = {
        bench.store.release_slot(&paused, NO_TIME).await.expect("release");
        bench.take(&request("paused", NO_TIME, NO_TIME)).await
    };
    let answer = bench.store.renew_slot(&ended, LEASE, CallLife::default()).await;
    assert!(matches!(answer, Err(StoreError::Fenced(_))), "its place may be somebody else's: {answer:?}");
}

pub async fn a_slot_that_was_given_to_somebody_else_is_neither_renewed_nor_released(bench: &Bench) {
    bench.serving(1).await;
    let old = bench.take(&request("old", NO_TIME, NO_TIME)).await;
    let new = bench.take(&call("new")).await;
    assert_eq!((new.number, new.epoch), (old.number, old.epoch + 1));
    let answer = bench.store.renew_slot(&old, LEASE, CallLife::default()).await;
    assert!(matches!(answer, Err(StoreError::Fenced(_))), "{answer:?}");
    bench.store.release_slot(&old, NO_TIME).await.expect("does no harm");
    assert_eq!(bench.occupied().await, 1);
    bench.store.renew_slot(&new, LEASE, CallLife::default()).await.expect("the new holder's slot is untouched");
}

pub async fn an_abort_reaches_the_holder_at_its_next_renewal(bench: &Bench) {
    let fence = bench.serving(2).await;
    let (a, b) = (bench.take(&call("a")).await, bench.take(&call("b")).await);
    assert_eq!(bench.store.abort_slots(&fence, URL).await, Ok(2));
    assert_eq!(bench.store.abort_slots(&fence, URL).await, Ok(0), "once is enough");
    assert_eq!(bench.occupied().await, 2, "their connections are still open");
    for slot in [&a, &b] {
        let answer = bench.store.renew_slot(slot, LEASE, CallLife::default()).await;
        assert!(matches!(answer, Err(StoreError::Fenced(_))), "{answer:?}");
        bench.store.release_slot(slot, NO_TIME).await.expect("release");
    }
    let next = bench.take(&call("c")).await;
    bench.store.renew_slot(&next, LEASE, CallLife::default()).await.expect("the next holder is not aborted");
}

pub async fn a_lingering_slot_counts_until_it_is_free(bench: &Bench) {
    bench.serving(1).await;
    let slot = bench.take(&call("a")).await;
    bench.store.release_slot(&slot, Duration::from_secs(1)).await.expect("release");
    assert_eq!(bench.store.take_slot(&call("b")).await, Ok(SlotAnswer::Full { occupied: 1, limit: 1 }));
    bench.store.release_slot(&slot, MINUTE).await.expect("a second release changes nothing");
    let answer = bench.store.renew_slot(&slot, LEASE, CallLife::default()).await;
    assert!(matches!(answer, Err(StoreError::Fenced(_))), "a released slot is not renewed: {answer:?}");
    eventually("the linger is over", async || {
        matches!(bench.store.take_slot(&call("b")).await, Ok(SlotAnswer::Given(_)))
    })
    .await;
}

pub async fn a_canary_is_alone(bench: &Bench) {
    let fence = bench.serving(2).await;
    let canary = SlotRequest { purpose: SlotPurpose::Canary, ..call("leader") };
    let running = bench.take(&call("a")).await;
    assert_eq!(bench.store.take_slot(&canary).await, Ok(SlotAnswer::Full { occupied: 1, limit: 1 }));
    bench.store.release_slot(&running, NO_TIME).await.expect("release");

    bench.store.put_server(&fence, &ServerRow { admission: Admission::Closed, ..server(2) }).await.expect("close");
    assert_eq!(bench.store.take_slot(&call("b")).await, Ok(SlotAnswer::Closed));
    let proving = bench.take(&canary).await;
    assert_eq!(bench.store.take_slot(&canary).await, Ok(SlotAnswer::Full { occupied: 1, limit: 1 }));
    assert_eq!(bench.store.slots(URL).await.expect("slots")[0].purpose, SlotPurpose::Canary);
    bench.store.release_slot(&proving, NO_TIME).await.expect("release");
}

pub async fn admission_says_who_gets_a_slot(bench: &Bench) {
    let fence = bench.serving(4).await;
    assert_eq!(
        bench.store.take_slot(&SlotRequest { server_url: "http://nobody:1".to_owned(), ..call("a") }).await,
        Ok(SlotAnswer::Closed)
    );
    bench.store.put_server(&fence, &ServerRow { admission: Admission::One, ..server(4) }).await.expect("one at a time");
    let only = bench.take(&call("a")).await;
    assert_eq!(bench.store.take_slot(&call("b")).await, Ok(SlotAnswer::Full { occupied: 1, limit: 1 }));
    bench.store.put_server(&fence, &server(4)).await.expect("open");
    let second = bench.take(&call("b")).await;
    assert_ne!(only.number, second.number);
    assert_eq!(occupied(bench).await, 2);
}

pub async fn a_slot_tells_of_the_call_that_runs_in_it_now_and_of_none_before(bench: &Bench) {
    bench.serving(1).await;
    let slot = bench.take(&call("a")).await;
    let told = async |began_at: Option<Timestamp>, last_byte_at: Option<Timestamp>| {
        bench
            .store
            .renew_slot(&slot, LEASE, CallLife { began_at, last_byte_at, ..CallLife::default() })
            .await
            .expect("renew");
        let row = bench.store.slots(URL).await.expect("slots").remove(0);
        (row.call_began_at, row.last_byte_at)
    };
    let now = Timestamp::now();
    let ago = |minutes| now - SignedDuration::from_mins(minutes);
    let is_near = |told: Option<Timestamp>, wanted: Timestamp| {
        told.is_some_and(|told| told.duration_since(wanted).abs() < SignedDuration::from_secs(30))
    };
    assert_eq!(told(None, None).await, (None, None), "it is only claimed");
    let (began, byte) = told(Some(ago(9)), Some(ago(5))).await;
    assert!(is_near(began, ago(9)) && is_near(byte, ago(5)), "{began:?} {byte:?}");
    let (began, byte) = told(Some(ago(4)), None).await;
    assert!(is_near(began, ago(4)), "{began:?}");
    assert_eq!(byte, None, "the last byte is the call before's");
    let later = now + SignedDuration::from_hours(1);
    let (began, byte) = told(Some(later), Some(later)).await;
    assert!(is_near(began, now) && is_near(byte, now), "a clock that goes ahead hides no stall: {began:?} {byte:?}");
    assert_eq!(told(None, None).await, (None, None), "between two calls");
}

async fn occupied(bench: &Bench) -> i64 {
    let servers = bench.store.servers().await.expect("servers");
    let slots = bench.store.occupied_slots().await.expect("slots");
    assert_eq!((servers.len(), servers[0].row.url.as_str()), (1, URL));
    assert_eq!(usize::try_from(servers[0].occupied), Ok(slots.len()), "both say the same");
    servers[0].occupied
}

//! Holders of slots and leases: what a dead one held is free soon, what a living one holds stays its own.

use std::time::Duration;

use ostler::store::{CallLife, DeathWatch, Fence, ProcessIdentity, Served, SlotClaim, StoreError};
use ostler::tasks::TaskState;

use super::bench::{Bench, LEASE, URL, call, eventually, request};
use super::tasks_bench::{MINUTE, claim_slots, give_many, lease, queue_key, shop, slot_claim, state, task};

/// A process of this machine that ended: no system has so many.
fn ended() -> ProcessIdentity {
    ProcessIdentity { pid: i32::MAX.unsigned_abs(), start_time: 1, ..ProcessIdentity::own().clone() }
}

pub async fn what_a_dead_process_held_is_free_after_the_linger_and_its_tasks_pending(bench: &Bench) {
    let fence = shop(bench, 4).await;
    let ids = give_many(bench, &fence, "igor", 5).await;
    bench.store.register_holder("worker", &ended()).await.expect("register");
    bench.store.register_holder("worker-2", ProcessIdentity::own()).await.expect("register");
    let dead = lease(&bench.store, "worker").await;
    let dead_slots = claim_slots(bench, &slot_claim(&dead, 2)).await.given;
    // What it opened when it doubted its first one.
    let next = bench.store.open_lease("worker+1", &queue_key(), MINUTE).await.expect("open");
    let queues = vec![Served { queue: queue_key(), lease: next }];
    let third = claim_slots(bench, &SlotClaim { queues, ..slot_claim(&dead, 1) }).await.given;
    let living = lease(&bench.store, "worker-2").await;
    let living_slot = claim_slots(bench, &slot_claim(&living, 1)).await.given.remove(0).0;
    assert_eq!((dead_slots.len(), third.len(), bench.occupied().await), (2, 1, 4));

    let busy = bench.store.busy_holders().await.expect("read");
    let of = |name: &str| busy.iter().find(|row| row.holder == name).map(|row| (row.slots, row.leases, row.renews));
    assert_eq!(of("worker"), Some((3, 2, true)), "{busy:?}");
    assert_eq!(of("worker-2"), Some((1, 1, true)), "{busy:?}");

    let mut deaths = DeathWatch::default();
    assert!(deaths.pass(&*bench.store).await.expect("pass"));
    let late = bench.store.renew_slot(&dead_slots[0].0, LEASE, CallLife::default()).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
    assert_eq!(state(bench, ids[0]).await, TaskState::InProgress, "finished results may wait on disk");
    eventually("only the living one's slot counts", async || bench.occupied().await == 1).await;
    eventually("the tasks are pending again", async || {
        deaths.pass(&*bench.store).await.expect("pass");
        state(bench, ids[0]).await == TaskState::Pending && state(bench, ids[2]).await == TaskState::Pending
    })
    .await;
    let again = task(bench, ids[0]).await;
    assert_eq!((again.attempts_used, again.leases_lost), (0, 1), "as with a lease that lapsed");
    assert_eq!(state(bench, ids[3]).await, TaskState::InProgress, "the living one's");
    bench.store.renew_slot(&living_slot, LEASE, CallLife::default()).await.expect("it lives");
    assert_eq!(claim_slots(bench, &slot_claim(&living, 4)).await.given.len(), 3, "others go on with what is free");
    assert!(bench.store.busy_holders().await.expect("read").iter().all(|row| row.holder == "worker-2"));
}

pub async fn what_nobody_registered_counts_until_its_call_must_have_ended(bench: &Bench) {
    bench.serving(1).await;
    let slot = bench.take(&call("stranger")).await;
    assert!(!DeathWatch::default().pass(&*bench.store).await.expect("pass"));
    assert_eq!(bench.store.free_holder_slots("stranger-2", Duration::ZERO).await, Ok(0));
    assert_eq!(bench.occupied().await, 1);
    bench.store.renew_slot(&slot, LEASE, CallLife::default()).await.expect("untouched");
}

pub async fn a_servers_slots_are_freed_only_when_nobody_renews_any(bench: &Bench) {
    let fence = bench.serving(3).await;
    let moment = Duration::from_millis(1);
    bench.take(&request("dead", moment, MINUTE)).await;
    bench.take(&request("dead too", moment, MINUTE)).await;
    let living = bench.take(&call("living")).await;
    eventually("two leases lapsed", async || {
        let rows = bench.store.slots(URL).await.expect("slots");
        let own = rows.iter().find(|row| row.holder == "dead too").expect("it still counts");
        own.lease_expires_at < jiff::Timestamp::now() - jiff::SignedDuration::from_millis(50)
    })
    .await;
    assert_eq!(bench.store.free_lapsed_slots(&fence, URL, Duration::ZERO).await, Ok(0), "somebody may be served");
    bench.store.release_slot(&living, Duration::ZERO).await.expect("release");
    assert_eq!(bench.store.free_lapsed_slots(&fence, URL, Duration::ZERO).await, Ok(2));
    assert_eq!(bench.occupied().await, 0);
    let other = Fence { epoch: fence.epoch - 1, ..fence };
    let old = bench.store.free_lapsed_slots(&other, URL, Duration::ZERO).await;
    assert!(matches!(old, Err(StoreError::Fenced(_))), "{old:?}");
}

pub async fn a_call_that_outlives_its_dead_client_counts_until_it_must_have_ended(bench: &Bench) {
    let fence = bench.serving(2).await;
    bench.store.register_holder("dead", &ended()).await.expect("register");
    let noticed = bench.take(&request("dead", MINUTE, MINUTE)).await;
    let outlives = bench.take(&request("dead", MINUTE, MINUTE)).await;
    let life = |outlives_client| {
        let now = Some(jiff::Timestamp::now());
        CallLife { began_at: now, last_byte_at: now, outlives_client, may_last: None }
    };
    bench.store.renew_slot(&noticed, MINUTE, life(false)).await.expect("renew");
    bench.store.renew_slot(&outlives, MINUTE, life(true)).await.expect("renew");
    assert_eq!(bench.store.free_holder_slots("dead", Duration::ZERO).await, Ok(2));
    assert_eq!(bench.store.free_holder_slots("dead", Duration::ZERO).await, Ok(0), "nothing is left to be done");
    let left = bench.store.slots(URL).await.expect("slots");
    let numbers: Vec<i64> = left.iter().map(|row| row.number).collect();
    assert_eq!(numbers, [outlives.number], "the server still works on it");
    assert!(left[0].lease_expires_at <= jiff::Timestamp::now(), "nobody renews it");
    assert_eq!(bench.store.free_lapsed_slots(&fence, URL, Duration::ZERO).await, Ok(1), "where its CPU is idle");
    assert_eq!(bench.occupied().await, 0);
}

/// Of a data folder only: whoever locks it next knows.
#[tokio::test]
async fn whoever_locks_a_data_folder_knows_that_its_predecessor_is_dead() {
    let bench = Bench::sqlite().await;
    bench.serving(1).await;
    // On another machine, or in a container that is gone: nothing else is known of it.
    let process = ProcessIdentity { pid: 7, ..ProcessIdentity::default() };
    bench.store.register_holder("before", &process).await.expect("register");
    bench.take(&call("before")).await;
    let beside = bench.peer().await.busy_holders().await.expect("read");
    assert!(!beside[0].is_predecessor, "a worker beside it has no lock: {beside:?}");
    DeathWatch::default().pass(&*bench.store).await.expect("pass");
    eventually("its slot is free", async || bench.occupied().await == 0).await;
}

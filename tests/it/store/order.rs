//! Whose turn it is: interactive calls before tasks, and tasks with their share.

use std::time::{Duration, Instant};

use ostler::store::{CallLife, Slot, SlotAnswer, SlotClaim, SlotRequest, SlotWait};
use ostler::tasks::share::CallClass;

use super::bench::{Bench, LEASE, URL, call, eventually, request};
use super::tasks_bench::{claim_slots, give_many, lease, shop, slot_claim};

fn interactive(holder: &str) -> SlotRequest {
    SlotRequest { class: Some(CallClass::Interactive), ..call(holder) }
}

fn waits(class: CallClass, calls: i64) -> [SlotWait; 1] {
    [SlotWait { class, calls, ..SlotWait::of_tasks(URL) }]
}

async fn given(bench: &Bench, claim: &SlotClaim) -> Vec<Slot> {
    claim_slots(bench, claim).await.given.into_iter().map(|(slot, _)| slot).collect()
}

/// A worker with a lease, and tasks that it may claim.
async fn worker(bench: &Bench, slots: i32) -> SlotClaim {
    let fence = shop(bench, slots).await;
    give_many(bench, &fence, "igor", 5).await;
    slot_claim(&lease(&bench.store, "worker").await, 1)
}

pub async fn a_worker_makes_way_for_an_interactive_call(bench: &Bench) {
    let claim = worker(bench, 1).await;
    let slot = given(bench, &claim).await.remove(0);
    bench.store.wait_for_slots("gateway", &waits(CallClass::Interactive, 2)).await.expect("wait");
    assert_eq!(bench.store.interactive_waits().await, Ok(vec![(URL.to_owned(), 2)]));
    let next = bench.store.claim_next(&slot, &claim, CallLife::default()).await;
    assert!(matches!(next, Ok(None)), "it gives its slot up: {next:?}");
    bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
    let taken = bench.take(&interactive("gateway")).await;
    assert!(given(bench, &claim).await.is_empty());
    bench.store.wait_for_slots("gateway", &[]).await.expect("wait no more");
    assert_eq!(bench.store.interactive_waits().await, Ok(vec![]));
    bench.store.release_slot(&taken, Duration::ZERO).await.expect("release");
    let counted = bench.numbers("SELECT count(*) FROM slot_shares WHERE micros > 0").await;
    assert_eq!(counted, [2], "the time of each class");
}

pub async fn a_slot_is_kept_for_an_agents_next_turn_and_then_for_tasks(bench: &Bench) {
    let claim = worker(bench, 1).await;
    let slot = bench.take(&interactive("gateway")).await;
    let servers = bench.store.servers().await.expect("read");
    assert_eq!((servers[0].occupied, servers[0].interactive), (1, 1));
    bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
    let began = Instant::now();
    assert!(given(bench, &claim).await.is_empty(), "it is kept");
    assert_eq!(bench.store.servers().await.expect("read")[0].interactive, 1);
    let slot = bench.take(&interactive("gateway")).await;
    bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
    eventually("no turn came", async || !given(bench, &claim).await.is_empty()).await;
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
}

pub async fn tasks_that_wait_get_a_tenth_of_the_time(bench: &Bench) {
    let claim = worker(bench, 1).await;
    let slot = bench.take(&interactive("gateway")).await;
    bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
    bench
        .by_hand(
            "INSERT INTO slot_shares (server_url, class, place, minute, micros)
             VALUES ('http://127.0.0.1:11435', 'Interactive', 99, 9999999999, 600000000)",
        )
        .await;
    assert!(given(bench, &claim).await.is_empty(), "nobody said that tasks wait");
    bench.store.wait_for_slots("worker", &waits(CallClass::Batch, 1)).await.expect("wait");
    assert_eq!(given(bench, &claim).await.len(), 1, "also into a slot that is kept for an agent's next turn");
    assert_eq!(bench.store.interactive_waits().await, Ok(vec![]), "tasks are no interactive calls");
}

pub async fn whoever_is_dead_or_stands_still_delays_nobody(bench: &Bench) {
    let claim = worker(bench, 2).await;
    bench.store.wait_for_slots("frozen", &waits(CallClass::Interactive, 5)).await.expect("wait");
    let began = Instant::now();
    eventually("a slot for a task", async || !given(bench, &claim).await.is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    eventually("it lapses", async || bench.store.interactive_waits().await == Ok(vec![])).await;
    assert_eq!(given(bench, &claim).await.len(), 1, "at once");
    assert!(matches!(
        bench.store.take_slot(&interactive("gateway")).await,
        Ok(SlotAnswer::Full { occupied: 2, limit: 2 })
    ));
}

pub async fn a_renewal_may_move_the_end_of_a_call(bench: &Bench) {
    bench.serving(1).await;
    let slot = bench.take(&request("gateway", LEASE, Duration::from_secs(30))).await;
    let ends = async || bench.store.slots(URL).await.expect("read")[0].call_ends_at;
    let before = ends().await;
    let life = |seconds| CallLife { may_last: Some(Duration::from_secs(seconds)), ..CallLife::default() };
    bench.store.renew_slot(&slot, LEASE, life(5)).await.expect("renew");
    bench.store.renew_slot(&slot, LEASE, CallLife::default()).await.expect("renew");
    assert_eq!(ends().await, before, "never sooner than was said");
    bench.store.renew_slot(&slot, LEASE, life(600)).await.expect("renew");
    assert!(ends().await.duration_since(before).as_secs() > 500);
}

//! Servers that may be called only so often a day: exact, whoever calls.

use std::time::Duration;

use ostler::store::{CallLife, ServerRow, SlotAnswer, SlotPurpose, SlotRequest};
use ostler::tasks::TaskState;
use ostler::tasks::route::CallsOfDay;

use super::bench::{Bench, URL, call, server};
use super::tasks_bench::{claim_slots, give_many, given_ids, lease, lease_for, shop, slot_claim, state};

fn limited(limit: i32, calls: i32) -> ServerRow {
    ServerRow { calls_per_day: Some(calls), ..server(limit) }
}

async fn left(bench: &Bench) -> Vec<(String, CallsOfDay)> {
    let servers = bench.store.servers().await.expect("read");
    servers.into_iter().filter_map(|server| Some((server.row.url, server.today?))).collect()
}

pub async fn a_days_calls_are_exact_whoever_makes_them(bench: &Bench) {
    let fence = shop(bench, 200).await;
    give_many(bench, &fence, "igor", 40).await;
    assert_eq!(left(bench).await, [], "nobody counts without a limit");
    bench.store.put_server(&fence, &limited(200, 25)).await.expect("put");
    let mut callers = Vec::new();
    for number in 0..4 {
        let store = bench.peer().await;
        let holder = format!("worker-{number}");
        let held = lease_for(&store, &holder, Duration::from_secs(60)).await;
        callers.push(tokio::spawn(async move {
            let mut calls = 0;
            for _ in 0..5 {
                let claim = ostler::store::SlotClaim { holder: holder.clone(), ..slot_claim(&held, 2) };
                let answer = store.claim_slots(&claim).await.expect("claim");
                calls += answer.given.len();
                if let Some((slot, _)) = answer.given.first() {
                    calls += usize::from(
                        store.claim_next(slot, &claim, CallLife::default()).await.expect("claim the next").is_some(),
                    );
                }
                let taken = store.take_slot(&call(&holder)).await.expect("take a slot");
                calls += usize::from(matches!(taken, SlotAnswer::Given(_)));
            }
            calls
        }));
    }
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("no panic");
    }
    assert_eq!(calls, 25);
    assert_eq!(left(bench).await, [(URL.to_owned(), CallsOfDay { most: 25, left: 0 })]);
    assert_eq!(bench.store.take_slot(&call("late")).await, Ok(SlotAnswer::Spent));
    bench.store.put_server(&fence, &limited(200, 26)).await.expect("raise");
    bench.take(&call("late")).await;
    assert_eq!(bench.store.take_slot(&call("late")).await, Ok(SlotAnswer::Spent));
    bench.store.put_server(&fence, &limited(200, 3)).await.expect("lower");
    assert_eq!(left(bench).await[0].1.left, 0, "never less than nothing");
}

pub async fn the_next_day_has_calls_again(bench: &Bench) {
    let fence = shop(bench, 2).await;
    bench.store.put_server(&fence, &limited(2, 3)).await.expect("put");
    let ids = give_many(bench, &fence, "igor", 6).await;
    let lease = lease(&bench.store, "worker").await;
    let claim = slot_claim(&lease, 2);
    let first = claim_slots(bench, &claim).await;
    assert_eq!((given_ids(&first), first.spent), (ids[..2].to_vec(), false));
    let slot = &first.given[0].0;
    let next = bench.store.claim_next(slot, &claim, CallLife::default()).await.expect("ours");
    assert_eq!(next.map(|next| next.task.id), Some(ids[2]));
    assert_eq!(bench.store.claim_next(slot, &claim, CallLife::default()).await, Ok(None), "a next call is a call");
    bench.store.release_slot(&first.given[1].0, Duration::ZERO).await.expect("release");
    let spent = claim_slots(bench, &claim).await;
    assert!(spent.given.is_empty() && spent.spent && !spent.closed && !spent.full, "{spent:?}");
    assert_eq!(state(bench, ids[3]).await, TaskState::Pending, "no call, no task");

    let canary = SlotRequest { purpose: SlotPurpose::Canary, ..call("leader") };
    bench.store.release_slot(slot, Duration::ZERO).await.expect("release");
    let proving = bench.take(&canary).await;
    bench.store.release_slot(&proving, Duration::ZERO).await.expect("release");
    assert_eq!(left(bench).await[0].1, CallsOfDay { most: 3, left: 0 }, "a canary is not counted");

    bench.by_hand("UPDATE server_days SET day = day - 1").await;
    assert_eq!(left(bench).await[0].1, CallsOfDay { most: 3, left: 3 });
    let again = claim_slots(bench, &claim).await;
    assert_eq!((given_ids(&again), again.spent), (ids[3..5].to_vec(), false));
    assert_eq!(left(bench).await[0].1.left, 1);
}

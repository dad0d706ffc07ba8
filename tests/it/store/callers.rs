//! Callers of the gateway: what they use, and that their limits hold whoever serves them.

use std::time::Duration;

use ostler::store::{CallerLimit, CallerUse, ServerRow, SlotAnswer, SlotCaller, SlotClaim, SlotRequest, caller_id};
use ostler::tasks::share::CallClass;

use super::bench::{Bench, call, server};
use super::tasks_bench::{claim_slots, give_many, lease, shop, slot_claim};

const SECOND: &str = "http://127.0.0.1:11436";

fn of(name: &str, max_concurrent: Option<i32>, tokens_per_day: Option<i64>) -> SlotRequest {
    let caller = SlotCaller { id: caller_id("team", name), max_concurrent, tokens_per_day, weight: 10 };
    SlotRequest { class: Some(CallClass::Interactive), caller: Some(caller), ..call("gateway") }
}

fn used(name: &str, calls: i64, tokens: i64) -> CallerUse {
    CallerUse { caller: caller_id("team", name), calls, tokens }
}

pub async fn a_callers_calls_at_once_are_exact_at_all_gateways_and_servers(bench: &Bench) {
    let fence = bench.serving(20).await;
    bench.store.put_server(&fence, &ServerRow { url: SECOND.to_owned(), ..server(20) }).await.expect("put");
    let mut takers = Vec::new();
    for number in 0..4 {
        let store = bench.peer().await;
        takers.push(tokio::spawn(async move {
            let mut given = Vec::new();
            for attempt in 0..6 {
                let mut request = SlotRequest { holder: format!("gateway-{number}"), ..of("editor", Some(5), None) };
                if attempt % 2 == 0 {
                    request.server_url = SECOND.to_owned();
                }
                match store.take_slot(&request).await.expect("take") {
                    SlotAnswer::Given(slot) => given.push(slot),
                    other => assert_eq!(other, SlotAnswer::Limited(CallerLimit::Concurrent)),
                }
            }
            given
        }));
    }
    let mut given = Vec::new();
    for taker in takers {
        given.extend(taker.await.expect("no panic"));
    }
    assert_eq!(given.len(), 5);
    bench.take(&of("other", Some(1), None)).await;
    bench.take(&of("free", None, None)).await;
    bench.store.release_slot(&given[0], Duration::ZERO).await.expect("release");
    bench.take(&of("editor", Some(5), None)).await;
    let full = bench.store.take_slot(&of("editor", Some(5), None)).await;
    assert_eq!(full, Ok(SlotAnswer::Limited(CallerLimit::Concurrent)));
}

pub async fn a_slot_that_a_task_takes_next_is_no_callers_any_more(bench: &Bench) {
    let fence = shop(bench, 2).await;
    give_many(bench, &fence, "igor", 5).await;
    let slot = bench.take(&SlotRequest { class: Some(CallClass::Batch), ..of("editor", Some(1), None) }).await;
    bench.store.release_slot(&slot, Duration::ZERO).await.expect("release");
    let claim = SlotClaim { most: 1, ..slot_claim(&lease(&bench.store, "worker").await, 1) };
    assert_eq!(claim_slots(bench, &claim).await.given.len(), 1, "in the same row");
    bench.take(&of("editor", Some(1), None)).await;
}

pub async fn a_days_tokens_are_counted_and_come_back_on_the_next(bench: &Bench) {
    bench.serving(20).await;
    let wants = of("editor", None, Some(100));
    bench.take(&wants).await;
    assert_eq!(bench.store.caller_days().await, Ok(vec![]), "no call of it has ended");
    bench.store.count_use(&[used("other", 1, 7), used("editor", 1, 60)]).await.expect("count");
    bench.take(&wants).await;
    bench.store.count_use(&[used("editor", 2, 40)]).await.expect("count");
    let limit = match bench.store.take_slot(&wants).await {
        Ok(SlotAnswer::Limited(CallerLimit::Tokens { for_ })) => for_,
        other => panic!("{other:?}"),
    };
    assert!(limit <= Duration::from_secs(24 * 3600), "{limit:?}");
    bench.take(&of("editor", None, None)).await;
    let days = bench.store.caller_days().await.expect("read");
    let told: Vec<_> = days.iter().map(|day| (day.caller.as_str(), day.calls, day.tokens)).collect();
    assert_eq!(told, [("team/editor", 3, 100), ("team/other", 1, 7)]);
    assert!(days[0].last_used_at.duration_since(jiff::Timestamp::now()).abs().as_secs() < 60);
    bench.by_hand("UPDATE caller_days SET day = day - 1").await;
    assert_eq!(bench.store.caller_days().await.expect("read")[0].tokens, 0, "that was yesterday");
    bench.take(&wants).await;
    bench.store.count_use(&[used("editor", 1, 5)]).await.expect("count");
    assert_eq!(bench.store.caller_days().await.expect("read")[0].tokens, 5);
}

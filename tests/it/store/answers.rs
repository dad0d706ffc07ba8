//! Kept answers: whose they are, for how long, and how many.

use std::time::Duration;

use ostler::store::AnswerKey;

use super::bench::Bench;
use crate::worker::eventually;

const HOUR: Duration = Duration::from_secs(3600);

fn key(owner: &str, request: u8) -> AnswerKey {
    AnswerKey { owner: owner.to_owned(), request: [request; 32] }
}

async fn body(bench: &Bench, key: &AnswerKey) -> Option<Vec<u8>> {
    bench.store.kept_answer(key).await.expect("read").map(|kept| kept.body)
}

pub async fn an_answer_is_its_owners_to_its_request_and_the_last_one_counts(bench: &Bench) {
    let own = key("caller team/editor", 1);
    assert_eq!(body(bench, &own).await, None);
    for said in ["first", "second"] {
        bench.store.keep_answer(&own, "text/plain", said.as_bytes(), HOUR, 1_000).await.expect("kept");
    }
    let kept = bench.store.kept_answer(&own).await.expect("read").expect("kept");
    assert_eq!((kept.content_type.as_str(), kept.body.as_slice()), ("text/plain", &b"second"[..]));
    assert!(kept.age < Duration::from_secs(60), "{:?}", kept.age);
    for other in [key("caller team/other", 1), key("queue team/editor", 1), key("caller team/editor", 2)] {
        assert_eq!(body(bench, &other).await, None, "{other:?}");
    }
}

pub async fn answers_lapse_and_the_oldest_make_room(bench: &Bench) {
    let of = |request| key("caller team/editor", request);
    bench.store.keep_answer(&of(1), "", b"x", Duration::from_secs(1), 1_000).await.expect("kept");
    eventually("it lapses", || async { body(bench, &of(1)).await.is_none() }).await;
    bench.store.keep_answer(&key("caller team/other", 2), "", &[7; 90], HOUR, 100).await.expect("kept");
    for request in 2..6 {
        bench.store.keep_answer(&of(request), "", &[request; 40], HOUR, 100).await.expect("kept");
    }
    let mut there = Vec::new();
    for request in 1..6 {
        if body(bench, &of(request)).await.is_some() {
            there.push(request);
        }
    }
    assert_eq!(there, [4, 5], "two of forty bytes are a hundred at most");
    assert!(body(bench, &key("caller team/other", 2)).await.is_some(), "another owner has room of its own");
    bench.store.keep_answer(&of(6), "", &[6; 101], HOUR, 100).await.expect("kept");
    assert_eq!(body(bench, &of(6)).await, None, "what is larger than all is not kept");
}

//! How many calls an engine runs at once, learned from the slots in which calls are open.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use ostler::{
    engines::EngineKind,
    simulate::SimulateOptions,
    tasks::parallel::{Parallelism, SampledCall},
};
use serde_json::json;

use super::{PATIENCE, shop::Shop};

/// Four slots at an Ollama that runs `parallel` calls at once, of twelve seconds each. Watches until something is learned or all is done.
async fn learned(parallel: usize) -> Option<String> {
    let shop = Shop::sqlite().await;
    let options = SimulateOptions { tokens_per_second: 2.0, parallel, ..SimulateOptions::new(EngineKind::Ollama) };
    let server = shop.simulated("ollama", options, 4, 10).await;
    let parameters = json!({"maxTokens": 24, "timeoutSeconds": 120});
    shop.expert_with("igor", json!({"model": "small", "parameters": parameters})).await;
    let ids = shop.give(8, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    let (mut parallelism, begun) = (Parallelism::default(), Instant::now());
    let learned = loop {
        assert!(begun.elapsed() < PATIENCE, "nothing learned, and not done");
        let rows = shop.store().slots(server.url()).await.expect("read");
        let open = rows.into_iter().filter_map(|row| {
            let (slot, began_at) = ((row.number, row.epoch), row.call_began_at?);
            Some(SampledCall { slot, model: row.model, began_at, last_byte_at: row.last_byte_at })
        });
        let queues = parallelism.observe(&open.collect::<Vec<_>>(), true, 4, Timestamp::now());
        if let Some(queues) = queues {
            break Some(queues.to_string());
        }
        if shop.in_state(ostler::tasks::TaskState::Completed).await == ids.len() {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    worker.end().await;
    learned
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_engine_that_runs_one_call_at_a_time_is_told_from_one_that_runs_four() {
    let (one, four) = tokio::join!(learned(1), learned(4));
    // Three wait inside it, but for a moment after one has ended.
    assert!(one.as_ref().is_some_and(|said| said.starts_with("it runs 1 call at a time; ")), "{one:?}");
    assert_eq!(four, None);
}

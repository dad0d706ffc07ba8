//! What a worker tells the leader of its calls.

use std::{sync::Arc, time::Duration};

use ostler::{
    engines::EngineKind,
    simulate::{Fault, SimulateOptions},
    store::{CallEvidence, CallFault},
    tasks::TaskState,
    worker::Timings,
};

use super::{
    eventually,
    shop::{Given, Shop},
};

async fn reported(shop: &Shop) -> CallEvidence {
    let rows = shop.store().workers().await.expect("read");
    rows.into_iter().flat_map(|row| row.report.evidence).next().unwrap_or_default()
}

fn status(code: u16) -> Fault {
    Fault::Status { code, path: None, retry_after_seconds: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_calls_show_of_a_server_is_reported_at_once_and_a_refused_request_shows_nothing() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 4, 10).await;
    shop.expert("igor", "small").await;
    // Only news makes it report.
    let timings = Timings { report: Duration::from_secs(3_600), ..Timings::default() };
    let worker = shop.worker_with(timings, Arc::new(Given::default())).await;

    let first = shop.give(1, &["igor"], Some("small")).await[0];
    eventually("a served call", || async { !reported(&shop).await.served.is_empty() }).await;
    let evidence = reported(&shop).await;
    assert_eq!(evidence.server_url, server.url());
    let call = &evidence.served[0];
    assert_eq!((call.model.as_str(), call.request.clone()), ("llama3.2:3b", format!("task {first}")));
    assert!(call.began_at <= call.ended_at && evidence.failed.is_empty(), "{evidence:?}");

    server.add_fault(status(500));
    let failing = shop.give(2, &["igor"], Some("small")).await;
    eventually("failures under two requests", || async { reported(&shop).await.failing_requests() == 2 }).await;
    let evidence = reported(&shop).await;
    assert!(evidence.failed.iter().all(|call| call.fault == CallFault::Failed), "{evidence:?}");
    assert!(evidence.failed.iter().all(|call| call.message.contains("HTTP 500")), "{evidence:?}");

    server.clear_faults();
    eventually("it to be served again", || async { reported(&shop).await.failing_requests() == 0 }).await;
    shop.until_completed(&failing).await;

    server.add_fault(status(400));
    let refused = shop.give(1, &["igor"], Some("small")).await[0];
    eventually("its end", || async { shop.task(refused).await.state == TaskState::Failed }).await;
    server.clear_faults();
    // Another failure makes it report again.
    server.add_fault(Fault::Refuse {});
    shop.give(1, &["igor"], Some("small")).await;
    eventually("another report", || async { reported(&shop).await.failing_requests() == 1 }).await;
    let request = format!("task {refused}");
    assert!(reported(&shop).await.failed.iter().all(|call| call.request != request));
    worker.end().await;
}

//! The limit of a server holds for calls of gateways and of workers together.

use futures::future::join_all;
use ostler::{engines::EngineKind, gateway::GatewayTimings, simulate::SimulateOptions};
use serde_json::json;

use super::gate::{self, Gate, chat};
use crate::{
    store::bench::Bench,
    worker::shop::{Shop, until_in_flight},
};

fn mlx() -> SimulateOptions {
    SimulateOptions { tokens_per_second: 200.0, ..SimulateOptions::new(EngineKind::Mlx) }
}

async fn many_calls_and_tasks(bench: Bench) {
    let shop = Shop::on(bench).await;
    let mlx = shop.simulated("mlx", mlx(), 2, 10).await;
    shop.expert("igor", "small").await;
    let tasks = shop.give(30, &["igor"], Some("small")).await;
    let gate = Gate::start(shop).await;
    let (second, stop, running) = gate::open(&gate.shop, GatewayTimings::default()).await;
    let worker = gate.shop.worker().await;
    let calls = (0..40).map(|n| {
        let body = json!({"model": "small", "stream": n % 3 > 0, "max_tokens": 8,
            "messages": [{"role": "user", "content": format!("call {n}")}]});
        let url = if n % 2 == 0 { &gate.url } else { &second };
        let request = gate.http.post(format!("{url}/v1/chat/completions")).json(&body).send();
        async move {
            let response = request.await.expect("an answer");
            let status = response.status().as_u16();
            (status, response.text().await.expect("a whole body"))
        }
    });
    for (status, text) in join_all(calls).await {
        assert_eq!(status, 200, "{text}");
    }
    gate.shop.until_completed(&tasks).await;
    let log = mlx.log();
    assert!(log.in_flight_peak <= 2, "MLX had {} calls at once", log.in_flight_peak);
    assert_eq!(log.inferences().count(), 70);
    gate.until_free(mlx.url()).await;
    worker.end().await;
    stop.cancel();
    running.await.expect("no panic").expect("it served");
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_and_tasks_together_never_exceed_the_limit() {
    many_calls_and_tasks(Bench::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_postgres_calls_and_tasks_together_never_exceed_the_limit() {
    many_calls_and_tasks(Bench::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_waits_for_the_task_that_runs_and_no_other() {
    let shop = Shop::sqlite().await;
    let mlx = shop.simulated("mlx", SimulateOptions { tokens_per_second: 80.0, ..mlx() }, 1, 10).await;
    shop.expert("igor", "small").await;
    let tasks = shop.give(12, &["igor"], Some("small")).await;
    let gate = Gate::start(shop).await;
    let worker = gate.shop.worker().await;
    for n in 0..2 {
        until_in_flight(&mlx, 1).await;
        let asked = jiff::Timestamp::now();
        let prompt = format!("call {n}");
        let body = json!({"model": "small", "max_tokens": 8, "messages": [{"role": "user", "content": prompt}]});
        assert_eq!(gate.answer("/v1/chat/completions", &body).await.0, 200);
        let log = mlx.log();
        let call = log.inferences().find(|call| call.prompt.as_deref() == Some(&prompt)).expect("it was asked");
        let before = log.inferences().filter(|task| task.at > asked && task.at < call.at).count();
        // One may begin in the moment before the others know that a call waits.
        assert!(before <= 1, "{before} tasks began while a call waited");
    }
    gate.shop.until_completed(&tasks).await;
    worker.end().await;
    assert_eq!(mlx.log().in_flight_peak, 1);
    gate.end().await;
}

#[tokio::test]
async fn calls_wait_in_the_order_they_came() {
    let shop = Shop::sqlite().await;
    let mlx = shop.simulated("mlx", SimulateOptions { tokens_per_second: 50.0, ..mlx() }, 1, 10).await;
    let gate = Gate::start(shop).await;
    let mut calls = Vec::new();
    for n in 0..6 {
        let body =
            json!({"model": "small", "max_tokens": 4, "messages": [{"role": "user", "content": format!("call {n}")}]});
        calls.push(tokio::spawn(gate.post("/v1/chat/completions", &body).send()));
        // One after the other reaches the gateway.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("an answer").status(), 200);
    }
    let prompts: Vec<_> = mlx.log().inferences().filter_map(|call| call.prompt.clone()).collect();
    let expected: Vec<_> = (0..6).map(|n| format!("call {n}")).collect();
    assert_eq!(prompts, expected);
    assert_eq!(gate.answer("/v1/chat/completions", &chat(false)).await.0, 200);
    gate.end().await;
}

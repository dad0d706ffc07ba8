//! How well a server's slots are used: by which model, and how much of the time.

use std::time::Duration;

use ostler::{
    engines::EngineKind,
    simulate::{Fault, SimulateOptions, SimulatedServer},
    tasks::TaskState,
};
use serde_json::json;

use super::{
    eventually,
    shop::{Shop, until_in_flight},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_of_two_models_mixed_make_a_server_load_seldom() {
    let shop = Shop::sqlite().await;
    let options = SimulateOptions { max_loaded: 1, parallel: 2, ..SimulateOptions::new(EngineKind::Ollama) };
    let server = SimulatedServer::start(options.with_models(&["horse", "mule"])).await.expect("start");
    server.add_fault(Fault::SlowLoad { seconds: 0.1, cancelled: false });
    let models = ["horse", "mule"].map(|name| json!({"name": name, "alias": name}));
    shop.backend("ollama", "Ollama", server.url(), &models, 2, 10).await;
    shop.expert("rider", "horse").await;
    shop.expert("miller", "mule").await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.extend(shop.give(1, &["rider"], Some("horse")).await);
        ids.extend(shop.give(1, &["miller"], Some("mule")).await);
    }
    let (first, second) = (shop.worker().await, shop.worker().await);
    shop.until_completed(&ids).await;
    first.end().await;
    second.end().await;
    let loads = server.log().loads_in_all();
    assert!(loads <= 12, "{loads} loads for {} tasks", ids.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slots_are_in_use_while_work_waits() {
    let shop = Shop::sqlite().await;
    let options = SimulateOptions { tokens_per_second: 40.0, ..SimulateOptions::new(EngineKind::Mlx) };
    let server = shop.simulated("mlx", options, 2, 10).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(60, &["igor"], Some("small")).await;
    let (first, second) = (shop.worker().await, shop.worker().await);
    until_in_flight(&server, 2).await;
    let (mut seen, mut used) = (0, 0);
    // Until the last ones are on their way.
    while shop.in_state(TaskState::Pending).await > 2 {
        seen += 2;
        used += shop.occupied(server.url()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen > 100 && used * 100 >= seen * 95, "{used} of {seen}");
    shop.until_completed(&ids).await;
    assert_eq!(server.log().in_flight_peak, 2);
    first.end().await;
    second.end().await;
    eventually("the slots to be free", || async { shop.occupied(server.url()).await == 0 }).await;
}

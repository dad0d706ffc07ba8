//! Workers that stand still, and a database that is away.

use std::time::Duration;

use nix::sys::signal::Signal;
use ostler::{
    engines::EngineKind,
    simulate::SimulateOptions,
    store::Home,
    tasks::{AttemptClass, TaskState},
};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use super::{
    eventually,
    shop::{Shop, executions, until_in_flight},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_stood_still_past_its_lease_changes_nothing_afterwards() {
    let shop = Shop::sqlite().await;
    shop.queue(json!({"leaseSeconds": 3, "retry": {"backoffSeconds": 1}})).await;
    let slow = SimulateOptions { tokens_per_second: 2.0, ..SimulateOptions::new(EngineKind::Mlx) };
    let server = shop.simulated("mlx", slow, 2, 10).await;
    shop.expert_with("igor", json!({"model": "small", "parameters": {"maxTokens": 12, "timeoutSeconds": 15}})).await;
    let ids = shop.give(2, &["igor"], Some("small")).await;
    let mut frozen = shop.process();
    until_in_flight(&server, 2).await;
    frozen.signal(Signal::SIGSTOP);
    eventually("the leases to be reaped", || async { shop.tasks(&ids).await.iter().all(|task| task.leases_lost == 1) })
        .await;
    let worker = shop.worker().await;
    // Its slots count until their calls must have ended: nothing is sent beside them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(server.log().in_flight_peak <= 2);
    frozen.signal(Signal::SIGCONT);
    shop.until_completed(&ids).await;
    assert!(server.log().in_flight_peak <= 2, "{} at once", server.log().in_flight_peak);
    frozen.signal(Signal::SIGTERM);
    assert_eq!(frozen.ended().await, Some(0));
    for task in shop.tasks(&ids).await {
        assert_eq!((task.state, task.leases_lost), (TaskState::Completed, 1));
        assert_eq!(task.attempts.iter().filter(|a| a.class == AttemptClass::Ok).count(), 1, "{task:?}");
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn results_wait_on_disk_while_the_database_is_away() {
    let shop = Shop::sqlite().await;
    let slow = SimulateOptions { tokens_per_second: 4.0, ..SimulateOptions::new(EngineKind::Mlx) };
    let server = shop.simulated("mlx", slow, 2, 10).await;
    shop.expert("igor", "small").await;
    let ids = shop.give(2, &["igor"], Some("small")).await;
    let worker = shop.worker().await;
    until_in_flight(&server, 2).await;
    let Home::Folder { path, .. } = &shop.bench.home else { panic!("SQLite") };
    let url = format!("sqlite://{}", path.join("ostler.db").display());
    let mut other = SqliteConnection::connect(&url).await.expect("open the file");
    // Nobody can write until that ends.
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("lock");
    eventually("the results to be on disk", || async { worker.spooled() == 2 }).await;
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("unlock");
    shop.until_completed(&ids).await;
    eventually("the disk to be empty", || async { worker.spooled() == 0 }).await;
    let page = worker.metrics.render(jiff::Timestamp::now());
    assert!(page.contains("ostler_worker_spooled_results 0\n"), "{page}");
    let counted = executions(&[&server]);
    assert!(counted.values().all(|times| *times == (1, 1)), "{counted:?}");
    worker.end().await;
}

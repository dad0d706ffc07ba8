//! Workers on a database and simulated engines: what they do is counted at the engines and in the database.

mod calls;
mod drains;
mod durable;
mod evidence;
mod handlers;
mod interrupted;
mod parallel;
mod real;
pub mod shop;
mod slots;
mod storm;
mod whole;

use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Polls until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

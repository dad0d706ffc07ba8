//! Calls of other clients, which no request of ours shows: they take the engine's places and move `expires_at`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Fault;
use super::state::Shared;

/// Tokens of each call.
const TOKENS: u32 = 40;

/// Keeps `count` calls open while the fault is set.
pub(super) fn start(shared: &Arc<Shared>, fault: u64, count: usize) {
    for _ in 0..count {
        let (weak, over) = (Arc::downgrade(shared), shared.over.clone());
        tokio::spawn(async move {
            over.run_until_cancelled(async { while call(&weak, fault).await.is_some() {} }).await;
        });
    }
}

async fn call(shared: &Weak<Shared>, fault: u64) -> Option<()> {
    let shared = shared.upgrade()?;
    let work = async {
        let pause = Duration::try_from_secs_f64(1.0 / shared.options.tokens_per_second).unwrap_or(Duration::MAX);
        let Some(model) = shared.listed().into_iter().next() else { return tokio::time::sleep(pause).await };
        let Ok(_lease) = shared.acquire(&model, None).await else { return tokio::time::sleep(pause).await };
        for _ in 0..TOKENS {
            shared.faults.until_none(|fault| matches!(fault, Fault::HangInference { .. })).await;
            tokio::time::sleep(pause).await;
        }
        shared.ledger.note_foreign();
    };
    tokio::select! {
        () = shared.faults.until_ended(fault) => None,
        () = work => Some(()),
    }
}

//! What is due whatever the runner waits for: deaths, starts, logs, and the metrics that follow them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{plan, service::Service},
    base::Ticker,
    telemetry::{Beat, Metrics},
};

/// How often deaths, logs and their size are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks after one service beside its runner.
#[derive(Debug)]
pub struct Upkeep {
    pub service: Arc<Service>,
    pub metrics: Metrics,
    /// The agent's name, for metrics.
    pub agent: String,
    pub shutdown: CancellationToken,
    pub beat: Beat,
}

impl Upkeep {
    pub async fn run(self) {
        self.due().await;
        let mut ticks = Ticker::new(PERIOD);
        let mut changes = self.service.changes.subscribe();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = ticks.tick() => self.due().await,
                Ok(()) = changes.changed() => {}
            }
            self.publish();
            self.beat.beat();
        }
    }

    async fn due(&self) {
        let service = Arc::clone(&self.service);
        if let Err(error) = tokio::task::spawn_blocking(move || service.upkeep()).await {
            tracing::error!(service = %self.service.spec.name, %error, "upkeep of the service failed");
        }
    }

    fn publish(&self) {
        let (name, memory) = (&self.service.spec.name, self.service.keeper.get());
        let held = plan::active(&memory.holds, Timestamp::now()).next().is_some();
        let gave_up = memory.failed_starts_in_row >= plan::MAX_FAILED_STARTS;
        self.metrics.agent.service_left(&self.agent, name, held, gave_up);
        self.metrics.agent.service_up(&self.agent, name, self.service.is_up());
    }
}

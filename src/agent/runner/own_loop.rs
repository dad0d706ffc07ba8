//! The agent's own loop: a host heals itself while the cluster is away.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::ServiceRunner;
use crate::{
    agent::{
        plan::{self, Leave, MAX_FAILED_STARTS, Occasion, ServiceAssessment, ServiceDecision, ServiceObserved},
        service::ServiceError,
    },
    telemetry::crash_point,
};

/// For how long a service that uses the CPU may let its checks time out.
const BUSY_GRACE: Duration = Duration::from_secs(1800);

impl ServiceRunner {
    /// Looks at the service, decides, acts.
    pub(super) async fn check(&mut self, occasion: Occasion) {
        if self.service.leaving.is_cancelled() {
            return;
        }
        let name = &self.service.spec.name.clone();
        let seen = match self.service.look(!self.pace.observe).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::error!(service = %name, %error, "cannot check the service");
                return;
            }
        };
        let seen = self.bound_busy(seen);
        let decision = self.decide(occasion, seen);
        let attempt = plan::is_attempt(occasion, seen, &self.service.keeper.get());
        match decision {
            ServiceDecision::Nothing => self.passed(),
            ServiceDecision::Leave(why) => {
                tracing::info!(service = %name, state = seen.as_str(), why = why.as_str(), "service is not up; leaving it alone");
                if why == Leave::GaveUp {
                    tracing::error!(service = %name, failed_starts = MAX_FAILED_STARTS,
                        "gave up on the service: see its log, correct the cause, then run `ostler start`");
                }
            }
            ServiceDecision::Start | ServiceDecision::Restart if self.pace.observe => {
                tracing::info!(service = %name, state = seen.as_str(), action = decision.as_str(), "service is down; not acting (--observe)");
            }
            ServiceDecision::Start => {
                // What went wrong is logged, and tried again at the next check.
                let _ = self.act(decision, seen, attempt).await;
            }
            ServiceDecision::Restart => {
                let restarted = self.act(decision, seen, attempt).await;
                self.after_restart(&restarted);
            }
        }
    }

    fn decide(&self, occasion: Occasion, seen: ServiceObserved) -> ServiceDecision {
        let memory = self.service.keeper.get();
        let mut live = self.service.live();
        let cared_for = live.care_until.is_some_and(|until| Instant::now() < until);
        live.failing = match seen {
            ServiceObserved::Up | ServiceObserved::Starting => 0,
            _ if cared_for => 0,
            _ => live.failing.saturating_add(1),
        };
        let view = ServiceAssessment {
            occasion,
            seen,
            holds: &memory.holds,
            cared_for,
            failing: live.failing,
            failed_starts: memory.failed_starts_in_row,
            restart: self.service.spec.restart,
            last_exit: memory.last_exit.as_ref().filter(|_| memory.last_exit_of.is_some()),
        };
        plan::decide(&view, Timestamp::now())
    }

    /// A hung server may burn CPU for ever: past the grace it is failing.
    fn bound_busy(&self, seen: ServiceObserved) -> ServiceObserved {
        let mut live = self.service.live();
        if seen != ServiceObserved::Busy {
            live.busy_since = None;
            return seen;
        }
        let since = *live.busy_since.get_or_insert_with(Instant::now);
        if since.elapsed() > BUSY_GRACE { ServiceObserved::Failing } else { ServiceObserved::Busy }
    }

    fn passed(&self) {
        self.service.remember(|m| m.failed_starts_in_row = 0);
    }

    /// Meanwhile its report says that it is starting, so that no controller starts it, too.
    pub(super) async fn act(
        &self,
        decision: ServiceDecision,
        seen: ServiceObserved,
        attempt: bool,
    ) -> Result<(), ServiceError> {
        self.service.live().own_start = Some(Timestamp::now());
        let result = self.start_or_restart(decision, seen, attempt).await;
        self.service.live().own_start = None;
        self.service.changes.tell();
        result
    }

    async fn start_or_restart(
        &self,
        decision: ServiceDecision,
        seen: ServiceObserved,
        attempt: bool,
    ) -> Result<(), ServiceError> {
        let name = &self.service.spec.name;
        if attempt {
            tracing::warn!(service = %name, state = seen.as_str(), action = decision.as_str(), "service is down and no controller manages it; acting");
            // Written down first: a controller counts these as attempts.
            let counted = self.service.keeper.change(|m| {
                m.self_starts.count += 1;
                m.self_starts.last = Some(Timestamp::now());
            });
            if let Err(error) = counted {
                tracing::error!(service = %name, %error, "cannot record the start; not starting");
                return Err(error.into());
            }
        } else {
            tracing::info!(service = %name, "service does not run yet; starting it");
        }
        crash_point("agent.before-self-start");
        let patience = self.patience();
        let result = match decision {
            ServiceDecision::Restart => self.service.restart(&patience).await,
            _ => self.service.start(&patience).await,
        };
        self.metrics.agent.self_started(&self.pace.agent, name);
        let result = self.count(result);
        match &result {
            Ok(message) => {
                self.service.live().failing = 0;
                tracing::info!(service = %name, done = message, "service is up");
            }
            Err(ServiceError::Interrupted) => {}
            Err(error) => {
                let failed = self.service.keeper.get().failed_starts_in_row;
                tracing::error!(service = %name, %error, failed_starts = failed, "service did not start");
                if failed >= MAX_FAILED_STARTS {
                    tracing::error!(service = %name, "gave up on the service after five failed starts in a row");
                }
            }
        }
        result.map(drop)
    }
}

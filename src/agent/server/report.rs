//! The report, at once or as soon as something has changed.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use tokio::time::{Duration, Instant, sleep_until};

use super::{
    admit::{UnverifiedRequest, admit, on_disk},
    routes::AppState,
};
use crate::{
    agent::gate::Refused,
    host::{AgentRefusal, AgentReport, MAX_WAIT_SECONDS},
};

/// How many callers may wait at once. One more is answered at once, and knows by the revision that nothing has changed.
pub const WAITERS: usize = 16;

/// How often a waiting report is looked at again without being told of a change: a port's owner can change unheard.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// The revision that the caller knows.
    after: Option<u64>,
    #[serde(default = "default_wait")]
    wait_seconds: u32,
}

fn default_wait() -> u32 {
    20
}

pub async fn report(
    State(app): AppState,
    query: Result<Query<Wait>, QueryRejection>,
    asked: UnverifiedRequest,
) -> Result<Json<AgentReport>, Refused> {
    admit(&app, asked).await?;
    let Query(wait) = query.map_err(|e| Refused::new(AgentRefusal::BadRequest, e.body_text()))?;
    if wait.wait_seconds > MAX_WAIT_SECONDS {
        return Err(Refused::new(AgentRefusal::BadRequest, format!("waitSeconds: 0 to {MAX_WAIT_SECONDS}")));
    }
    let place = app.waiters.try_acquire();
    let deadline = match (wait.after, &place) {
        (Some(_), Ok(_)) => Instant::now() + Duration::from_secs(wait.wait_seconds.into()),
        _ => Instant::now(),
    };
    let mut changes = app.changes.subscribe();
    loop {
        changes.mark_unchanged();
        let waits = wait.after.is_some();
        let report = on_disk(&app, move |app| Ok(if waits { app.report_of_changes() } else { app.report() })).await?;
        let now = Instant::now();
        if report.revision != wait.after || now >= deadline || app.shutdown.is_cancelled() {
            return Ok(Json(report));
        }
        tokio::select! {
            // It ends with the agent only.
            _ = changes.changed() => {}
            () = sleep_until(deadline.min(now + LOOK)) => {}
            () = app.shutdown.cancelled() => {}
        }
    }
}

//! One task per agent: asks for its report, and renews the care for its services.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    api::Kind,
    host::{Caller, CareRequest},
    store::Term,
};

use super::super::{
    driver::Triggers,
    llm_backend::Backends,
    shared::{AgentRegistry, NamespacedName},
};

/// How long an answer waits for a change; an agent that can't wait is asked so often.
const PERIOD: Duration = Duration::from_secs(2);
/// The least time between two requests, whatever changes.
const LEAST_GAP: Duration = Duration::from_millis(30);
/// Care is renewed three times before it runs out.
const CARE: Duration = Duration::from_secs(10);
const CARE_LASTS: u32 = 30;

/// A running poller.
pub struct Poller {
    pub uid: String,
    pub fingerprint: String,
    care: watch::Sender<Vec<String>>,
    _stop: DropGuard,
}

/// Whom a poller asks, and whom it tells.
pub struct Directions {
    pub key: NamespacedName,
    pub agents: AgentRegistry,
    pub term: Term,
    pub caller: Caller,
    pub backends: Arc<Backends>,
    pub triggers: Triggers,
}

impl Poller {
    pub fn start(uid: String, fingerprint: String, directions: Directions, care: Vec<String>) -> Self {
        let stop = CancellationToken::new();
        let (sender, cared_for) = watch::channel(care);
        tokio::spawn(poll(directions, cared_for, stop.clone()));
        Self { uid, fingerprint, care: sender, _stop: stop.drop_guard() }
    }

    /// Changes what is cared for.
    pub fn direct(&self, care: Vec<String>) {
        self.care.send_if_modified(|known| {
            let changed = *known != care;
            *known = care;
            changed
        });
    }
}

async fn poll(directions: Directions, mut cared_for: watch::Receiver<Vec<String>>, stop: CancellationToken) {
    let ended = directions.term.ended().clone();
    let mut next_care = Instant::now();
    let mut revision = None;
    loop {
        let asked = Instant::now();
        let answered = tokio::select! {
            () = stop.cancelled() => return,
            () = ended.cancelled() => return,
            answered = directions.ask(revision) => answered,
        };
        // Only a revision that can be waited on, and that is another one, is worth asking again at once.
        let gap = match answered {
            Some(new) if revision != Some(new) => LEAST_GAP,
            _ => PERIOD,
        };
        let next = if answered.is_some() { asked + gap } else { Instant::now() + PERIOD };
        revision = answered;
        let changed = cared_for.has_changed().unwrap_or(false);
        if Instant::now() >= next_care || changed {
            let services = cared_for.borrow_and_update().clone();
            directions.care(services).await;
            next_care = Instant::now() + CARE;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = ended.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

impl Directions {
    /// Waits for another revision than this one, or for its time to be over. Returns the report's revision; `None`: it failed,
    /// or the agent has none.
    async fn ask(&self, revision: Option<u64>) -> Option<u64> {
        let api = self.agents.api(&self.key)?;
        let result = match revision {
            Some(revision) => api.report_after(revision, PERIOD).await,
            None => api.report().await,
        };
        let answered = result.as_ref().ok().and_then(|report| report.revision);
        if self.agents.heard(&self.key, result, Timestamp::now()) {
            self.triggers.one(Kind::HostAgent, &self.key);
            for backend in self.backends.of_agent(&self.key) {
                self.backends.poke(&backend);
                self.triggers.one(Kind::LLMBackend, &backend);
            }
        }
        answered
    }

    /// Sent only while this leader can record and act: else the agent's own loop must take over.
    async fn care(&self, services: Vec<String>) {
        // Its lead was renewed just now, in the database.
        let leads = self.term.still_leads();
        let Some(api) = self.agents.api(&self.key).filter(|_| leads && !services.is_empty()) else { return };
        let request = CareRequest { services, seconds: CARE_LASTS };
        let cared = api.care(&request, self.caller).await;
        if let Err(error) = &cared {
            tracing::debug!(agent = %self.key, %error, "could not renew the care for services");
        }
        if self.agents.obeyed(&self.key, &cared) {
            self.triggers.one(Kind::HostAgent, &self.key);
        }
    }
}

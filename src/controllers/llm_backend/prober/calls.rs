//! The calls of a prober that take long: an inference in a slot, a pull.

use std::time::Duration;

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    engines::{Endpoint, EngineKind, Failure, InferRequest, KeepAlive, SendableModel, engine},
    host::Instance,
    store::{Slot, SlotAnswer, SlotPurpose, SlotRequest},
    telemetry::crash_point,
};

use super::{
    super::{
        super::shared::{Agents, Key},
        seen::Canaried,
    },
    Tools,
    task::Done,
};

/// CPU time per second of waiting from which on a server counts as working. Answering probes takes far less.
const WORKING: f64 = 0.05;
/// A pull that says nothing for this long has failed.
const PULL_STALL: Duration = Duration::from_secs(120);
/// An aborted streamed call frees its slot a second after the connection closed.
const LINGER: Duration = Duration::from_secs(1);

/// A one-token inference that is to be sent.
pub struct Canary {
    pub key: Key,
    pub engine: EngineKind,
    pub endpoint: Endpoint,
    pub server_url: String,
    pub service: Option<(Key, String)>,
    pub model: SendableModel,
    pub keep_alive: Option<KeepAlive>,
    pub timeout: Duration,
}

/// What came of it.
pub enum CanaryDone {
    /// No slot was free, or the database is away: without a slot nothing is sent.
    NoSlot,
    Asked {
        model: String,
        canaried: Canaried,
    },
}

impl Canary {
    pub async fn run(self, tools: &Tools) -> CanaryDone {
        let request = SlotRequest {
            server_url: self.server_url.clone(),
            holder: tools.holder.clone(),
            purpose: SlotPurpose::Canary,
            model: Some(self.model.as_str().to_owned()),
            lease: self.timeout + Duration::from_secs(10),
            call_within: self.timeout + Duration::from_secs(5),
        };
        let answer = match tools.store.take_slot(&request).await {
            Ok(SlotAnswer::Full { .. }) if self.free_former(tools).await => tools.store.take_slot(&request).await,
            answer => answer,
        };
        let slot = match answer {
            Ok(SlotAnswer::Given(slot)) => slot,
            Ok(SlotAnswer::Full { .. } | SlotAnswer::Closed | SlotAnswer::Spent) => return CanaryDone::NoSlot,
            Err(error) => {
                tracing::debug!(backend = %self.key, %error, "no canary without a slot");
                return CanaryDone::NoSlot;
            }
        };
        crash_point("canary.slot-taken");
        let cpu_before = cpu(&tools.agents, self.service.as_ref()).await;
        let (started_at, began) = (Timestamp::now(), Instant::now());
        let request =
            InferRequest { keep_alive: self.keep_alive, ..InferRequest::canary(self.model.clone(), self.timeout) };
        let result = engine(self.engine).infer(&self.endpoint, &request, &mut |_| {}).await;
        let ended_at = Timestamp::now();
        let timed_out = matches!(&result, Err(e) if matches!(e.failure, Failure::Timeout { .. }));
        let linger = if timed_out { LINGER } else { Duration::ZERO };
        if let Err(error) = tools.store.release_slot(&slot, linger).await {
            tracing::debug!(backend = %self.key, %error, "a canary's slot lapses by itself");
        }
        let cpu_advanced = match (timed_out, cpu_before) {
            (true, before @ Some(_)) => cpu_advanced(&tools.agents, self.service.as_ref(), before, began).await,
            _ => None,
        };
        let canaried =
            Canaried { started_at, ended_at, result: result.map(|_| ()).map_err(|e| e.failure), cpu_advanced };
        CanaryDone::Asked { model: self.model.as_str().to_owned(), canaried }
    }
}

impl Canary {
    /// Frees the canary slots of former leaders: one that died in the middle of its canary can't. The call of a dead process
    /// ended with its connection; that of a frozen one is a single token. Returns whether there were any.
    async fn free_former(&self, tools: &Tools) -> bool {
        let Ok(occupied) = tools.store.slots(&self.server_url).await else { return false };
        let mut freed = false;
        for row in occupied.iter().filter(|s| s.purpose == SlotPurpose::Canary && s.holder != tools.holder) {
            let slot = Slot {
                server_url: self.server_url.clone(),
                number: row.number,
                holder: row.holder.clone(),
                epoch: row.epoch,
            };
            freed |= tools.store.release_slot(&slot, Duration::ZERO).await.is_ok();
        }
        freed
    }
}

/// The CPU time that a service's processes have used so far.
pub async fn cpu(agents: &Agents, service: Option<&(Key, String)>) -> Option<(Instance, f64)> {
    let (agent, service) = service?;
    agents.cpu_seconds(agent, service).await
}

/// Whether the same processes have worked since then; `None` when nobody can tell.
pub async fn cpu_advanced(
    agents: &Agents,
    service: Option<&(Key, String)>,
    before: Option<(Instance, f64)>,
    since: Instant,
) -> Option<bool> {
    let (instance, used) = before?;
    let (now_instance, now_used) = cpu(agents, service).await?;
    (instance == now_instance).then(|| now_used - used > WORKING * since.elapsed().as_secs_f64())
}

/// Pulls a model, and reports percent.
pub async fn pull(kind: EngineKind, endpoint: Endpoint, model: String, reports: mpsc::UnboundedSender<Done>) {
    let mut on_progress = |progress: crate::engines::PullProgress| {
        let percent = i32::from(progress.percent);
        let _ = reports.send(Done::PullProgress { model: model.clone(), percent });
    };
    let result = engine(kind).pull(&endpoint, &model, PULL_STALL, &mut on_progress).await;
    let error = result.err().map(|e| e.to_string());
    let _ = reports.send(Done::Pulled { model, error });
}

//! The calls of a prober that take long: an inference in a slot, a pull; and samples of CPU time.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    engines::{Blame, Endpoint, EngineKind, Failure, PULL_STALL, ProofRequest, ProofShape, engine},
    host::Instance,
    store::{CallFault, FailedCall, ServedCall, Slot, SlotAnswer, SlotPurpose, SlotRequest, Store, StoreClass},
    telemetry::crash_point,
};

use super::{
    super::{
        super::shared::{AgentRegistry, NamespacedName},
        facts::CanaryResult,
        plan::CanaryOrder,
    },
    ProberTools,
    task::ProberReport,
};

/// CPU time per second of waiting from which on a server counts as working. Answering probes takes far less.
const WORKING: f64 = 0.05;
/// Samples closer to each other than this tell nothing.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(800);
/// An aborted streamed call frees its slot a second after the connection closed.
const LINGER: Duration = Duration::from_secs(1);

/// A one-token inference that is to be sent.
pub struct CanaryCall {
    pub key: NamespacedName,
    pub engine: EngineKind,
    pub endpoint: Endpoint,
    pub server_url: String,
    pub order: CanaryOrder,
    /// How the server was last asked with success.
    pub shape: Option<ProofShape>,
}

/// What came of it.
pub enum CanaryOutcome {
    /// No slot was free, or the database is away: without a slot nothing is sent.
    NoSlot,
    Asked(Box<CanaryAnswer>),
}

/// A canary that was sent.
pub struct CanaryAnswer {
    pub canaried: CanaryResult,
    /// The shape of question that the server answered.
    pub shape: Option<ProofShape>,
}

impl CanaryCall {
    pub async fn run(self, tools: &ProberTools) -> CanaryOutcome {
        let CanaryOrder { model, keep_alive, loads, timeout, longest, .. } = self.order.clone();
        let request = SlotRequest {
            server_url: self.server_url.clone(),
            holder: tools.holder.clone(),
            purpose: SlotPurpose::Canary,
            class: None,
            caller: None,
            model: Some(model.as_str().to_owned()),
            lease: longest + Duration::from_secs(10),
            call_within: longest + Duration::from_secs(5),
        };
        let answer = match tools.store.take_slot(&request).await {
            Ok(SlotAnswer::Full { .. }) if self.free_former(tools).await => tools.store.take_slot(&request).await,
            answer => answer,
        };
        let slot = match answer {
            Ok(SlotAnswer::Given(slot)) => slot,
            Ok(SlotAnswer::Full { .. } | SlotAnswer::Closed | SlotAnswer::Spent | SlotAnswer::Limited(_)) => {
                return CanaryOutcome::NoSlot;
            }
            Err(error) => {
                tracing::debug!(backend = %self.key, %error, "could not take a slot for a canary; will retry");
                return CanaryOutcome::NoSlot;
            }
        };
        crash_point("canary.slot-taken");
        let started_at = Timestamp::now();
        // A byte is life: only silence ends it before its time.
        let request = ProofRequest {
            keep_alive,
            first_byte_timeout: timeout,
            stall_timeout: timeout,
            hint: self.shape,
            ..ProofRequest::new(model.clone(), longest)
        };
        let asked = engine(self.engine).prove(&self.endpoint, &request, &mut |_| {}).await;
        let result = asked.map_err(|error| error.failure);
        let ended_at = Timestamp::now();
        let timed_out = matches!(&result, Err(Failure::Timeout { .. }));
        let linger = if timed_out { LINGER } else { Duration::ZERO };
        release(Arc::clone(&tools.store), slot, linger, longest).await;
        let shape = result.as_ref().ok().map(|proved| proved.shape);
        let model = model.as_str().to_owned();
        let canaried = CanaryResult { started_at, ended_at, model, loads, result: result.map(drop) };
        CanaryOutcome::Asked(Box::new(CanaryAnswer { canaried, shape }))
    }
}

/// Frees a canary's slot. While the database can't, it is tried again beside everything else: a slot that stays taken keeps work and
/// proofs back until its lease lapses.
async fn release(store: Arc<dyn Store>, slot: Slot, linger: Duration, longest: Duration) {
    let Err(error) = store.release_slot(&slot, linger).await else { return };
    tracing::warn!(server = slot.server_url, %error, "could not release the slot of a canary; trying again");
    tokio::spawn(async move {
        let lapses = Instant::now() + longest;
        while Instant::now() < lapses {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match store.release_slot(&slot, linger).await {
                Err(error) if error.class() == StoreClass::Passing => {}
                _ => return,
            }
        }
    });
}

/// What a canary shows, as calls of workers do; `None` where it blames the request, the configuration, or only its time was over.
pub fn evidence(canaried: &CanaryResult, number: u64) -> Option<Result<ServedCall, FailedCall>> {
    let CanaryResult { model, started_at: began_at, ended_at, result, .. } = canaried.clone();
    let failure = match result {
        Ok(()) => return Some(Ok(ServedCall { model, began_at, ended_at, request: "canary".into() })),
        Err(failure) => failure,
    };
    let fault = match (&failure, failure.fault()) {
        (Failure::Timeout { .. }, _) => return None,
        (Failure::OutOfMemory { .. }, _) => CallFault::OutOfMemory,
        (Failure::ModelTooLarge { .. }, _) => CallFault::ModelTooLarge,
        (_, Blame::Server) => CallFault::Failed,
        (_, Blame::Full) => CallFault::Full,
        (_, Blame::Request | Blame::Configuration | Blame::Unreachable) => return None,
    };
    let (message, request) = (failure.to_string(), format!("canary {number}"));
    Some(Err(FailedCall { model, began_at, ended_at, request, fault, message }))
}

impl CanaryCall {
    /// Frees the canary slots of former leaders: one that died in the middle of its canary can't. The call of a dead process
    /// ended with its connection; that of a frozen one is a single token. Returns whether there were any.
    async fn free_former(&self, tools: &ProberTools) -> bool {
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

/// Compares the CPU time of a service's processes with that of the last sample.
#[derive(Default)]
pub struct CpuSampler {
    last: Option<(Instance, f64, Instant, Timestamp)>,
}

/// What two samples of one process show.
pub struct CpuSample {
    /// As `pid@start`.
    pub instance: String,
    pub advanced: bool,
    pub since: Timestamp,
    pub until: Timestamp,
}

impl CpuSampler {
    /// `None` at the first sample of a process, and when nobody can tell. A sample older than `oldest` is no baseline: work of a
    /// minute ago says nothing of now.
    pub async fn sample(
        &mut self,
        agents: &AgentRegistry,
        service: Option<&(NamespacedName, String)>,
        oldest: Duration,
    ) -> Option<CpuSample> {
        let (agent, service) = service?;
        let (instance, used) = agents.cpu_seconds(agent, service).await?;
        let (at, until) = (Instant::now(), Timestamp::now());
        let before = self.last.take().filter(|(known, _, then, _)| *known == instance && then.elapsed() < oldest);
        if let Some((known, used_before, then, since)) = &before
            && then.elapsed() < BETWEEN_SAMPLES
        {
            self.last = Some((known.clone(), *used_before, *then, *since));
            return None;
        }
        self.last = Some((instance.clone(), used, at, until));
        let (_, used_before, then, since) = before?;
        let advanced = used - used_before > WORKING * (at - then).as_secs_f64();
        Some(CpuSample { instance: format!("{}@{}", instance.pid, instance.start_time), advanced, since, until })
    }
}

/// Pulls a model, and reports percent.
pub async fn pull(kind: EngineKind, endpoint: Endpoint, model: String, reports: mpsc::UnboundedSender<ProberReport>) {
    let mut on_progress = |progress: crate::engines::PullProgress| {
        let percent = i32::from(progress.percent);
        let _ = reports.send(ProberReport::PullProgress { model: model.clone(), percent });
    };
    let result = engine(kind).pull(&endpoint, &model, PULL_STALL, &mut on_progress).await;
    let error = result.err().map(|e| {
        let permanent = matches!(e.failure, Failure::ModelMissing { .. } | Failure::Rejected { .. });
        (e.to_string(), permanent)
    });
    let _ = reports.send(ProberReport::Pulled { model, error });
}

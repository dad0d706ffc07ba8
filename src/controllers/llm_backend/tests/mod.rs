//! The rules of docs/backends.md as tables and scenarios, on the pure core.

mod canary;
mod corpus;
mod healing;
mod histories;
mod invariants;
mod judging;
mod judging_calls;
mod processes;
mod script;
mod shown;
mod world;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::LLMBackendSpec,
    engines::{Failure, Listing, LoadedModel, ProbeVerdict},
    host::{DiskSpace, Hold, HoldOwner, Instance, Manager, SelfStarts, ServiceReport, ServiceState},
    store::{CallEvidence, CallFault, FailedCall, ServedCall},
};

use super::{
    evidence::BackendEvidence,
    facts::{AgentView, BackendFacts, BackendService, CanaryResult, CpuHistory, OpenBackendCall, ProbeResult},
    judge::BackendAssessment,
    memory::{BackendMemory, Proof},
    plan::decide,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_760_000_000 + seconds).unwrap()
}

fn spec(yaml: &str) -> LLMBackendSpec {
    serde_saphyr::from_str(yaml).unwrap()
}

fn ollama() -> LLMBackendSpec {
    spec(
        "{engine: Ollama, url: 'http://127.0.0.1:11434', models: [{name: small}], \
         recovery: {hostAgentRef: {name: mac}, service: ollama}}",
    )
}

fn mlx() -> LLMBackendSpec {
    spec(
        "{engine: MLX, url: 'http://127.0.0.1:11435', models: [{name: org/m}], \
         recovery: {hostAgentRef: {name: mac}, service: mlx}}",
    )
}

fn listing() -> ProbeVerdict {
    models(&["small:latest", "org/m", "small"])
}

fn models(names: &[&str]) -> ProbeVerdict {
    ProbeVerdict::Models(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().into())
}

/// Probes one second apart, the last one at `now`.
fn probed(verdicts: &[ProbeVerdict], now: Timestamp) -> BackendFacts {
    let mut seen = BackendFacts { generation: 1, ..BackendFacts::default() };
    for (i, verdict) in verdicts.iter().enumerate() {
        let ago = i64::try_from(verdicts.len() - 1 - i).unwrap();
        let probe = ProbeResult {
            at: now - SignedDuration::from_secs(ago),
            verdict: verdict.clone(),
            millis: 1,
            not_before: None,
        };
        seen.probes.push(probe, 3, 1);
    }
    seen
}

fn service(state: ServiceState) -> ServiceReport {
    ServiceReport {
        name: "ollama".into(),
        manager: Manager::Process,
        state,
        instance: (state != ServiceState::Stopped).then_some(Instance { pid: 7, start_time: 70 }),
        user: Some("ada".into()),
        wanted_user: None,
        cpu_seconds: Some(1.0),
        running_seconds: Some(60.0),
        accepting_since: None,
        last_exit: None,
        last_failure: None,
        holds: Vec::new(),
        port_owner: None,
        self_starts: SelfStarts::default(),
        failed_starts_in_row: 0,
        gave_up: false,
        out_of_memory_at: None,
        last_check: None,
        operation: None,
    }
}

fn heard(report: ServiceReport, now: Timestamp) -> AgentView {
    AgentView::Heard(Box::new(BackendService {
        heard_at: now,
        wanted_user: report.wanted_user.clone(),
        report,
        instance_since: None,
        exited_at: None,
        disk: Some(DiskSpace { free_bytes: 50 << 30, total_bytes: 100 << 30 }),
    }))
}

fn held(owner: HoldOwner, now: Timestamp) -> ServiceReport {
    let mut report = service(ServiceState::Stopped);
    report.holds.push(Hold { owner, reason: "upgrade".into(), since: now, until: None });
    report
}

fn timeout() -> Failure {
    Failure::Timeout { after: Duration::from_secs(15), tokens_seen: 0 }
}

fn error() -> Failure {
    Failure::ServerError { status: 500, detail: "x".into() }
}

/// A canary of 15 seconds.
fn canaried(result: Result<(), Failure>, ended_at: Timestamp) -> CanaryResult {
    let started_at = ended_at - SignedDuration::from_secs(15);
    CanaryResult { started_at, ended_at, model: "small".into(), loads: false, result }
}

/// What an agent told of the CPU of process `7@70` for a minute before `now`.
fn cpu(advanced: Option<bool>, now: Timestamp) -> CpuHistory {
    let mut cpu = CpuHistory::default();
    if let Some(advanced) = advanced {
        cpu.push("7@70".into(), advanced, now - SignedDuration::from_mins(1), now);
    }
    cpu
}

fn open(began: i64, last_byte: Option<i64>) -> OpenBackendCall {
    OpenBackendCall { model: Some("small".into()), began_at: at(began), last_byte_at: last_byte.map(at) }
}

fn served_call(model: &str, began_at: Timestamp, request: &str) -> ServedCall {
    let ended_at = began_at + SignedDuration::from_secs(1);
    ServedCall { model: model.into(), began_at, ended_at, request: request.into() }
}

/// A call of one second that was served.
fn served(began: i64) -> BackendEvidence {
    let served = vec![served_call("small", at(began), "task 1")];
    BackendEvidence::default().with(&CallEvidence { served, ..CallEvidence::default() })
}

fn failed_call(request: &str, ended: i64, fault: CallFault) -> FailedCall {
    let (began_at, ended_at) = (at(ended - 1), at(ended));
    let (model, message) = ("small".into(), "HTTP 500: model runner has unexpectedly stopped".into());
    FailedCall { model, began_at, ended_at, request: request.into(), fault, message }
}

fn failed(calls: &[(&str, i64, CallFault)]) -> BackendEvidence {
    let failed = calls.iter().map(|(request, ended, fault)| failed_call(request, *ended, *fault)).collect();
    BackendEvidence::default().with(&CallEvidence { failed, ..CallEvidence::default() })
}

/// Proved by a call that began then, and declared long before.
fn proved(at: Timestamp) -> BackendMemory {
    BackendMemory {
        generation: 1,
        generation_since: Some(at - SignedDuration::from_hours(1)),
        served_at: Some(at),
        proof: Some(Proof { generation: 1, at, served: "task 1 was served by small in 9 ms".into(), instance: None }),
        ..BackendMemory::default()
    }
}

fn loaded(name: &str, expires_at: Option<Timestamp>) -> LoadedModel {
    LoadedModel { name: name.into(), expires_at, size: 1, size_vram: 1 }
}

/// As a pass does: the proof is noted first.
fn judged(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &BackendMemory) -> BackendAssessment {
    judged_at(spec, seen, memory, at(0))
}

fn judged_at(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &BackendMemory, now: Timestamp) -> BackendAssessment {
    decide(spec, seen, memory, "e", now).0
}

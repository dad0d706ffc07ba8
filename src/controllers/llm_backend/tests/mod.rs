//! The rules of docs/backends.md as tables and scenarios, on the pure core.

mod canary;
mod healing;
mod invariants;
mod judging;
mod shown;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::LLMBackendSpec,
    engines::{Failure, LoadedModel, ProbeVerdict},
    host::{Hold, HoldOwner, Instance, Manager, SelfStarts, ServiceReport, ServiceState},
};

use super::{
    memory::{Memory, Proof},
    seen::{AgentService, AgentView, Canaried, Probed, Seen},
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
    ProbeVerdict::Models(vec!["small:latest".to_owned(), "org/m".to_owned()].into())
}

/// Probes one second apart, the last one at `now`.
fn probed(verdicts: &[ProbeVerdict], now: Timestamp) -> Seen {
    let mut seen = Seen { generation: 1, ..Seen::default() };
    for (i, verdict) in verdicts.iter().enumerate() {
        let ago = i64::try_from(verdicts.len() - 1 - i).unwrap();
        let probe = Probed { at: now - SignedDuration::from_secs(ago), verdict: verdict.clone(), millis: 1 };
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
    AgentView::Heard(Box::new(AgentService {
        heard_at: now,
        wanted_user: report.wanted_user.clone(),
        report,
        instance_since: None,
        disk_free_percent: Some(50.0),
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

fn canaried(result: Result<(), Failure>, cpu_advanced: Option<bool>, ended_at: Timestamp) -> Canaried {
    Canaried { started_at: ended_at - SignedDuration::from_secs(15), ended_at, result, cpu_advanced }
}

fn proved(at: Timestamp) -> Memory {
    Memory { proof: Some(Proof { generation: 1, at, instance: None }), ..Memory::default() }
}

fn loaded(name: &str, expires_at: Option<Timestamp>) -> LoadedModel {
    LoadedModel { name: name.into(), expires_at, size: 1, size_vram: 1 }
}

//! Proof: a served call of a declared model, by the process that runs now, of the spec as it is now. Nothing else is.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{CanaryWhen, EngineKind, LLMBackendSpec, Model},
    engines::{Blame, MLX_DEFAULT_MODEL, same_model},
    host::ServiceState,
    store::CallFault,
};

use super::{
    evidence::quote,
    facts::BackendFacts,
    memory::{BackendMemory, Proof, RecoveryPhase, RecoveryRun, RecoveryStep},
};

/// The time of the last served call is remembered this coarsely: work must not cost a write for each call.
const SERVED_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// Models that are remembered as running on a device.
const MOST_MODELS: usize = 64;

/// Models whose served calls prove the server; empty where none is declared, and any does.
pub fn models(spec: &LLMBackendSpec) -> Vec<String> {
    let mut models = asked(spec);
    if spec.engine == EngineKind::Mlx && !models.is_empty() {
        // The name under which it serves what it was started with.
        models.push(MLX_DEFAULT_MODEL.to_owned());
    }
    models
}

/// The names by which the server is asked for its models, the canary's own first.
pub fn asked(spec: &LLMBackendSpec) -> Vec<String> {
    let own = |model: &Model| model.own_name(spec.engine).into_owned();
    // Of a model with a context of its own, another name would load another one.
    let of_canary = |name: &String| {
        let declared = spec.models.iter().find(|model| same_model(spec.engine, &model.name, name));
        declared.map_or_else(|| name.clone(), own)
    };
    spec.canary.model.iter().map(of_canary).chain(spec.models.iter().map(own)).collect()
}

/// A call that began before this proves nothing: the spec, the process or the step of recovery is a later one.
pub fn needed_since(seen: &BackendFacts, memory: &BackendMemory) -> Option<Timestamp> {
    let episode = memory.episode.as_ref();
    let unresolved = episode.filter(|e| e.resolved_at.is_none()).map(|e| e.since);
    let step = episode.and_then(|e| e.running.as_ref()).map(|run| step_ended_at(seen, run).unwrap_or(Timestamp::MAX));
    let process = process_began_at(seen);
    memory.generation_since.max(seen.probes.last_down_at).max(unresolved).max(step).max(process)
}

/// When a step of recovery ended: as soon as an agent tells of the process that it made, else when its action was done.
pub fn step_ended_at(seen: &BackendFacts, run: &RecoveryRun) -> Option<Timestamp> {
    let made = process_began_at(seen).filter(|began| run.step == RecoveryStep::Restart && *began >= run.started_at);
    made.or(match run.phase {
        RecoveryPhase::Verifying { since } => Some(since),
        RecoveryPhase::Committed | RecoveryPhase::Sent { .. } | RecoveryPhase::Replacing { .. } => None,
    })
}

fn process_began_at(seen: &BackendFacts) -> Option<Timestamp> {
    seen.agent.service()?.instance_since
}

/// Whether the remembered proof holds for what runs now.
pub fn is_current(seen: &BackendFacts, memory: &BackendMemory) -> bool {
    let Some(proof) = &memory.proof else { return false };
    let same_process = match (&proof.instance, seen.agent.instance()) {
        (Some(then), Some(now)) => *then == now,
        // Somebody else's program has the port of the process that was proved.
        (Some(_), None) => seen.agent.service().is_none_or(|it| it.report.state != ServiceState::Foreign),
        _ => true,
    };
    proof.generation == seen.generation && same_process && Some(proof.at) >= needed_since(seen, memory)
}

/// Takes what was observed into the memory: the generation, the proof, and when something was last served.
pub fn note(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &mut BackendMemory, now: Timestamp) {
    if memory.generation != seen.generation || memory.generation_since.is_none() {
        memory.generation = seen.generation;
        memory.generation_since = Some(now);
    }
    let served = seen.evidence.last_served(spec.engine, &models(spec));
    if let Some(call) = served
        && memory.served_at.is_none_or(|at| call.ended_at > at + SERVED_EVERY)
    {
        memory.served_at = Some(call.ended_at);
    }
    for model in seen.loaded.iter().flatten().filter(|model| model.size_vram > 0) {
        if memory.on_device.len() < MOST_MODELS {
            memory.on_device.insert(model.name.clone());
        }
    }
    // Of this process, and since the step that made it ended: what one before said is over with it.
    let step = memory.episode.as_ref().and_then(|episode| episode.running.as_ref());
    let made = step.map(|run| step_ended_at(seen, run).unwrap_or(now)).max(process_began_at(seen));
    let full = full_since(seen, served.map(|call| call.ended_at).max(made), now);
    memory.full_since = full.map(|at| memory.full_since.filter(|kept| Some(*kept) > made).unwrap_or(at));
    if is_current(seen, memory) {
        return;
    }
    let since = needed_since(seen, memory);
    let by_call = served.filter(|call| Some(call.began_at) >= since).map(|call| (call.began_at, quote(call)));
    // Where no inference may be sent, a listing must do.
    let by_listing = || {
        let never = spec.canary.when == CanaryWhen::Never && seen.probes.answering == Some(true);
        let good = seen.probes.last_good.as_ref().filter(|probed| never && Some(probed.at) >= since)?;
        seen.probes.listed()?;
        Some((good.at, "its listing has the models, and canary.when is Never".to_owned()))
    };
    if let Some((at, served)) = by_call.or_else(by_listing) {
        memory.proof = Some(Proof { generation: seen.generation, at, served, instance: seen.agent.instance() });
    }
}

/// When the first word of having too much to do came, of those since something was served.
fn full_since(seen: &BackendFacts, served_at: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let by_calls = seen.evidence.failures(served_at, now, &[CallFault::Full]).first().map(|call| call.ended_at);
    let canary = seen.canary.failure_since(served_at).filter(|(_, failure)| failure.fault() == Blame::Full);
    let by_canary = canary.map(|(canary, _)| canary.ended_at);
    let by_probe = seen.probes.full_since.filter(|at| Some(*at) > served_at);
    [by_calls, by_canary, by_probe].into_iter().flatten().min()
}

/// Whether a model is known to be in memory: by the engine's word, else because this process has served it.
pub fn is_loaded(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &BackendMemory, model: Option<&str>) -> bool {
    let Some(model) = model else { return is_current(seen, memory) };
    let engine = spec.engine;
    if let Some(loaded) = &seen.loaded {
        return loaded.iter().any(|known| same_model(engine, &known.name, model));
    }
    let served = seen.evidence.last_served(engine, &[model.to_owned()]);
    served.is_some_and(|call| Some(call.began_at) >= needed_since(seen, memory))
}

//! What is served, as clients ask for it. No listing takes a slot.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, Method};
use futures::future::join_all;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::core::GatewayCore;
use crate::{
    calls::{self, Backend, KnownCaller},
    engines::{EngineKind, engine, same_model, words_of},
    protocols::{self, Ask, Listed, Operation, Refusal, RefusalReason},
};

/// A server that does not answer a listing within this is left out.
const WITHIN: Duration = Duration::from_secs(3);
const MOST: usize = 16 << 20;

pub(super) async fn models(core: &GatewayCore, caller: &KnownCaller) -> Result<Value, Refusal> {
    Ok(protocols::models(&listed(core, caller, None).await?))
}

pub(super) async fn model(core: &GatewayCore, caller: &KnownCaller, id: &str) -> Result<Value, Refusal> {
    let all = listed(core, caller, None).await?;
    let alias = core.view().alias(caller, id);
    let one = all.iter().find(|one| Some(&one.alias) == alias.as_ref());
    one.map(protocols::model).ok_or_else(|| unknown(id, &all))
}

pub(super) async fn tags(core: &GatewayCore, caller: &KnownCaller) -> Result<Value, Refusal> {
    let all = listed(core, caller, Some(EngineKind::Ollama)).await?;
    let view = core.view();
    let asked = ollamas(view.of(&caller.namespace)).map(|backend| async move {
        let told = pass(core, backend, Method::GET, "/api/tags", Vec::new()).await.ok()?;
        let told = told.get("models")?.as_array()?.clone();
        let of = |model: &crate::api::Model| {
            let is_meant = |one: &&Value| {
                one["name"].as_str().is_some_and(|name| same_model(EngineKind::Ollama, &model.name, name))
            };
            Some((model.asked_as().to_owned(), told.iter().find(is_meant)?.clone()))
        };
        Some(backend.spec.models.iter().filter_map(of).collect::<Vec<_>>())
    });
    // The first backend's word counts.
    let told = join_all(asked).await.into_iter().rev().flatten().flatten().collect();
    Ok(protocols::tags(&all, &told))
}

/// The aliases of what the Ollama servers have in memory.
pub(super) async fn loaded(core: &GatewayCore, caller: &KnownCaller) -> Result<Value, Refusal> {
    let view = core.view();
    let asked = ollamas(view.of(&caller.namespace)).map(|backend| async move {
        let target = core.targets.of(backend).await.ok()?;
        let loaded = engine(target.kind).loaded(&target.endpoint, WITHIN).await.ok()??;
        let each = loaded.into_iter().flat_map(|one| {
            let declared = backend.spec.models.iter().filter(|model| {
                same_model(target.kind, &model.own_name(target.kind), &one.name) && caller.may_ask_for(model.asked_as())
            });
            let of = |model: &crate::api::Model| (model.asked_as().to_owned(), one.size, one.size_vram, one.expires_at);
            declared.map(of).collect::<Vec<_>>()
        });
        Some(each.collect::<Vec<_>>())
    });
    let mut all: Vec<_> = join_all(asked).await.into_iter().flatten().flatten().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|a, b| a.0 == b.0);
    Ok(protocols::loaded_models(&all))
}

/// Clients do what the server's version can: so it is the lowest.
pub(super) async fn version(core: &GatewayCore, caller: &KnownCaller) -> Result<Value, Refusal> {
    let view = core.view();
    let asked = ollamas(view.of(&caller.namespace)).map(|backend| async move {
        let answer = pass(core, backend, Method::GET, "/api/version", Vec::new()).await.ok()?;
        let version = answer.get("version")?.as_str()?.to_owned();
        let numbers: Vec<u64> = version.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
        Some((numbers, version))
    });
    let lowest = join_all(asked).await.into_iter().flatten().min();
    let none = || Refusal::new(RefusalReason::Unavailable, "no Ollama server answers: its version is not known");
    lowest.map(|(_, version)| json!({"version": version})).ok_or_else(none)
}

/// What an Ollama server says of the model behind an alias.
pub(super) async fn show(core: &Arc<GatewayCore>, caller: &KnownCaller, body: &[u8]) -> Result<Value, Refusal> {
    #[derive(Deserialize)]
    struct Show {
        model: Option<String>,
        name: Option<String>,
        #[serde(default)]
        verbose: bool,
    }
    let wrong = |why: String| Refusal::new(RefusalReason::Invalid, why);
    let Show { model, name, verbose } =
        serde_json::from_slice(body).map_err(|error| wrong(format!("the body is not what is expected: {error}")))?;
    // Ollama's own client sends both, one of them empty.
    let given = |name: Option<String>| name.filter(|name| !name.is_empty());
    let asked = given(model).or(given(name)).ok_or_else(|| wrong("model is missing".to_owned()))?;
    let view = core.view();
    let Some(alias) = view.alias(caller, &asked) else {
        return Err(unknown(&asked, &listed(core, caller, Some(EngineKind::Ollama)).await?));
    };
    let mut why = format!("no Ollama server serves {alias:?}: only Ollama tells of its models");
    for backend in ollamas(view.serving(&caller.namespace, &alias)) {
        let Some(model) = backend.spec.models.iter().find(|model| model.asked_as() == alias) else { continue };
        let body = json!({"model": model.own_name(EngineKind::Ollama), "verbose": verbose}).to_string().into_bytes();
        match pass(core, backend, Method::POST, "/api/show", body).await {
            Ok(shown) => return Ok(shown),
            Err(told) => why = format!("{}: {told}", backend.row.name),
        }
    }
    Err(Refusal::new(RefusalReason::UnknownModel, why))
}

/// How long a prompt is, as far as that can be told without asking an engine: it takes no slot.
pub(super) fn count_tokens(core: &GatewayCore, caller: &KnownCaller, body: &[u8]) -> Result<Value, Refusal> {
    let ask = Ask::read(Operation::Messages, body)
        .map_err(|error| Refusal { field: error.field, ..Refusal::new(RefusalReason::Invalid, error.message) })?;
    let view = core.view();
    if view.alias(caller, &ask.model).is_none() {
        return Err(unserved(&ask.model, &view.aliases(caller).into_iter().collect::<Vec<_>>()));
    }
    Ok(json!({"input_tokens": ask.prompt_estimate()}))
}

fn ollamas<'a>(backends: impl Iterator<Item = &'a Backend>) -> impl Iterator<Item = &'a Backend> {
    backends.filter(|backend| backend.spec.engine == EngineKind::Ollama)
}

/// Asks a server something that takes no slot; the error is in its words.
async fn pass(
    core: &GatewayCore,
    backend: &Backend,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<Value, String> {
    let target = core.targets.of(backend).await?;
    let until = Instant::now() + WITHIN;
    let reply =
        target.endpoint.pass(method, path, HeaderMap::new(), body, until).await.map_err(|broken| broken.to_string())?;
    if reply.status() != StatusCode::OK {
        return Err(words_of(&reply.refusal().await));
    }
    let body = reply.whole(MOST).await.map_err(|broken| broken.to_string())?;
    serde_json::from_slice(&body).map_err(|_| "its answer is no JSON".to_owned())
}

async fn listed(core: &GatewayCore, caller: &KnownCaller, only: Option<EngineKind>) -> Result<Vec<Listed>, Refusal> {
    let view = core.view();
    let servers = calls::servers(&view.backends, &*core.store, |_| false).await.map_err(|error| {
        Refusal::new(RefusalReason::Unavailable, format!("what is served is not known now: {error}"))
    })?;
    Ok(view.listed(&servers, caller, only))
}

fn unknown(asked: &str, all: &[Listed]) -> Refusal {
    unserved(asked, &all.iter().map(|one| one.alias.as_str()).collect::<Vec<_>>())
}

fn unserved(asked: &str, aliases: &[&str]) -> Refusal {
    let asked: String = asked.chars().take(200).collect();
    let there = if aliases.is_empty() { "none".to_owned() } else { aliases.join(", ") };
    Refusal {
        field: Some("model"),
        ..Refusal::new(RefusalReason::UnknownModel, format!("no server serves {asked:?}; there are: {there}"))
    }
}

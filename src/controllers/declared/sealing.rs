//! Secrets that workers need, sealed in the database: workers read that alone. Without a key nothing is handed over.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::ResourceExt;

use crate::{
    api::TextKind,
    base::tick,
    platform::PlatformError,
    store::{StoreError, Term, seal},
    telemetry::Beat,
};

use super::ControlPlane;

const PERIOD: Duration = Duration::from_secs(10);

/// Keeps them as they are declared, for one term.
pub async fn seal_secrets(world: Arc<ControlPlane>, term: Term, beat: Beat) {
    let Some(key) = world.parts.sealing.clone() else {
        loop {
            beat.beat();
            tick(PERIOD).await;
        }
    };
    loop {
        beat.beat();
        let feeds = &world.feeds;
        let complete = feeds.backends.is_whole() && feeds.experts.is_whole() && feeds.queues.is_complete();
        if complete
            && world.book.is_loaded()
            && term.still_leads()
            && let Err(error) = seal_all(&world, &key, &term).await
        {
            tracing::warn!(%error, "could not hand Secrets over to workers; will retry");
        }
        tick(PERIOD).await;
    }
}

async fn seal_all(world: &ControlPlane, key: &seal::Key, term: &Term) -> Result<(), StoreError> {
    let mut kept = Vec::new();
    let platform = &world.parts.platform;
    for ((namespace, name), uses) in wanted(world) {
        let uid = seal::uid(&namespace, &name);
        let found = match uses {
            Use::Credential => platform.secret(&namespace, &name).await,
            Use::Prompt => platform.prompt_secret(&namespace, &name).await,
        };
        match found {
            Ok(data) => match seal::seal(key, &namespace, &name, &data, world.book.row(&uid).as_ref()) {
                Ok(row) => {
                    world.book.project(term.fence(), row).await?;
                    kept.push(uid);
                }
                Err(error) => tracing::warn!(namespace, name, %error, "a Secret was not sealed"),
            },
            // What is not there, or may not be read, is nobody's any more.
            Err(PlatformError::NotFound(_) | PlatformError::Forbidden(_)) => {}
            // While the API server is away the last good value serves.
            Err(error) => {
                tracing::debug!(namespace, name, %error, "could not read a Secret; its last value stays");
                kept.push(uid);
            }
        }
    }
    let rows = world.book.rows(seal::KIND);
    // Who refers to what in a namespace that can't be read is unknown.
    let is_known = |namespace: &str| world.feeds.backends.knows(namespace) && world.feeds.experts.knows(namespace);
    kept.extend(rows.iter().filter(|row| !is_known(&row.namespace)).map(|row| row.uid.clone()));
    let stale = rows.iter().any(|row| !kept.contains(&row.uid));
    if stale {
        world.book.sweep(term.fence(), seal::KIND, &kept).await?;
    }
    Ok(())
}

/// What a Secret is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// What models are told: its owner must permit that.
    Prompt,
    /// It authenticates calls.
    Credential,
}

/// Tokens of backends, what signs the calls of webhooks, and system prompts.
fn wanted(world: &ControlPlane) -> BTreeMap<(String, String), Use> {
    let mut wanted: BTreeMap<(String, String), Use> = BTreeMap::new();
    let mut want_for = |namespace: Option<String>, name: Option<&String>, uses: Use| {
        let Some(name) = name else { return };
        let known = wanted.entry((namespace.unwrap_or_default(), name.clone())).or_insert(uses);
        *known = uses.max(*known);
    };
    for expert in world.feeds.experts.objects.state() {
        let prompt = expert.spec.system_prompt_ref.as_ref().filter(|reference| reference.kind == TextKind::Secret);
        want_for(expert.namespace(), prompt.map(|reference| &reference.name), Use::Prompt);
    }
    let mut want = |namespace: Option<String>, name: Option<&String>| want_for(namespace, name, Use::Credential);
    for backend in world.feeds.backends.objects.state() {
        want(backend.namespace(), backend.spec.auth_secret_ref.as_ref().map(|s| &s.name));
    }
    for expert in world.feeds.experts.objects.state() {
        let hook = expert.spec.webhook.as_ref();
        want(expert.namespace(), hook.and_then(|hook| hook.secret_ref.as_ref()).map(|s| &s.name));
    }
    wanted
}

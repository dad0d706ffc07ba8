//! Secrets that workers need, sealed in the database: workers read that alone. Without a key nothing is handed over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::ResourceExt;

use crate::{
    platform::PlatformError,
    store::{StoreError, Term, seal},
    telemetry::Beat,
};

use super::World;

const PERIOD: Duration = Duration::from_secs(10);

/// Keeps them as they are declared, for one term.
pub async fn seal_secrets(world: Arc<World>, term: Term, beat: Beat) {
    let Some(key) = world.parts.sealing.clone() else {
        loop {
            beat.beat();
            tokio::time::sleep(PERIOD).await;
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
            tracing::warn!(%error, "secrets for workers were not handed over");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn seal_all(world: &World, key: &seal::Key, term: &Term) -> Result<(), StoreError> {
    let mut kept = Vec::new();
    for (namespace, name) in wanted(world) {
        let uid = seal::uid(&namespace, &name);
        match world.parts.platform.secret(&namespace, &name).await {
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
                tracing::debug!(namespace, name, %error, "a Secret was not read");
                kept.push(uid);
            }
        }
    }
    let stale = world.book.rows(seal::KIND).iter().any(|row| !kept.contains(&row.uid));
    if stale {
        world.book.sweep(term.fence(), seal::KIND, &kept).await?;
    }
    Ok(())
}

/// Tokens of backends, and what signs the calls of webhooks.
fn wanted(world: &World) -> BTreeSet<(String, String)> {
    let mut wanted = BTreeSet::new();
    let mut want = |namespace: Option<String>, name: Option<&String>| {
        wanted.extend(name.map(|name| (namespace.unwrap_or_default(), name.clone())));
    };
    for backend in world.feeds.backends.objects.state() {
        want(backend.namespace(), backend.spec.auth_secret_ref.as_ref().map(|s| &s.name));
    }
    for expert in world.feeds.experts.objects.state() {
        let hook = expert.spec.webhook.as_ref();
        want(expert.namespace(), hook.and_then(|hook| hook.secret_ref.as_ref()).map(|s| &s.name));
    }
    wanted
}

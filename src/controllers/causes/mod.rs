//! Causes of what is unhealthy, and whoever is to be told of them: looked at every few seconds by the leader, which writes what changed.
//!
//! `observe` reads, `causes::derive`, `follow` and `due` decide, this loop writes and sends. What was sent is recorded after it
//! arrived, so that a leader that dies in between makes its successor send again.

mod backend;
mod book;
mod observe;
mod rest;
mod send;
mod work;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::Kind,
    base::Ticker,
    causes::{AGAIN_WITHIN, derive, due, follow},
    store::{StoreError, Term, Topics},
    telemetry::Beat,
};

use super::{declared::ControlPlane, shared::NamespacedName};

pub use book::{CauseBook, NotifierBook};
pub use observe::quiet_time;

const PERIOD: Duration = Duration::from_secs(5);
/// After this machine slept, nobody is told before what it reaches was looked at again.
const AFTER_SLEEP: SignedDuration = SignedDuration::from_secs(60);
/// How long causes and what was told of them are kept.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How often old ones are looked for.
const PRUNE: SignedDuration = SignedDuration::from_hours(1);

/// Keeps causes and deliveries as they should be, for one term.
pub async fn watch_causes(world: Arc<ControlPlane>, term: Term, beat: Beat) {
    let mut wishes = world.parts.store.follow(Topics::WISHES);
    let mut sender = send::Sender::new(&world, term.clone());
    let mut work = work::WorkWatch::new(&world);
    let mut ticker = Ticker::new(PERIOD);
    let mut pruned_at: Option<Timestamp> = None;
    loop {
        beat.beat();
        tokio::select! {
            () = ticker.tick() => {}
            () = sender.arrived() => {
                sender.record().await;
                continue;
            }
        }
        if !term.still_leads() || !is_known(&world) {
            continue;
        }
        let now = Timestamp::now();
        if (wishes.take() || !world.causes.is_loaded())
            && let Err(error) = load(&world, now).await
        {
            tracing::debug!(%error, "could not read causes; will retry");
            continue;
        }
        let slept = world.shared.wake.woke_at().is_some_and(|woke| now < woke + AFTER_SLEEP);
        let passed = if slept { Ok(()) } else { pass(&world, &term, &mut work, now).await };
        if let Err(error) = &passed {
            tracing::warn!(%error, "could not write causes; will retry");
        }
        if pruned_at.is_none_or(|at| now.duration_since(at) >= PRUNE) {
            match world.parts.store.prune_causes(term.fence(), now - KEPT).await {
                Ok(_) => pruned_at = Some(now),
                Err(error) => tracing::debug!(%error, "could not delete old causes; will retry"),
            }
        }
        sender.record().await;
        sender.send(now, passed.is_ok()).await;
        let Some(causes) = world.causes.causes() else { continue };
        world.parts.metrics.causes.show(causes.iter().map(|known| &known.cause).filter(|cause| cause.is_root()));
    }
}

/// Whether all that is declared was listed, so that what is not there does not exist.
fn is_known(world: &ControlPlane) -> bool {
    let feeds = &world.feeds;
    feeds.backends.is_complete()
        && feeds.agents.is_complete()
        && feeds.checks.is_complete()
        && feeds.experts.is_complete()
        && feeds.queues.is_complete()
        && feeds.pools.is_complete()
        && feeds.schedules.is_complete()
        && world.book.is_loaded()
}

async fn load(world: &ControlPlane, now: Timestamp) -> Result<(), StoreError> {
    let causes = world.parts.store.causes(now - KEPT).await?;
    let deliveries = if world.causes.is_loaded() { None } else { Some(world.parts.store.deliveries().await?) };
    world.causes.load(causes, deliveries, now);
    Ok(())
}

async fn pass(world: &ControlPlane, term: &Term, work: &mut work::WorkWatch, now: Timestamp) -> Result<(), StoreError> {
    let Some(known) = world.causes.causes() else { return Ok(()) };
    let facts = observe::facts(world, work, &known, now).await?;
    let recent = |at: Option<Timestamp>| at.is_none_or(|at| now.duration_since(at) < AGAIN_WITHIN);
    let open: Vec<_> = known.iter().map(|k| &k.cause).filter(|c| recent(c.resolved_at)).cloned().collect();
    let changed = follow(&open, &derive(&facts, now), &facts, now);
    for cause in &changed {
        match (&cause.resolved_at, &cause.folded_into) {
            (Some(_), _) => tracing::info!(cause = cause.key, ended = cause.ended, "cause is resolved"),
            (None, Some(other)) => tracing::info!(cause = cause.key, other, "cause is a symptom of another one"),
            (None, None) => tracing::debug!(cause = cause.key, title = cause.title, "cause is open"),
        }
    }
    let next = book::merged(&known, &changed);
    let mut deliveries = Vec::new();
    let mut touched = Vec::new();
    for (object, audience) in observe::audiences(world) {
        let due = due(&audience, &next, &world.causes.deliveries_of(&audience.uid), now);
        if !due.is_empty() {
            touched.push(NamespacedName::of(&*object));
            deliveries.extend(due);
        }
    }
    if changed.is_empty() && deliveries.is_empty() {
        return Ok(());
    }
    world.parts.store.put_causes(term.fence(), &changed, &deliveries).await?;
    world.causes.put(&changed, &deliveries, now);
    touched.iter().for_each(|key| world.triggers.one(Kind::Notifier, key));
    Ok(())
}

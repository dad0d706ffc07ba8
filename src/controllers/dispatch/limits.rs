//! Moves each server's limit with what workers report of their calls. What is known survives a change of leader.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::{
    api::Kind,
    base::tick,
    controllers::{
        Parts,
        driver::Triggers,
        shared::{NamespacedName, ServerLimit, ServerLimits, SlotWatch},
    },
    store::{BackendRow, SlotRow, Store, StoreError, Topics, WorkerRow, world},
    tasks::{
        limits::{Adaptive, Bounds, Heard, Sample},
        parallel::SampledCall,
    },
};

use super::LoopContext;

/// While anything goes on at a server, and for a while after.
const PERIOD: Duration = Duration::from_secs(2);
/// Limits follow pauses of calls, too: so long after the last change they are looked at once more.
const SELDOM: Duration = Duration::from_secs(60);
/// How long something goes on after it was told last.
const LASTING: Duration = Duration::from_secs(20);
/// The document that a successor goes on from.
const DOCUMENT: &str = "limits";
/// It is written when a limit moved, and so often that paces are not far off.
const SAVED: SignedDuration = SignedDuration::from_secs(60);
/// Two looks at one report see its time at most this far apart.
const SAME: SignedDuration = SignedDuration::from_millis(500);
/// Failures are counted together for so long.
const FAILED: SignedDuration = SignedDuration::from_secs(60);

type Known = BTreeMap<String, Adaptive>;

pub async fn run(context: LoopContext, limits: ServerLimits, slots: SlotWatch, triggers: Triggers) {
    let mut known: Known = loop {
        context.beat.beat();
        if let Some(known) = context.note("limits of the last leader", restored(&*context.store).await) {
            break known;
        }
        tick(PERIOD).await;
    };
    let mut reports = Reports::default();
    let mut saved = (Timestamp::now(), known.clone());
    let mut changes = context.store.follow(Topics::REPORTS | Topics::WORLD | Topics::STARTED | Topics::ENDED);
    let mut changed_at = Instant::now();
    loop {
        context.beat.beat();
        let now = Timestamp::now();
        if let Some(moved) = context.note("adapt limits", pass(&context, &slots, &mut known, &mut reports, now).await) {
            limits.put(in_force(&known));
            for backend in &moved {
                triggers.one(Kind::LLMBackend, &NamespacedName::new(&backend.namespace, &backend.name));
            }
            let due = !moved.is_empty() || now.duration_since(saved.0) > SAVED;
            if due && known != saved.1 && context.note("keep limits", save(&context, &known).await).is_some() {
                saved = (now, known.clone());
            }
        }
        tick(PERIOD).await;
        if changes.take() || slots.is_busy() {
            changed_at = Instant::now();
        }
        // In parts, so that the loop is seen to be alive.
        let asleep = Instant::now();
        while changed_at.elapsed() > LASTING && asleep.elapsed() < SELDOM {
            context.beat.beat();
            if changes.changed(SELDOM / 3).await {
                changed_at = Instant::now();
            }
        }
    }
}

/// What holds until this term's first look: a change of leader moves no limit.
pub async fn limits_of_last_leader(parts: &Parts) -> ServerLimits {
    let limits = ServerLimits::default();
    match restored(&*parts.store).await {
        Ok(known) => limits.put(in_force(&known)),
        Err(error) => tracing::warn!(%error, "could not read the last limits; starting from the maximum"),
    }
    limits
}

fn in_force(known: &Known) -> HashMap<String, ServerLimit> {
    let limit = |server: &Adaptive| ServerLimit { limit: server.limit, limited_by: server.limited_by() };
    known.iter().map(|(url, server)| (url.clone(), limit(server))).collect()
}

async fn restored(store: &dyn Store) -> Result<Known, StoreError> {
    let document = store.recovery(DOCUMENT).await?;
    // One of another release is no loss: limits start from their maximum.
    Ok(document.and_then(|document| serde_json::from_value(document).ok()).unwrap_or_default())
}

async fn save(context: &LoopContext, known: &Known) -> Result<(), StoreError> {
    let document = serde_json::to_value(known).map_err(|e| StoreError::Broken(e.to_string()))?;
    context.store.save_recovery(context.term.fence(), DOCUMENT, &document).await
}

/// Takes in what is new; returns the backends whose limit moved.
async fn pass(
    context: &LoopContext,
    slots: &SlotWatch,
    known: &mut Known,
    reports: &mut Reports,
    now: Timestamp,
) -> Result<Vec<BackendRow>, StoreError> {
    let backends = context.store.backends().await?;
    let mut news = reports.news(context.store.workers().await?, now);
    known.retain(|url, _| backends.iter().any(|b| b.server_url == *url));
    let mut moved = Vec::new();
    for backend in backends {
        let Some(spec) = world::backend_spec(&backend) else { continue };
        let max = spec.max_concurrency();
        let bounds = Bounds { min: spec.concurrency.min.clamp(1, max), max, adaptive: spec.concurrency.adaptive };
        // Backends that share a server share what is heard of it.
        let mut heard = news.remove(&backend.server_url).unwrap_or_default();
        let occupied = slots.of(&backend.server_url);
        heard.calls = occupied.calls.iter().filter_map(open_call).collect();
        heard.more_waits = occupied.waiting > 0;
        let server = known.entry(backend.server_url.clone()).or_insert_with(|| Adaptive::new(bounds, now));
        let before = server.limit;
        if let Some(why) = server.observe(bounds, &heard, now) {
            tracing::info!(
                backend = %format_args!("{}/{}", backend.namespace, backend.name),
                limit = server.limit, %why, "lowered the limit of a server"
            );
        }
        if server.limit != before {
            moved.push(backend);
        }
    }
    Ok(moved)
}

fn open_call(slot: &SlotRow) -> Option<SampledCall> {
    Some(SampledCall {
        slot: (slot.number, slot.epoch),
        model: slot.model.clone(),
        began_at: slot.call_began_at?,
        last_byte_at: slot.last_byte_at,
    })
}

/// Which reports were taken in: a report stays in its row until the next one.
#[derive(Default)]
struct Reports {
    seen: HashMap<String, Timestamp>,
}

impl Reports {
    /// What workers reported since the last time, by server.
    fn news(&mut self, rows: Vec<WorkerRow>, now: Timestamp) -> HashMap<String, Heard> {
        let mut news: HashMap<String, Heard> = HashMap::new();
        let mut still = HashMap::new();
        let mut failed: HashMap<String, BTreeSet<String>> = HashMap::new();
        for WorkerRow { report, age } in rows {
            let at = now - SignedDuration::try_from(age).unwrap_or_default();
            let before = self.seen.get(&report.holder).copied();
            let is_new = before.is_none_or(|before| at.duration_since(before) > SAME);
            for of in report.evidence {
                let failures = of.failed.into_iter().filter(|call| {
                    // The worker's clock may differ from ours.
                    at + call.ended_at.duration_since(report.reported_at) > now - FAILED
                });
                failed.entry(of.server_url).or_default().extend(failures.map(|call| call.request));
            }
            still.insert(report.holder, if is_new { at } else { before.unwrap_or(at) });
            for calls in report.calls.into_iter().filter(|_| is_new) {
                let sample = Sample {
                    calls: calls.calls,
                    errors: calls.errors,
                    tokens: calls.tokens,
                    token_millis: calls.token_millis,
                };
                let of_model = news.entry(calls.server_url).or_default().samples.entry(calls.model).or_default();
                *of_model = of_model.plus(sample);
            }
        }
        self.seen = still;
        for (url, requests) in failed {
            news.entry(url).or_default().failed_requests = requests.len();
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CallStats, WorkerReport};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn row(holder: &str, age_millis: u64, tokens: i64) -> WorkerRow {
        let calls = CallStats {
            server_url: "http://mlx".into(),
            model: "m".into(),
            calls: 1,
            errors: 0,
            tokens,
            token_millis: tokens * 30,
        };
        let report = WorkerReport {
            holder: holder.into(),
            namespace: "default".into(),
            pool: "smart".into(),
            host: "here".into(),
            in_flight: 1,
            effective_concurrency: 15,
            limited_by: "Tasks".into(),
            draining: false,
            calls: vec![calls],
            evidence: Vec::new(),
            open_calls: Vec::new(),
            reported_at: Timestamp::UNIX_EPOCH,
        };
        WorkerRow { report, age: Duration::from_millis(age_millis) }
    }

    #[test]
    fn a_report_counts_once_however_often_it_is_seen() {
        let mut reports = Reports::default();
        let tokens = |reports: &mut Reports, rows: Vec<WorkerRow>, now: i64| {
            reports.news(rows, at(now)).get("http://mlx").map_or(0, |heard| heard.samples["m"].tokens)
        };
        // Each row: holder, age, tokens.
        assert_eq!(tokens(&mut reports, vec![row("a", 1_000, 10), row("b", 0, 5)], 10_000), 15);
        assert_eq!(tokens(&mut reports, vec![row("a", 3_040, 10), row("b", 2_000, 5)], 12_000), 0);
        assert_eq!(tokens(&mut reports, vec![row("a", 200, 7), row("b", 4_000, 5)], 14_000), 7);
        assert_eq!(tokens(&mut reports, vec![row("b", 100, 9)], 16_000), 9);
    }
}

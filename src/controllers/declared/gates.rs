//! Gates: what must hold before a queue's tasks are started, or a schedule fires.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::{
    api::{Kind, Requirement},
    base::tick,
    store::{DeclaredRow, Term, Topics},
    telemetry::Beat,
};

use super::ControlPlane;

const PERIOD: Duration = Duration::from_secs(1);
/// Backends are read when they change, and so often in case that nobody told.
const FRESH: Duration = Duration::from_secs(30);

/// A condition of another resource, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequirementObserved {
    /// No such resource.
    Missing,
    /// It is there, and its condition was not judged yet.
    Unknown,
    Judged {
        holds: bool,
        /// Since when it has been so.
        since: Option<Timestamp>,
        reason: String,
    },
}

/// Whether everything that is required holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// For what it waits, since when: no ages, so that it stays the same while nothing changes. `None`: it is open.
    pub held: Option<String>,
    /// When it opens by itself if nothing changes.
    pub opens_at: Option<Timestamp>,
}

/// Judges requirements. An unknown `since` counts as now: nothing is started too early.
pub fn evaluate(requirements: &[(Requirement, RequirementObserved)], now: Timestamp) -> Gate {
    let mut waits = Vec::new();
    let mut opens_at = Some(now);
    for (requirement, observed) in requirements {
        if let Some((wait, until)) = lacking(requirement, observed, now) {
            waits.push(wait);
            opens_at = opens_at.zip(until).map(|(a, b)| a.max(b));
        }
    }
    if waits.is_empty() {
        return Gate::default();
    }
    Gate { held: Some(format!("waits for {}", waits.join("; and for "))), opens_at }
}

/// What of one requirement does not hold yet, and until when, if that can be told.
fn lacking(
    requirement: &Requirement,
    found: &RequirementObserved,
    now: Timestamp,
) -> Option<(String, Option<Timestamp>)> {
    let Requirement { kind, name, condition, for_seconds } = requirement;
    let what = format!("{} {name}", kind.as_str());
    let long = for_seconds.map_or_else(String::new, |seconds| format!(" for {seconds} s"));
    match found {
        RequirementObserved::Missing => Some((format!("{what} to be {condition}{long}: it is not there"), None)),
        RequirementObserved::Unknown => Some((format!("{what} to be {condition}{long}: that is not known yet"), None)),
        RequirementObserved::Judged { holds: false, since, reason } => {
            let since = since.map_or_else(String::new, |at| format!(" since {}", second(at)));
            Some((format!("{what} to be {condition}{long}: it is not ({reason}){since}"), None))
        }
        RequirementObserved::Judged { holds: true, since, .. } => {
            let needed = SignedDuration::from_secs(for_seconds.unwrap_or(0).into());
            if needed.is_zero() {
                return None;
            }
            let Some(since) = since else {
                return Some((format!("{what} to be {condition}{long}: since when it is, is not known yet"), None));
            };
            let until = since.checked_add(needed).unwrap_or(Timestamp::MAX);
            (now < until).then(|| {
                let text = format!(
                    "{what} to be {condition}{long}: it is since {}, which will do at {}",
                    second(*since),
                    second(until)
                );
                (text, Some(until))
            })
        }
    }
}

fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Opens and closes gates as backends change and time goes by; from the projections alone, so also without the API server.
pub async fn watch_gates(world: Arc<ControlPlane>, term: Term, beat: Beat) {
    let mut changes = world.parts.store.follow(Topics::WORLD);
    let mut read_at: Option<Instant> = None;
    loop {
        tick(PERIOD).await;
        beat.beat();
        let rows: Vec<(DeclaredRow, Vec<Requirement>)> = world
            .book
            .rows(Kind::TaskQueue.as_str())
            .into_iter()
            .chain(world.book.rows(Kind::TaskSchedule.as_str()))
            .filter_map(|row| Some((requires(&row)?, row)))
            .map(|(requires, row)| (row, requires))
            .collect();
        if rows.is_empty() || !term.still_leads() {
            continue;
        }
        if changes.take() || read_at.is_none_or(|at| at.elapsed() >= FRESH) {
            world.read_backends().await;
            read_at = Some(Instant::now());
        }
        for (row, requires) in rows {
            let gate = evaluate(&world.requirements(&row.namespace, &requires), Timestamp::now());
            if gate.held == row.held {
                continue;
            }
            match world.book.hold(term.fence(), &row.uid, gate.held).await {
                Ok(()) => world.trigger(&row),
                Err(error) => {
                    tracing::warn!(kind = row.kind, name = row.name, %error, "could not open or close a gate; will retry");
                }
            }
        }
    }
}

/// Those of a projected spec; `None`: it has none.
fn requires(row: &DeclaredRow) -> Option<Vec<Requirement>> {
    let listed = row.spec.get("requires")?;
    serde_json::from_value(listed.clone()).ok().filter(|listed: &Vec<Requirement>| !listed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RequiredKind;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn required(name: &str, for_seconds: Option<i32>) -> Requirement {
        Requirement { kind: RequiredKind::LLMBackend, name: name.into(), condition: "Ready".into(), for_seconds }
    }

    fn is(holds: bool, since: i64) -> RequirementObserved {
        RequirementObserved::Judged { holds, since: Some(at(since)), reason: "Down".into() }
    }

    #[test]
    fn a_gate_opens_when_all_has_held_for_long_enough() {
        for (what, found, for_seconds, open, opens_at) in [
            ("ready, no time asked for", is(true, 0), None, true, None),
            ("ready for long enough", is(true, 0), Some(60), true, None),
            ("ready to the second", is(true, 40), Some(60), true, None),
            ("ready for a second less", is(true, 41), Some(60), false, Some(at(101))),
            ("not ready", is(false, 0), None, false, None),
            ("not ready for long", is(false, -9999), Some(60), false, None),
            ("not there", RequirementObserved::Missing, None, false, None),
            ("not judged", RequirementObserved::Unknown, Some(1), false, None),
            (
                "ready, nobody knows since when",
                RequirementObserved::Judged { holds: true, since: None, reason: String::new() },
                Some(5),
                false,
                None,
            ),
            ("ready in the future: clocks differ", is(true, 200), Some(60), false, Some(at(260))),
        ] {
            let gate = evaluate(&[(required("ollama", for_seconds), found)], at(100));
            assert_eq!(gate.held.is_none(), open, "{what}: {gate:?}");
            assert_eq!(gate.opens_at, opens_at, "{what}");
        }
        assert_eq!(evaluate(&[], at(0)), Gate::default(), "nothing is required");
    }

    #[test]
    fn everything_that_lacks_is_named_and_the_latest_time_counts() {
        let (a, b, c) = (required("a", Some(60)), required("b", Some(90)), required("c", None));
        let observed = |b_is| [(a.clone(), is(true, 100)), (b.clone(), b_is), (c.clone(), is(true, 0))];
        let gate = evaluate(&observed(is(true, 100)), at(100));
        assert_eq!(gate.opens_at, Some(at(190)));
        let held = gate.held.unwrap();
        assert!(
            held.contains("LLMBackend a") && held.contains("LLMBackend b") && !held.contains("LLMBackend c"),
            "{held}"
        );
        let gate = evaluate(&observed(is(false, 7)), at(100));
        assert_eq!(gate.opens_at, None, "nobody knows when b will be");
        assert!(gate.held.unwrap().contains("it is not (Down) since"));
    }

    #[test]
    fn what_is_said_does_not_change_with_time_alone() {
        let said = |now| evaluate(&[(required("a", Some(60)), is(true, 100))], at(now)).held;
        assert_eq!(said(101), said(159));
        assert_eq!(said(160), None);
    }
}

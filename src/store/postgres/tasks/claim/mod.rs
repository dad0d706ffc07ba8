//! The claim of tasks: one statement, which the transaction that takes a slot runs within itself.
//!
//! Order of locks: the server's row, tasks (those that somebody else has locked are skipped), places of experts by key. Whoever
//! ends or takes back tasks locks tasks by id and then places: so nobody waits in a circle.

mod refused;
mod statements;

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres, Row};

pub(super) use self::refused::unless as unless_refused;
pub(super) use self::statements::{CLAIM, CLAIM_EAGERLY};
use super::cursor::{Lane, Place};
use super::scheduling::move_due_now_and_then;
use crate::store::postgres::PostgresStore;
use crate::store::{BootInstant, Claimed, FreeClaim, Lease, Served, SlotClaim, StoreError};
use crate::tasks::{ClaimedTask, TaskId};

/// How often a claim tries again because the experts of what it found had fewer places than there were tasks.
const ROUNDS: usize = 3;

/// A lane, as one claim searches it.
pub(super) struct Search<'a> {
    pub lane: Lane,
    pub lease: &'a Lease,
    pub after: Place,
    loaded: bool,
}

/// What was claimed, and what the next claim needs to know.
#[derive(Default)]
pub(super) struct ClaimBatch {
    pub claimed: Vec<Claimed>,
    pub seen: ClaimProgress,
    /// Of what it found, experts had no places for some.
    cut: bool,
}

#[derive(Default)]
pub(super) struct ClaimProgress {
    /// For each search, the last place that it claimed.
    pub last: Vec<Option<Place>>,
    /// It left tasks behind for which their experts had no place.
    pub passed_over: bool,
}

/// The lanes of tasks that take no slot.
fn free_lanes(queues: &[Served]) -> Vec<Search<'_>> {
    queues.iter().map(|served| search(served, None, false)).collect()
}

/// The lanes of what a server may be asked for.
pub(super) fn slotted_lanes(claim: &SlotClaim) -> Vec<Search<'_>> {
    let asked = |served: &Served, model: &(String, String)| served.queue.namespace == model.0;
    claim
        .queues
        .iter()
        .flat_map(|served| claim.models.iter().map(move |model| (served, model)))
        .filter(|(served, model)| asked(served, model))
        .map(|(served, model)| search(served, Some(&model.1), claim.loaded.as_ref() == Some(model)))
        .collect()
}

fn search<'a>(served: &'a Served, model: Option<&String>, loaded: bool) -> Search<'a> {
    let lane =
        Lane { namespace: served.queue.namespace.clone(), queue: served.queue.name.clone(), model: model.cloned() };
    Search { lane, lease: &served.lease, after: Place::FIRST, loaded }
}

pub(super) async fn free(store: &PostgresStore, claim: &FreeClaim) -> Result<Vec<Claimed>, StoreError> {
    move_due_now_and_then(store).await?;
    let mut searches = free_lanes(&claim.queues);
    let began = BootInstant::now();
    store.work.begin(&mut searches, began);
    let searches = &searches[..];
    let batch = unless_refused(store, searches, i64::from(claim.most), move |most, without| {
        let asked = ClaimBounds { affinity: Duration::ZERO, most, without };
        store.within(async move {
            let mut session = store.session().await?;
            let mut batch = None;
            if store.work.is_busy() {
                batch = eagerly(session.connection(), searches, &asked).await?;
            }
            let batch = match batch {
                Some(batch) => batch,
                None => slotted(session.connection(), searches, &asked).await?,
            };
            session.end();
            store.work.note_busy(i64::try_from(batch.claimed.len()).is_ok_and(|claimed| claimed == asked.most));
            Ok(batch)
        })
    });
    let batch = batch.await?;
    store.work.claimed(searches, &batch.seen, began);
    Ok(batch.claimed)
}

/// How much of what is found is claimed.
#[derive(Clone)]
pub(super) struct ClaimBounds {
    pub affinity: Duration,
    pub most: i64,
    /// Tasks that are stepped over.
    pub without: Vec<TaskId>,
}

/// `None`: nothing was claimed, perhaps only because some expert has not enough places for what was found.
async fn eagerly(
    connection: &mut PgConnection,
    searches: &[Search<'_>],
    asked: &ClaimBounds,
) -> Result<Option<ClaimBatch>, StoreError> {
    let mut batch = ClaimBatch::of(searches);
    match ask(sqlx::query(CLAIM_EAGERLY), searches, asked).fetch_all(connection).await {
        Ok(rows) if rows.is_empty() => Ok(None),
        Ok(rows) => {
            batch.take_in(&rows, searches)?;
            Ok(Some(batch))
        }
        Err(sqlx::Error::Database(refusal)) if refusal.constraint() == Some("expert_places_suffice") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Claims tasks. Of those that take a slot, within a transaction that has locked the server's row.
pub(super) async fn slotted(
    connection: &mut PgConnection,
    searches: &[Search<'_>],
    asked: &ClaimBounds,
) -> Result<ClaimBatch, StoreError> {
    let mut whole = ClaimBatch::of(searches);
    for round in 0..ROUNDS {
        let most = asked.most - i64::try_from(whole.claimed.len()).unwrap_or(i64::MAX);
        if most < 1 || searches.is_empty() {
            break;
        }
        whole.cut = false;
        let claimed = whole.claimed.len();
        let rows = ask(sqlx::query(CLAIM), searches, &ClaimBounds { most, ..asked.clone() })
            .fetch_all(&mut *connection)
            .await?;
        whole.take_in(&rows, searches)?;
        if whole.claimed.len() == claimed {
            // It may have found only what belongs to experts that were filled up meanwhile: once more, without them.
            whole.cut = any_full(connection, searches).await? && round == 0;
        }
        whole.seen.passed_over |= whole.cut;
        if !whole.cut {
            break;
        }
    }
    Ok(whole)
}

/// Whether any expert that could have been passed over has no place.
async fn any_full(connection: &mut PgConnection, searches: &[Search<'_>]) -> Result<bool, StoreError> {
    let full = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM expert_places WHERE running >= places AND namespace = ANY ($1))",
    );
    let namespaces = searches.iter().map(|search| search.lane.namespace.as_str()).collect::<Vec<_>>();
    Ok(full.bind(namespaces).fetch_one(connection).await?)
}

/// The lease of all searches, if it is one: then it need not be found for each task.
fn one_lease(searches: &[Search<'_>]) -> Option<i64> {
    let first = searches.first()?.lease.id;
    searches.iter().all(|search| search.lease.id == first).then_some(first)
}

fn ask<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    searches: &'q [Search<'_>],
    asked: &'q ClaimBounds,
) -> Query<'q, Postgres, PgArguments> {
    statement
        .bind(searches.iter().map(|search| search.lane.namespace.as_str()).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lane.queue.as_str()).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lane.model.as_deref().unwrap_or_default()).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lease.id).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.after.rank).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.after.id).collect::<Vec<_>>())
        .bind(i64::try_from(asked.affinity.as_millis()).unwrap_or(i64::MAX))
        .bind(asked.most)
        .bind(searches.iter().map(|search| search.loaded).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lease.holder.as_str()).collect::<Vec<_>>())
        .bind(one_lease(searches))
        .bind(&asked.without)
}

impl ClaimBatch {
    /// Nothing yet.
    fn of(searches: &[Search<'_>]) -> Self {
        Self { seen: ClaimProgress { last: vec![None; searches.len()], passed_over: false }, ..Self::default() }
    }

    fn take_in(&mut self, rows: &[PgRow], searches: &[Search<'_>]) -> Result<(), StoreError> {
        let mut claimed = Vec::with_capacity(rows.len());
        // Every row says the same of the whole.
        if let Some(row) = rows.first() {
            self.cut |= row.try_get::<bool, _>("cut")?;
            self.seen.passed_over |= row.try_get::<bool, _>("passed_over")?;
        }
        for row in rows {
            let task = ClaimedTask::from_row(row)?;
            let place = Place { rank: row.try_get("rank")?, id: task.id };
            let searched = searches.iter().position(|search| search.lane.has(&task)).ok_or_else(|| {
                StoreError::Broken(format!("task {} was claimed, of a lane that the claim did not name", task.id))
            })?;
            self.seen.last[searched] = self.seen.last[searched].max(Some(place));
            claimed.push((place, Claimed { task, lease: searches[searched].lease.clone() }));
        }
        claimed.sort_by_key(|(place, _)| *place);
        self.claimed.extend(claimed.into_iter().map(|(_, claimed)| claimed));
        Ok(())
    }
}

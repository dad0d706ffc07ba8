//! A claim that the database refuses for good because of one task: that task is singled out, and goes to a human.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::statements::choose;
use super::{ClaimBounds, Search, ask};
use crate::store::changes::Topics;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::tasks::moving::{Happening, happen};
use crate::store::stamp::Stamp;
use crate::store::words::{TRIED, Words};
use crate::store::{Lease, StoreError};
use crate::tasks::TaskId;
use crate::tasks::machine::TaskEvent;

/// How often a claim goes on after tasks were singled out.
const ROUNDS: usize = 5;

/// PostgreSQL sends the error of a statement before it gives its locks back, and what is locked is not chosen: looked at again after these.
const UNLOCKED_WITHIN: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(200)];

/// A claim of at most `most` tasks. What is refused because of some of them is tried again without those.
pub(in super::super) async fn unless<T, F>(
    store: &PostgresStore,
    searches: &[Search<'_>],
    most: i64,
    claim: impl Fn(i64, Vec<TaskId>) -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let (mut most, mut without) = (most, store.work.stepped_over());
    for _ in 0..ROUNDS {
        match claim(most, without.clone()).await {
            Err(StoreError::Refused(why)) => {
                most = most.min(TRIED);
                let asked = ClaimBounds { affinity: Duration::MAX, most, without: without.clone() };
                let found = store.within(single_out(store, searches, &asked)).await?;
                if found.is_empty() {
                    return Err(StoreError::Refused(why));
                }
                store.work.changed(Topics::TASKS);
                without.extend(found);
            }
            other => return other,
        }
    }
    claim(most, without).await
}

/// Tries what a claim would choose, one task after the other; returns those that are refused.
async fn single_out(
    store: &PostgresStore,
    searches: &[Search<'_>],
    asked: &ClaimBounds,
) -> Result<Vec<TaskId>, StoreError> {
    let Some(lease) = searches.first().map(|search| search.lease) else { return Ok(Vec::new()) };
    let mut session = store.write().await?;
    let mut chosen = Vec::new();
    for wait in UNLOCKED_WITHIN {
        tokio::time::sleep(wait).await;
        let choose = sqlx::query(AssertSqlSafe(choose()));
        chosen = ask(choose, searches, asked).fetch_all(session.connection()).await?;
        if !chosen.is_empty() {
            break;
        }
    }
    let mut refused = Vec::new();
    for row in chosen {
        let (id, expert): (TaskId, String) = (row.try_get("id")?, row.try_get("expert")?);
        if let Err(refusal @ StoreError::Refused(_)) = tried(session.connection(), id, lease).await {
            if !defer(session.connection(), id, &expert, lease, &refusal).await? {
                store.work.step_over(id);
            }
            refused.push(id);
        }
    }
    session.commit().await?;
    Ok(refused)
}

/// Writes that a task is claimed, and takes that back.
async fn tried(connection: &mut PgConnection, id: TaskId, lease: &Lease) -> Result<(), StoreError> {
    sqlx::raw_sql("SAVEPOINT tried").execute(&mut *connection).await?;
    let claimed = sqlx::query(
        "UPDATE tasks SET state = 'in_progress', claimed_at = clock_timestamp(), epoch = epoch + 1, lease = $2 WHERE id = $1",
    );
    let claimed = claimed.bind(id).bind(lease.id).execute(&mut *connection).await;
    sqlx::raw_sql("ROLLBACK TO SAVEPOINT tried").execute(connection).await?;
    Ok(claimed.map(|_| ())?)
}

/// False: not even that may be written.
async fn defer(
    connection: &mut PgConnection,
    id: TaskId,
    expert: &str,
    lease: &Lease,
    refusal: &StoreError,
) -> Result<bool, StoreError> {
    let now: Stamp = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?;
    let words = Words::of_refused_claim(id, expert, lease, refusal, now.into());
    sqlx::raw_sql("SAVEPOINT deferred").execute(&mut *connection).await?;
    match happen(connection, vec![Happening { id, event: TaskEvent::ClaimRefused, words }]).await {
        Err(StoreError::Refused(_)) => {
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT deferred").execute(connection).await?;
            Ok(false)
        }
        other => other.map(|_| true),
    }
}

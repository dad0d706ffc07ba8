//! Those who wait for slots, and what their callers may.

use sqlx::SqliteConnection;

use crate::store::callers::limit_of;
use crate::store::order::{Line, first_minute};
use crate::store::stamp::Stamp;
use crate::store::{CallerLimit, SlotRequest, StoreError};
use crate::tasks::share::WAIT_LAPSES;

/// Those who wait for a server.
pub(super) async fn line(tx: &mut SqliteConnection, url: &str, now: Stamp) -> Result<Line, StoreError> {
    let waits = sqlx::query_as(
        "SELECT holder, class, caller, weight, calls, since FROM slot_waits WHERE server_url = ? AND seen_at > ?",
    )
    .bind(url)
    .bind(now.before(WAIT_LAPSES))
    .fetch_all(&mut *tx)
    .await?;
    if waits.is_empty() {
        return Ok(Line::default());
    }
    let shares = sqlx::query_as(
        "SELECT class, caller, sum(micros) AS micros FROM slot_shares WHERE server_url = ? AND minute >= ? GROUP BY class, caller",
    );
    let shares = shares.bind(url).bind(first_minute(now)).fetch_all(tx).await?;
    Ok(Line { waits, shares })
}

/// The limit of the caller that is reached, if one is.
pub(super) async fn caller_limit(
    tx: &mut SqliteConnection,
    request: &SlotRequest,
    now: Stamp,
) -> Result<Option<CallerLimit>, StoreError> {
    let Some(caller) = request.caller.as_ref().filter(|caller| caller.is_limited()) else { return Ok(None) };
    let used: Option<(i64, i64)> = sqlx::query_as("SELECT day, tokens FROM caller_days WHERE caller = ?")
        .bind(&caller.id)
        .fetch_optional(&mut *tx)
        .await?;
    let occupied = sqlx::query_scalar(
        "SELECT count(*) FROM slots WHERE caller = ?1 AND coalesce(frees_at, max(lease_expires_at, call_ends_at)) > ?2",
    );
    let occupied = occupied.bind(&caller.id).bind(now).fetch_one(tx).await?;
    Ok(limit_of(caller, occupied, used.unwrap_or_default(), now))
}

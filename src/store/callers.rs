//! What callers of the gateway use, in both databases alike: one row each, with the figures of its last UTC day. Whoever gives a slot to a
//! caller with limits locks its row, so that they hold across processes.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;

use super::counted::{Counted, store_traits};
use super::{StoreError, Topics, admit::day_of, postgres::PostgresStore, sqlite::SqliteStore, stamp::Stamp};

store_traits! {
    /// Calls and tokens of callers.
    CallerStore {
        /// Adds what calls used that ended, to this day's by the database's clock. Forgets the time that slots were taken long ago, by callers
        /// that may be gone.
        fn count_use(uses: &[CallerUse]) -> ();
        /// What each caller used today, and when one of its calls last ended.
        fn caller_days() -> Vec<CallerDay>;
        /// Asks whoever runs a call to end it, by its id.
        fn cancel_call(id: &str) -> ();
        /// The calls of which that was asked within the last minutes.
        fn cancelled_calls() -> Vec<String>;
    }
}

/// A call that is open at a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenCall {
    pub id: String,
    /// Of the caller.
    pub namespace: String,
    pub caller: String,
    /// `/v1/messages`
    pub path: String,
    /// The alias.
    pub model: String,
    pub state: OpenCallState,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// By the gateway's clock.
    pub asked_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum OpenCallState {
    /// For a slot.
    Waiting,
    /// An engine was asked.
    Running,
}

/// By which a caller is known in the database.
pub fn caller_id(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// Whose call wants a slot, and what it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCaller {
    /// See [`caller_id`].
    pub id: String,
    /// Of its calls at once; `None`: as many as there are slots.
    pub max_concurrent: Option<i32>,
    /// Of one UTC day; `None`: as many as it likes.
    pub tokens_per_day: Option<i64>,
    /// Its part of a server's time among those that wait.
    pub weight: i32,
}

impl SlotCaller {
    /// Whether a grant looks at what it uses.
    pub(super) const fn is_limited(&self) -> bool {
        self.max_concurrent.is_some() || self.tokens_per_day.is_some()
    }
}

/// What calls of a caller used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerUse {
    /// See [`caller_id`].
    pub caller: String,
    pub calls: i64,
    pub tokens: i64,
}

/// What a caller used on this UTC day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerDay {
    /// See [`caller_id`].
    pub caller: String,
    pub calls: i64,
    pub tokens: i64,
    /// Of any day.
    pub last_used_at: Timestamp,
}

/// A row of `caller_days`.
#[derive(Clone, Debug, FromRow)]
pub(super) struct CallerDayRecord {
    caller: String,
    day: i64,
    calls: i64,
    tokens: i64,
    used_at: Option<Stamp>,
    now: Stamp,
}

impl CallerDayRecord {
    /// A day that is yet to come, after a clock went back, counts as today.
    fn today(self) -> Option<CallerDay> {
        let (calls, tokens) = if self.day >= day_of(self.now) { (self.calls, self.tokens) } else { (0, 0) };
        Some(CallerDay { caller: self.caller, calls, tokens, last_used_at: self.used_at?.into() })
    }
}

/// Why a caller gets no slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerLimit {
    /// As many of its calls run as may.
    Concurrent,
    /// Its tokens of this day are used.
    Tokens {
        /// Until the next UTC day.
        for_: Duration,
    },
}

/// Which limit of a caller is reached, if one is: `occupied` are its slots at all servers, `day` and `tokens` those of its row.
pub(super) fn limit_of(
    caller: &SlotCaller,
    occupied: i64,
    (day, tokens): (i64, i64),
    now: Stamp,
) -> Option<CallerLimit> {
    const DAY_MILLIS: i64 = 24 * 3_600 * 1_000;
    let today = if day >= day_of(now) { tokens } else { 0 };
    if caller.tokens_per_day.is_some_and(|most| today >= most) {
        let left = (day_of(now) + 1) * DAY_MILLIS - now.millis();
        return Some(CallerLimit::Tokens { for_: Duration::from_millis(left.max(0).unsigned_abs()) });
    }
    caller.max_concurrent.is_some_and(|most| occupied >= i64::from(most)).then_some(CallerLimit::Concurrent)
}

/// `$now` is the database's time as its tables keep it, `$before` ten minutes before that, `$today` its UTC day.
macro_rules! callers {
    ($store:ty, $now:literal, $before:literal, $today:literal) => {
        #[async_trait]
        impl CallerStore for $store {
            async fn count_use(&self, uses: &[CallerUse]) -> Result<(), StoreError> {
                // In one order, so that two processes wait for each other's rows in turn and never in a circle.
                let mut uses: Vec<&CallerUse> = uses.iter().collect();
                uses.sort_by(|a, b| a.caller.cmp(&b.caller));
                let mut all =
                    vec![sqlx::query(concat!("DELETE FROM slot_shares WHERE minute < (", $today, " - 1) * 1440"))];
                all.extend(uses.into_iter().map(|CallerUse { caller, calls, tokens }| {
                    sqlx::query(concat!(
                        "INSERT INTO caller_days AS d (caller, day, calls, tokens, used_at) VALUES ($1, ",
                        $today,
                        ", $2, $3, ",
                        $now,
                        ") ON CONFLICT (caller) DO UPDATE SET
                            calls = CASE WHEN d.day >= excluded.day THEN d.calls ELSE 0 END + excluded.calls,
                            tokens = CASE WHEN d.day >= excluded.day THEN d.tokens ELSE 0 END + excluded.tokens,
                            day = CASE WHEN d.day >= excluded.day THEN d.day ELSE excluded.day END,
                            used_at = excluded.used_at"
                    ))
                    .bind(caller)
                    .bind(calls)
                    .bind(tokens)
                }));
                self.execute_all(all).await
            }

            async fn caller_days(&self) -> Result<Vec<CallerDay>, StoreError> {
                let days = sqlx::query_as(concat!(
                    "SELECT caller, day, calls, tokens, used_at, ",
                    $now,
                    " AS now FROM caller_days ORDER BY caller"
                ));
                let records: Vec<CallerDayRecord> = self.fetch(days).await?;
                Ok(records.into_iter().filter_map(CallerDayRecord::today).collect())
            }

            async fn cancel_call(&self, id: &str) -> Result<(), StoreError> {
                let forget = sqlx::query(concat!("DELETE FROM cancelled_calls WHERE at < ", $before));
                let cancel = sqlx::query(concat!(
                    "INSERT INTO cancelled_calls (id, at) VALUES ($1, ",
                    $now,
                    ") ON CONFLICT (id) DO UPDATE SET at = excluded.at"
                ));
                self.execute_all(vec![forget, cancel.bind(id)]).await?;
                self.changed(Topics::WISHES);
                Ok(())
            }

            async fn cancelled_calls(&self) -> Result<Vec<String>, StoreError> {
                let calls: Vec<(String,)> = self.fetch(sqlx::query_as("SELECT id FROM cancelled_calls")).await?;
                Ok(calls.into_iter().map(|(id,)| id).collect())
            }
        }
    };
}

callers!(
    PostgresStore,
    "clock_timestamp()",
    "clock_timestamp() - interval '10 minutes'",
    "floor(extract(epoch FROM clock_timestamp()) / 86400)::bigint"
);
callers!(
    SqliteStore,
    "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)",
    "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER) - 600000000",
    "CAST(julianday('now') - 2440587.5 AS INTEGER)"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_reached_at_its_number_and_tokens_come_back_at_midnight() {
        let now = Stamp::from(Timestamp::from_second(10 * 86_400 + 86_390).expect("a time"));
        let caller = |max_concurrent, tokens_per_day| SlotCaller {
            id: "a/b".into(),
            max_concurrent,
            tokens_per_day,
            weight: 10,
        };
        let spent = Some(CallerLimit::Tokens { for_: Duration::from_secs(10) });
        for (caller, occupied, row, limit, why) in [
            (caller(None, None), 99, (10, 99), None, "nothing is limited"),
            (caller(Some(2), None), 1, (0, 0), None, "one more"),
            (caller(Some(2), None), 2, (0, 0), Some(CallerLimit::Concurrent), "both run"),
            (caller(None, Some(100)), 0, (10, 99), None, "one is left: how many a call takes is known at its end"),
            (caller(None, Some(100)), 0, (10, 100), spent, "none is left"),
            (caller(None, Some(100)), 0, (9, 100), None, "that was yesterday"),
            (caller(None, Some(100)), 0, (11, 100), spent, "the clock went back over midnight"),
            (caller(Some(1), Some(100)), 1, (10, 100), spent, "what lasts longer is told"),
        ] {
            assert_eq!(limit_of(&caller, occupied, row, now), limit, "{why}");
        }
    }
}

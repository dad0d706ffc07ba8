//! What both databases do alike under the lock under which slots are given: in PostgreSQL that of the server's row, in SQLite
//! `BEGIN IMMEDIATE`. Each read is a statement of its own after the lock, so it sees what the lock's previous holder committed.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;

use super::admit::{DayRecord, Decision, SlotRecord, calls_of_day, day_of, decide, life_at, not_before};
use super::callers::limit_of;
use super::order::{Line, SlotAsker, class_word, first_minute, full, grants};
use super::rows::{admission_word, purpose_word};
use super::stamp::Stamp;
use super::{CallLife, CallerLimit, ServerRow, Slot, SlotAnswer, SlotPurpose, SlotRequest, StoreError};
use crate::tasks::share::{CallClass, WAIT_LAPSES};

/// What a holder says of the call that runs in its slot, and when it said so by its own clock.
type SaidLife = (CallLife, Timestamp);

#[async_trait]
pub(super) trait SlotRows: Send {
    /// Every row of a server's slots, occupied or not.
    async fn slot_rows(&mut self, url: &str) -> Result<Vec<SlotRecord>, StoreError>;
    /// Writes the row of a slot that is given, or given again.
    async fn put_slot(&mut self, slot: &SlotRecord) -> Result<(), StoreError>;
    /// Notes the call that runs in a slot, for which model (`None`: as before) and until when at most. The one before may still run.
    async fn note_call(
        &mut self,
        slot: &Slot,
        model: Option<&str>,
        lease: Duration,
        said: SaidLife,
        now: Stamp,
    ) -> Result<(), StoreError>;
    /// Calls that a server may still begin today.
    async fn calls_left(&mut self, server: &ServerRow, now: Stamp) -> Result<i64, StoreError>;
    /// Notes that so many calls begin, where that is limited.
    async fn count_calls(&mut self, server: &ServerRow, calls: usize, now: Stamp) -> Result<(), StoreError>;
    /// The limit of the caller that is reached, if one is. Its row is locked until the slot is given.
    async fn caller_limit(&mut self, request: &SlotRequest, now: Stamp) -> Result<Option<CallerLimit>, StoreError>;
    /// Those who wait for a server.
    async fn line(&mut self, url: &str, now: Stamp) -> Result<Line, StoreError>;
    /// Inserts or updates a server's row, which was `before`. Where another process listens there than before, which runs for so long
    /// at most, slots are free whose leases had lapsed before it began.
    async fn put_server(
        &mut self,
        before: Option<&ServerRow>,
        server: &ServerRow,
        running_for: Option<Duration>,
        now: Stamp,
    ) -> Result<(), StoreError>;

    /// Gives a slot, or says why not.
    async fn give(&mut self, server: &ServerRow, request: &SlotRequest, now: Stamp) -> Result<SlotAnswer, StoreError> {
        // Before the server's: whoever may not go on waits for no server.
        if let Some(limit) = self.caller_limit(request, now).await? {
            return Ok(SlotAnswer::Limited(limit));
        }
        let slots = self.slot_rows(&server.url).await?;
        let (number, epoch) = match decide(server, &slots, request.purpose, now) {
            Decision::Give { number, epoch } => (number, epoch),
            Decision::Refuse(answer) => return Ok(answer),
        };
        if let Some(asker) = SlotAsker::of(request) {
            let line = self.line(&server.url, now).await?;
            if grants(server, &slots, &line, asker, false, now) == 0 {
                return Ok(full(server, &slots, now));
            }
        }
        if request.purpose == SlotPurpose::Call {
            if self.calls_left(server, now).await? == 0 {
                return Ok(SlotAnswer::Spent);
            }
            self.count_calls(server, 1, now).await?;
        }
        let slot = Slot { server_url: server.url.clone(), number, holder: request.holder.clone(), epoch };
        let record = SlotRecord {
            purpose: purpose_word(request.purpose).to_owned(),
            class: request.class.map(|class| class_word(class).to_owned()),
            caller: request.caller.as_ref().map(|caller| caller.id.clone()),
            model: request.model.clone(),
            ..SlotRecord::given(&slot, server, (request.lease, request.call_within), now)
        };
        self.put_slot(&record).await?;
        Ok(SlotAnswer::Given(slot))
    }

    /// Extends the lease of a slot that its holder still has.
    async fn renew(
        &mut self,
        server: Option<&ServerRow>,
        slot: &Slot,
        lease: Duration,
        said: SaidLife,
        now: Stamp,
    ) -> Result<(), StoreError> {
        let slots = self.slot_rows(&slot.server_url).await?;
        let record = slots.iter().find(|record| record.number == slot.number);
        record.filter(|_| server.is_some()).ok_or_else(|| gone(slot))?.renewable(slot, now)?;
        self.note_call(slot, None, lease, said, now).await
    }

    /// Whether a slot may go on with another call, of a task. That is a new call: it starts only if the server would give the slot
    /// again.
    async fn may_go_on(&mut self, server: Option<&ServerRow>, slot: &Slot, now: Stamp) -> Result<bool, StoreError> {
        let mut slots = self.slot_rows(&slot.server_url).await?;
        let own = slots.iter().position(|record| record.number == slot.number);
        let (Some(server), Some(own)) = (server, own) else { return Err(gone(slot)) };
        slots.remove(own).renewable(slot, now)?;
        if matches!(decide(server, &slots, SlotPurpose::Call, now), Decision::Refuse(_)) {
            return Ok(false);
        }
        let line = self.line(&server.url, now).await?;
        let keeps = grants(server, &slots, &line, (slot.holder.as_str(), CallClass::Batch, 1), true, now) > 0;
        Ok(keeps && self.calls_left(server, now).await? > 0)
    }
}

fn gone(slot: &Slot) -> StoreError {
    StoreError::Fenced(format!("slot {} of {} is gone", slot.number, slot.server_url))
}

macro_rules! slot_rows {
    ($connection:ty) => {
        #[async_trait]
        impl SlotRows for $connection {
            async fn slot_rows(&mut self, url: &str) -> Result<Vec<SlotRecord>, StoreError> {
                let all = sqlx::query_as("SELECT * FROM slots WHERE server_url = $1 ORDER BY number");
                Ok(all.bind(url).fetch_all(self).await?)
            }

            async fn put_slot(&mut self, slot: &SlotRecord) -> Result<(), StoreError> {
                sqlx::query(
                    "INSERT INTO slots (server_url, number, holder, epoch, purpose, class, caller, model, taken_at,
                        lease_expires_at, call_ends_at, call_began_at, last_byte_at, outlives_client, instance, aborted, frees_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
                     ON CONFLICT (server_url, number) DO UPDATE SET holder = $3, epoch = $4, purpose = $5, class = $6,
                        caller = $7, model = $8, taken_at = $9, lease_expires_at = $10, call_ends_at = $11,
                        call_began_at = $12, last_byte_at = $13, outlives_client = $14, instance = $15, aborted = $16,
                        frees_at = $17",
                )
                .bind(&slot.server_url)
                .bind(slot.number)
                .bind(&slot.holder)
                .bind(slot.epoch)
                .bind(&slot.purpose)
                .bind(&slot.class)
                .bind(&slot.caller)
                .bind(&slot.model)
                .bind(slot.taken_at)
                .bind(slot.lease_expires_at)
                .bind(slot.call_ends_at)
                .bind(slot.call_began_at)
                .bind(slot.last_byte_at)
                .bind(slot.outlives_client)
                .bind(&slot.instance)
                .bind(slot.aborted)
                .bind(slot.frees_at)
                .execute(self)
                .await?;
                Ok(())
            }

            async fn note_call(
                &mut self,
                slot: &Slot,
                model: Option<&str>,
                lease: Duration,
                (life, asked_at): SaidLife,
                now: Stamp,
            ) -> Result<(), StoreError> {
                let (call_began_at, last_byte_at) = life_at(life, asked_at, now);
                sqlx::query(
                    "UPDATE slots SET lease_expires_at = $3, call_began_at = $4, last_byte_at = $5, outlives_client = $6,
                        call_ends_at = CASE WHEN $7 > call_ends_at THEN $7 ELSE call_ends_at END, model = coalesce($8, model)
                     WHERE server_url = $1 AND number = $2",
                )
                .bind(&slot.server_url)
                .bind(slot.number)
                .bind(now.after(lease))
                .bind(call_began_at)
                .bind(last_byte_at)
                .bind(life.outlives_client)
                .bind(life.may_last.map(|within| now.after(within)))
                .bind(model)
                .execute(self)
                .await?;
                Ok(())
            }

            async fn calls_left(&mut self, server: &ServerRow, now: Stamp) -> Result<i64, StoreError> {
                if server.calls_per_day.is_none() {
                    return Ok(i64::MAX);
                }
                let counted = sqlx::query_as("SELECT day, calls FROM server_days WHERE server_url = $1");
                let counted: Option<DayRecord> = counted.bind(&server.url).fetch_optional(self).await?;
                Ok(calls_of_day(server.calls_per_day, counted.as_ref(), now).map_or(i64::MAX, |calls| calls.left))
            }

            async fn count_calls(&mut self, server: &ServerRow, calls: usize, now: Stamp) -> Result<(), StoreError> {
                if server.calls_per_day.is_none() || calls == 0 {
                    return Ok(());
                }
                sqlx::query(
                    "INSERT INTO server_days AS d (server_url, day, calls) VALUES ($1, $2, $3)
                     ON CONFLICT (server_url) DO UPDATE SET
                        calls = CASE WHEN d.day >= excluded.day THEN d.calls ELSE 0 END + excluded.calls,
                        day = CASE WHEN d.day >= excluded.day THEN d.day ELSE excluded.day END",
                )
                .bind(&server.url)
                .bind(day_of(now))
                .bind(i64::try_from(calls).unwrap_or(i64::MAX))
                .execute(self)
                .await?;
                Ok(())
            }

            async fn caller_limit(
                &mut self,
                request: &SlotRequest,
                now: Stamp,
            ) -> Result<Option<CallerLimit>, StoreError> {
                let Some(caller) = request.caller.as_ref().filter(|caller| caller.is_limited()) else { return Ok(None) };
                let used: (i64, i64) = sqlx::query_as(
                    "INSERT INTO caller_days AS d (caller, day, calls, tokens) VALUES ($1, $2, 0, 0)
                     ON CONFLICT (caller) DO UPDATE SET calls = d.calls RETURNING day, tokens",
                )
                .bind(&caller.id)
                .bind(day_of(now))
                .fetch_one(&mut *self)
                .await?;
                let occupied = sqlx::query_scalar(
                    "SELECT count(*) FROM slots WHERE caller = $1 AND CASE WHEN frees_at IS NULL
                        THEN lease_expires_at > $2 OR call_ends_at > $2 ELSE frees_at > $2 END",
                );
                Ok(limit_of(caller, occupied.bind(&caller.id).bind(now).fetch_one(self).await?, used, now))
            }

            async fn line(&mut self, url: &str, now: Stamp) -> Result<Line, StoreError> {
                let waits = sqlx::query_as(
                    "SELECT holder, class, caller, weight, calls, since FROM slot_waits WHERE server_url = $1 AND seen_at > $2",
                );
                let waits: Vec<_> = waits.bind(url).bind(now.before(WAIT_LAPSES)).fetch_all(&mut *self).await?;
                if waits.is_empty() {
                    return Ok(Line::default());
                }
                let shares = sqlx::query_as(
                    "SELECT class, caller, CAST(sum(micros) AS bigint) AS micros FROM slot_shares
                     WHERE server_url = $1 AND minute >= $2 GROUP BY class, caller",
                );
                Ok(Line { waits, shares: shares.bind(url).bind(first_minute(now)).fetch_all(self).await? })
            }

            async fn put_server(
                &mut self,
                before: Option<&ServerRow>,
                server: &ServerRow,
                running_for: Option<Duration>,
                now: Stamp,
            ) -> Result<(), StoreError> {
                sqlx::query(
                    "INSERT INTO servers (url, slot_limit, admission, instance, calls_per_day) VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT (url) DO UPDATE SET slot_limit = $2, admission = $3, instance = $4, calls_per_day = $5",
                )
                .bind(&server.url)
                .bind(server.limit)
                .bind(admission_word(server.admission))
                .bind(&server.instance)
                .bind(server.calls_per_day)
                .execute(&mut *self)
                .await?;
                let (Some(instance), Some(began)) = (&server.instance, not_before(running_for, now)) else { return Ok(()) };
                if before.is_none_or(|before| before.instance == server.instance) {
                    return Ok(());
                }
                sqlx::query(
                    "UPDATE slots SET frees_at = $3
                     WHERE server_url = $1 AND frees_at IS NULL AND instance <> $2 AND lease_expires_at <= $4",
                )
                .bind(&server.url)
                .bind(instance)
                .bind(now)
                .bind(began)
                .execute(self)
                .await?;
                Ok(())
            }
        }
    };
}

slot_rows!(PgConnection);
slot_rows!(SqliteConnection);

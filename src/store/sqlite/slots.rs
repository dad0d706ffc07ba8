//! Servers and their slots. `BEGIN IMMEDIATE` is the lock under which slots are given.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::SqliteStore;
use super::waits::{caller_limit, line};
use crate::store::admit::{
    DayRecord, Decision, ServerNowRecord, SlotRecord, calls_of_day, day_of, decide, life_at, not_before, occupied_rows,
    with_servers,
};
use crate::store::changes::Topics;
use crate::store::order::{SlotAsker, class_word, full, grants, minute_of, place_of};
use crate::store::rows::{ServerRecord, admission_word, purpose_word};
use crate::store::stamp::Stamp;
use crate::store::{
    CallLife, Fence, ServerNow, ServerRow, Slot, SlotAnswer, SlotPurpose, SlotRequest, SlotRow, SlotWait, Slots,
    StoreError,
};
use crate::tasks::share::{INTERACTIVE_HOLD, WAIT_LAPSES};

#[async_trait]
impl Slots for SqliteStore {
    async fn put_server_running(
        &self,
        fence: &Fence,
        server: &ServerRow,
        running_for: Option<Duration>,
    ) -> Result<(), StoreError> {
        if self.server(&server.url).await?.as_ref() == Some(server) {
            return Ok(());
        }
        let mut tx = self.write_fenced(fence).await?;
        let before = find_server(&mut tx, &server.url).await?.and_then(|before| before.instance);
        sqlx::query(
            "INSERT INTO servers (url, slot_limit, admission, instance, calls_per_day) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (url) DO UPDATE SET slot_limit = ?2, admission = ?3, instance = ?4, calls_per_day = ?5",
        )
        .bind(&server.url)
        .bind(server.limit)
        .bind(admission_word(server.admission))
        .bind(&server.instance)
        .bind(server.calls_per_day)
        .execute(&mut *tx)
        .await?;
        let now = self.now();
        if let (true, Some(instance), Some(began)) =
            (before != server.instance, &server.instance, not_before(running_for, now))
        {
            sqlx::query(
                "UPDATE slots SET frees_at = ?3
                 WHERE server_url = ?1 AND frees_at IS NULL AND instance <> ?2 AND lease_expires_at <= ?4",
            )
            .bind(&server.url)
            .bind(instance)
            .bind(now)
            .bind(began)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        self.waker.changed(Topics::WORLD);
        Ok(())
    }

    async fn server(&self, url: &str) -> Result<Option<ServerRow>, StoreError> {
        find_server(&mut *self.reader.acquire().await?, url).await
    }

    async fn take_slot(&self, request: &SlotRequest) -> Result<SlotAnswer, StoreError> {
        let mut tx = self.write().await?;
        let Some(server) = find_server(&mut tx, &request.server_url).await? else {
            return Ok(SlotAnswer::Closed);
        };
        let now = self.now();
        // Before the server's: whoever may not go on waits for no server.
        if let Some(limit) = caller_limit(&mut tx, request, now).await? {
            return Ok(SlotAnswer::Limited(limit));
        }
        let slots = rows(&mut tx, &server.url).await?;
        let (number, epoch) = match decide(&server, &slots, request.purpose, now) {
            Decision::Give { number, epoch } => (number, epoch),
            Decision::Refuse(answer) => return Ok(answer),
        };
        if let Some(asker) = SlotAsker::of(request) {
            let line = line(&mut tx, &server.url, now).await?;
            if grants(&server, &slots, &line, asker, false, now) == 0 {
                return Ok(full(&server, &slots, now));
            }
        }
        if request.purpose == SlotPurpose::Call {
            if calls_left(&mut tx, &server, now).await? == 0 {
                return Ok(SlotAnswer::Spent);
            }
            count_calls(&mut tx, &server, 1, now).await?;
        }
        let record = SlotRecord {
            server_url: server.url,
            number,
            holder: request.holder.clone(),
            epoch,
            purpose: purpose_word(request.purpose).to_owned(),
            class: request.class.map(|class| class_word(class).to_owned()),
            caller: request.caller.as_ref().map(|caller| caller.id.clone()),
            model: request.model.clone(),
            taken_at: now,
            lease_expires_at: now.after(request.lease),
            call_ends_at: now.after(request.call_within),
            call_began_at: None,
            last_byte_at: None,
            outlives_client: false,
            instance: server.instance,
            aborted: false,
            frees_at: None,
        };
        put_slot(&mut tx, &record).await?;
        tx.commit().await?;
        Ok(SlotAnswer::Given(Slot { server_url: record.server_url, number, holder: record.holder, epoch }))
    }

    async fn renew_slot(&self, slot: &Slot, lease: Duration, life: CallLife) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = self.now();
        let server = find_server(&mut tx, &slot.server_url).await?;
        let record = rows(&mut tx, &slot.server_url).await?.into_iter().find(|record| record.number == slot.number);
        let (Some(_), Some(record)) = (server, record) else {
            return Err(StoreError::Fenced(format!("slot {} of {} is gone", slot.number, slot.server_url)));
        };
        record.renewable(slot, now)?;
        // The holder's clock is ours, as it was when it asked.
        let (call_began_at, last_byte_at) = life_at(life, now.into(), now);
        sqlx::query(
            "UPDATE slots SET lease_expires_at = ?3, call_began_at = ?4, last_byte_at = ?5, outlives_client = ?6,
                call_ends_at = max(call_ends_at, coalesce(?7, call_ends_at))
             WHERE server_url = ?1 AND number = ?2",
        )
        .bind(&slot.server_url)
        .bind(slot.number)
        .bind(now.after(lease))
        .bind(call_began_at)
        .bind(last_byte_at)
        .bind(life.outlives_client)
        .bind(life.may_last.map(|within| now.after(within)))
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    async fn release_slot(&self, slot: &Slot, linger: Duration) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = self.now();
        let released: Option<(Option<String>, String, Stamp)> = sqlx::query_as(
            "UPDATE slots SET frees_at = ?5
             WHERE server_url = ?1 AND number = ?2 AND holder = ?3 AND epoch = ?4 AND frees_at IS NULL
             RETURNING class, coalesce(caller, ''), taken_at",
        )
        .bind(&slot.server_url)
        .bind(slot.number)
        .bind(&slot.holder)
        .bind(slot.epoch)
        .bind(now.after(linger))
        .fetch_optional(&mut *tx)
        .await?;
        if let Some((Some(class), caller, taken_at)) = released {
            let minute = minute_of(now);
            sqlx::query(
                "INSERT INTO slot_shares (server_url, class, place, minute, micros, caller) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (server_url, class, caller, place) DO UPDATE SET minute = ?4,
                    micros = CASE WHEN minute = ?4 THEN micros ELSE 0 END + ?5",
            )
            .bind(&slot.server_url)
            .bind(class)
            .bind(place_of(minute))
            .bind(minute)
            .bind(i64::try_from(taken_at.until(now).as_micros()).unwrap_or(i64::MAX))
            .bind(caller)
            .execute(&mut *tx)
            .await?;
        }
        let waited: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM slot_waits WHERE server_url = ? AND seen_at > ?)")
                .bind(&slot.server_url)
                .bind(now.before(WAIT_LAPSES))
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        self.waker.changed(Topics::SLOTS.when(waited));
        Ok(())
    }

    async fn wait_for_slots(&self, holder: &str, waits: &[SlotWait]) -> Result<(), StoreError> {
        /// What lapsed long ago was left by a process that is gone.
        const FORGOTTEN: Duration = Duration::from_secs(600);
        let mut tx = self.write().await?;
        let now = self.now();
        for SlotWait { server_url, class, caller, weight, calls } in waits {
            sqlx::query(
                "INSERT INTO slot_waits (server_url, holder, class, calls, since, seen_at, caller, weight)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?7, ?8)
                 ON CONFLICT (server_url, holder, class, caller) DO UPDATE SET calls = ?4, weight = ?8, seen_at = ?5,
                    since = CASE WHEN seen_at > ?6 THEN since ELSE ?5 END",
            )
            .bind(server_url)
            .bind(holder)
            .bind(class_word(*class))
            .bind(calls)
            .bind(now)
            .bind(now.before(WAIT_LAPSES))
            .bind(caller)
            .bind(weight)
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query("DELETE FROM slot_waits WHERE (holder = ?1 AND seen_at <> ?2) OR seen_at < ?3")
            .bind(holder)
            .bind(now)
            .bind(now.before(FORGOTTEN))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.waker.changed(Topics::SLOTS.when(!waits.is_empty()));
        Ok(())
    }

    async fn interactive_waits(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let waits = sqlx::query_as(
            "SELECT server_url, sum(calls) FROM slot_waits WHERE class = 'Interactive' AND seen_at > ? GROUP BY server_url",
        );
        self.fetch(waits.bind(self.now().before(WAIT_LAPSES))).await
    }

    async fn abort_slots(&self, fence: &Fence, url: &str) -> Result<u64, StoreError> {
        let mut tx = self.write_fenced(fence).await?;
        let aborted = sqlx::query(
            "UPDATE slots SET aborted = 1 WHERE server_url = ?1 AND aborted = 0 AND frees_at IS NULL
             AND max(lease_expires_at, call_ends_at) > ?2",
        )
        .bind(url)
        .bind(self.now())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(aborted.rows_affected())
    }

    async fn slots(&self, url: &str) -> Result<Vec<SlotRow>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let now = self.now();
        occupied_rows(rows(&mut tx, url).await?, now, now)
    }

    async fn occupied_slots(&self) -> Result<Vec<(String, SlotRow)>, StoreError> {
        let now = self.now();
        let slots: Vec<SlotRecord> = sqlx::query_as(
            "SELECT * FROM slots WHERE coalesce(frees_at, max(lease_expires_at, call_ends_at)) > ? ORDER BY server_url, number",
        )
        .bind(now)
        .fetch_all(&self.reader)
        .await?;
        with_servers(slots, now, now)
    }

    async fn servers(&self) -> Result<Vec<ServerNow>, StoreError> {
        let servers: Vec<ServerNowRecord> = sqlx::query_as(
            "SELECT url, slot_limit, admission, instance, calls_per_day, d.day, d.calls, ?1 AS now,
                (SELECT count(*) FROM slots WHERE server_url = servers.url
                    AND coalesce(frees_at, max(lease_expires_at, call_ends_at)) > ?1) AS occupied,
                (SELECT count(*) FROM slots WHERE server_url = servers.url AND class = 'Interactive'
                    AND coalesce(frees_at, max(lease_expires_at, call_ends_at)) > ?2) AS interactive
             FROM servers LEFT JOIN server_days AS d ON d.server_url = servers.url ORDER BY url",
        )
        .bind(self.now())
        .bind(self.now().before(INTERACTIVE_HOLD))
        .fetch_all(&self.reader)
        .await?;
        servers.into_iter().map(ServerNow::try_from).collect()
    }
}

/// Calls that a server may still begin today.
pub(super) async fn calls_left(tx: &mut SqliteConnection, server: &ServerRow, now: Stamp) -> Result<i64, StoreError> {
    if server.calls_per_day.is_none() {
        return Ok(i64::MAX);
    }
    let counted = sqlx::query_as("SELECT day, calls FROM server_days WHERE server_url = ?");
    let counted: Option<DayRecord> = counted.bind(&server.url).fetch_optional(tx).await?;
    Ok(calls_of_day(server.calls_per_day, counted.as_ref(), now).map_or(i64::MAX, |calls| calls.left))
}

/// Notes that so many calls begin, where that is limited.
pub(super) async fn count_calls(
    tx: &mut SqliteConnection,
    server: &ServerRow,
    calls: usize,
    now: Stamp,
) -> Result<(), StoreError> {
    if server.calls_per_day.is_none() || calls == 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO server_days (server_url, day, calls) VALUES (?1, ?2, ?3)
         ON CONFLICT (server_url) DO UPDATE SET day = max(day, ?2), calls = CASE WHEN day >= ?2 THEN calls ELSE 0 END + ?3",
    )
    .bind(&server.url)
    .bind(day_of(now))
    .bind(i64::try_from(calls).unwrap_or(i64::MAX))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn find_server(connection: &mut SqliteConnection, url: &str) -> Result<Option<ServerRow>, StoreError> {
    let record: Option<ServerRecord> =
        sqlx::query_as("SELECT url, slot_limit, admission, instance, calls_per_day FROM servers WHERE url = ?")
            .bind(url)
            .fetch_optional(connection)
            .await?;
    record.map(ServerRow::try_from).transpose()
}

pub(super) async fn rows(connection: &mut SqliteConnection, url: &str) -> Result<Vec<SlotRecord>, StoreError> {
    let all = sqlx::query_as("SELECT * FROM slots WHERE server_url = ? ORDER BY number");
    Ok(all.bind(url).fetch_all(connection).await?)
}

/// Writes the row of a slot that is given, or given again.
pub(super) async fn put_slot(tx: &mut SqliteConnection, slot: &SlotRecord) -> Result<(), StoreError> {
    let SlotRecord {
        server_url,
        number,
        holder,
        epoch,
        purpose,
        class,
        caller,
        model,
        taken_at,
        lease_expires_at,
        call_ends_at,
        call_began_at,
        last_byte_at,
        outlives_client,
        instance,
        aborted,
        frees_at,
    } = slot;
    sqlx::query(
        "INSERT INTO slots (server_url, number, holder, epoch, purpose, model, taken_at, lease_expires_at, call_ends_at,
            call_began_at, last_byte_at, instance, aborted, frees_at, outlives_client, class, caller)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
         ON CONFLICT (server_url, number) DO UPDATE SET holder = ?3, epoch = ?4, purpose = ?5, model = ?6, taken_at = ?7,
            lease_expires_at = ?8, call_ends_at = ?9, call_began_at = ?10, last_byte_at = ?11, instance = ?12, aborted = ?13,
            frees_at = ?14, outlives_client = ?15, class = ?16, caller = ?17",
    )
    .bind(server_url)
    .bind(number)
    .bind(holder)
    .bind(epoch)
    .bind(purpose)
    .bind(model)
    .bind(taken_at)
    .bind(lease_expires_at)
    .bind(call_ends_at)
    .bind(call_began_at)
    .bind(last_byte_at)
    .bind(instance)
    .bind(aborted)
    .bind(frees_at)
    .bind(outlives_client)
    .bind(class)
    .bind(caller)
    .execute(tx)
    .await?;
    Ok(())
}

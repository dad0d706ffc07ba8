//! Servers and their slots. `BEGIN IMMEDIATE` is the lock under which slots are given.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::SqliteStore;
use crate::store::admit::{ServerNowRecord, SlotRecord, occupied_rows, with_servers};
use crate::store::changes::Topics;
use crate::store::order::{class_word, minute_of, place_of};
use crate::store::slot_rows::SlotRows;
use crate::store::stamp::Stamp;
use crate::store::{
    CallLife, Fence, ServerNow, ServerRow, Slot, SlotAnswer, SlotRequest, SlotRow, SlotWait, Slots, StoreError,
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
        let before = find_server(&mut tx, &server.url).await?;
        tx.put_server(before.as_ref(), server, running_for, self.now()).await?;
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
        let answer = tx.give(&server, request, self.now()).await?;
        if matches!(answer, SlotAnswer::Given(_)) {
            tx.commit().await?;
        }
        Ok(answer)
    }

    async fn renew_slot(&self, slot: &Slot, lease: Duration, life: CallLife) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = self.now();
        let server = find_server(&mut tx, &slot.server_url).await?;
        // The holder's clock is ours, as it was when it asked.
        tx.renew(server.as_ref(), slot, lease, (life, now.into()), now).await?;
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
        occupied_rows(tx.slot_rows(url).await?, now, now)
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
        Ok(servers.into_iter().map(Into::into).collect())
    }
}

pub(super) async fn find_server(connection: &mut SqliteConnection, url: &str) -> Result<Option<ServerRow>, StoreError> {
    let server =
        sqlx::query_as("SELECT url, slot_limit, admission, instance, calls_per_day FROM servers WHERE url = ?");
    Ok(server.bind(url).fetch_optional(connection).await?)
}

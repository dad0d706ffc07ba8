//! Servers and their slots. The lock of the server's row is the lock under which slots are given and renewed.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::FromRow;
use sqlx::postgres::PgConnection;

use super::PostgresStore;
use crate::store::admit::{ServerNowRecord, SlotRecord, occupied_rows, with_servers};
use crate::store::changes::Topics;
use crate::store::order::class_word;
use crate::store::slot_rows::SlotRows;
use crate::store::stamp::Stamp;
use crate::store::{
    CallLife, Fence, ServerNow, ServerRow, Slot, SlotAnswer, SlotRequest, SlotRow, SlotWait, Slots, StoreError,
};
use crate::tasks::share::WAIT_LAPSES;

/// A server, with the database's time.
#[derive(FromRow)]
struct TimedServer {
    #[sqlx(flatten)]
    server: ServerRow,
    now: Stamp,
}

/// A slot, with the database's time.
#[derive(FromRow)]
struct TimedSlot {
    #[sqlx(flatten)]
    slot: SlotRecord,
    now: Stamp,
}

#[async_trait]
impl Slots for PostgresStore {
    async fn put_server_running(
        &self,
        fence: &Fence,
        server: &ServerRow,
        running_for: Option<Duration>,
    ) -> Result<(), StoreError> {
        if self.server(&server.url).await?.as_ref() == Some(server) {
            return Ok(());
        }
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            let locked = lock_server(session.connection(), &server.url).await?;
            let (before, now) = locked.map_or((None, Stamp::now()), |(before, now)| (Some(before), now));
            session.connection().put_server(before.as_ref(), server, running_for, now).await?;
            session.commit().await
        })
        .await?;
        self.work.changed(Topics::WORLD);
        Ok(())
    }

    async fn server(&self, url: &str) -> Result<Option<ServerRow>, StoreError> {
        let server =
            sqlx::query_as("SELECT url, slot_limit, admission, instance, calls_per_day FROM servers WHERE url = $1")
                .bind(url);
        Ok(self.fetch(server).await?.pop())
    }

    async fn take_slot(&self, request: &SlotRequest) -> Result<SlotAnswer, StoreError> {
        self.within(async {
            let mut session = self.write().await?;
            let server = lock_server(session.connection(), &request.server_url).await?;
            let answer = match &server {
                Some((server, now)) => session.connection().give(server, request, *now).await?,
                None => SlotAnswer::Closed,
            };
            match answer {
                SlotAnswer::Given(_) => session.commit().await?,
                SlotAnswer::Full { .. } | SlotAnswer::Closed | SlotAnswer::Spent | SlotAnswer::Limited(_) => {
                    session.roll_back().await?;
                }
            }
            Ok(answer)
        })
        .await
    }

    async fn renew_slot(&self, slot: &Slot, lease: Duration, life: CallLife) -> Result<(), StoreError> {
        let asked_at = Timestamp::now();
        self.within(async {
            let mut session = self.write().await?;
            let locked = lock_server(session.connection(), &slot.server_url).await?;
            let (server, now) = locked.map_or((None, Stamp::now()), |(server, now)| (Some(server), now));
            let said = (life, asked_at);
            match session.connection().renew(server.as_ref(), slot, lease, said, now).await {
                Ok(()) => session.commit().await,
                Err(fenced @ StoreError::Fenced(_)) => {
                    session.roll_back().await?;
                    Err(fenced)
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn release_slot(&self, slot: &Slot, linger: Duration) -> Result<(), StoreError> {
        let release = sqlx::query_as(RELEASE)
            .bind(&slot.server_url)
            .bind(slot.number)
            .bind(&slot.holder)
            .bind(slot.epoch)
            .bind(i64::try_from(linger.as_micros()).unwrap_or(i64::MAX))
            .bind(lapse_micros());
        let waited: Vec<(bool,)> = self.fetch(release).await?;
        self.work.changed(Topics::SLOTS.when(waited.contains(&(true,))));
        Ok(())
    }

    async fn wait_for_slots(&self, holder: &str, waits: &[SlotWait]) -> Result<(), StoreError> {
        let column = |of: fn(&SlotWait) -> &str| waits.iter().map(of).collect::<Vec<_>>();
        let wait = sqlx::query(WAIT)
            .bind(holder)
            .bind(column(|wait| wait.server_url.as_str()))
            .bind(column(|wait| class_word(wait.class)))
            .bind(column(|wait| wait.caller.as_str()))
            .bind(waits.iter().map(|wait| wait.weight).collect::<Vec<_>>())
            .bind(waits.iter().map(|wait| wait.calls).collect::<Vec<_>>())
            .bind(lapse_micros());
        let done = sqlx::query(WAIT_NO_MORE)
            .bind(holder)
            .bind(column(|wait| wait.server_url.as_str()))
            .bind(column(|wait| class_word(wait.class)))
            .bind(column(|wait| wait.caller.as_str()));
        self.execute_all(vec![wait, done]).await?;
        self.work.changed(Topics::SLOTS.when(!waits.is_empty()));
        Ok(())
    }

    async fn interactive_waits(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let waits = sqlx::query_as(
            "SELECT server_url, sum(calls)::bigint FROM slot_waits
             WHERE class = 'Interactive' AND seen_at > clock_timestamp() - $1 * interval '1 microsecond' GROUP BY server_url",
        );
        self.fetch(waits.bind(lapse_micros())).await
    }

    async fn abort_slots(&self, fence: &Fence, url: &str) -> Result<u64, StoreError> {
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            lock_server(session.connection(), url).await?;
            let aborted = sqlx::query(
                "UPDATE slots SET aborted = true WHERE server_url = $1 AND NOT aborted AND frees_at IS NULL
                 AND greatest(lease_expires_at, call_ends_at) > clock_timestamp()",
            )
            .bind(url)
            .execute(session.connection())
            .await?;
            session.commit().await?;
            Ok(aborted.rows_affected())
        })
        .await
    }

    async fn slots(&self, url: &str) -> Result<Vec<SlotRow>, StoreError> {
        self.within(async {
            let mut session = self.session().await?;
            let server: Option<TimedServer> = sqlx::query_as(
                "SELECT url, slot_limit, admission, instance, calls_per_day, clock_timestamp() AS now FROM servers WHERE url = $1",
            )
            .bind(url)
            .fetch_optional(session.connection())
            .await?;
            let slots = session.connection().slot_rows(url).await?;
            session.end();
            match server {
                Some(TimedServer { now, .. }) => occupied_rows(slots, now, Stamp::now()),
                None => Ok(Vec::new()),
            }
        })
        .await
    }

    async fn occupied_slots(&self) -> Result<Vec<(String, SlotRow)>, StoreError> {
        let occupied = sqlx::query_as(
            "SELECT *, clock_timestamp() AS now FROM slots
             WHERE coalesce(frees_at, greatest(lease_expires_at, call_ends_at)) > clock_timestamp()
             ORDER BY server_url, number",
        );
        let slots: Vec<TimedSlot> = self.fetch(occupied).await?;
        let Some(now) = slots.first().map(|first| first.now) else { return Ok(Vec::new()) };
        with_servers(slots.into_iter().map(|timed| timed.slot).collect(), now, Stamp::now())
    }

    async fn servers(&self) -> Result<Vec<ServerNow>, StoreError> {
        let servers: Vec<ServerNowRecord> = self.fetch(sqlx::query_as(SERVERS)).await?;
        Ok(servers.into_iter().map(Into::into).collect())
    }
}

const SERVERS: &str = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT s.url, s.slot_limit, s.admission, s.instance, s.calls_per_day, d.day, d.calls, clock.now,
        (SELECT count(*) FROM slots WHERE server_url = s.url
            AND coalesce(frees_at, greatest(lease_expires_at, call_ends_at)) > clock.now) AS occupied,
        (SELECT count(*) FROM slots WHERE server_url = s.url AND class = 'Interactive'
            AND coalesce(frees_at, greatest(lease_expires_at, call_ends_at)) > clock.now - interval '5 seconds') AS interactive
    FROM clock, servers AS s LEFT JOIN server_days AS d ON d.server_url = s.url ORDER BY s.url";

/// Locks the server's row. The time is read after the lock was given.
pub(super) async fn lock_server(
    connection: &mut PgConnection,
    url: &str,
) -> Result<Option<(ServerRow, Stamp)>, StoreError> {
    let timed: Option<TimedServer> = sqlx::query_as(
        "WITH server AS MATERIALIZED
            (SELECT url, slot_limit, admission, instance, calls_per_day FROM servers WHERE url = $1 FOR UPDATE)
         SELECT url, slot_limit, admission, instance, calls_per_day, clock_timestamp() AS now FROM server",
    )
    .bind(url)
    .fetch_optional(connection)
    .await?;
    Ok(timed.map(|TimedServer { server, now }| (server, now)))
}

/// Gives a slot back, counts the time that it was taken, and tells whether somebody waits. Of the minutes that are kept each has its place.
const RELEASE: &str = "WITH released AS (
        UPDATE slots SET frees_at = clock_timestamp() + $5 * interval '1 microsecond'
        WHERE server_url = $1 AND number = $2 AND holder = $3 AND epoch = $4 AND frees_at IS NULL
        RETURNING class, coalesce(caller, '') AS caller, taken_at, floor(extract(epoch FROM clock_timestamp()) / 60)::bigint AS minute
    ), counted AS (
        INSERT INTO slot_shares AS s (server_url, class, caller, place, minute, micros)
        SELECT $1, class, caller, minute % 11, minute, greatest(0, extract(epoch FROM clock_timestamp() - taken_at) * 1000000)::bigint
        FROM released WHERE class IS NOT NULL
        ON CONFLICT (server_url, class, caller, place) DO UPDATE SET minute = excluded.minute,
            micros = CASE WHEN s.minute = excluded.minute THEN s.micros ELSE 0 END + excluded.micros
    )
    SELECT EXISTS (SELECT FROM slot_waits
        WHERE server_url = $1 AND seen_at > clock_timestamp() - $6 * interval '1 microsecond') FROM released";

/// Refreshes what a process waits for.
const WAIT: &str = "INSERT INTO slot_waits AS w (server_url, holder, class, caller, weight, calls, since, seen_at)
    SELECT server_url, $1, class, caller, weight, calls, clock_timestamp(), clock_timestamp()
    FROM unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[]) AS given (server_url, class, caller, weight, calls)
    ORDER BY server_url, class, caller
    ON CONFLICT (server_url, holder, class, caller) DO UPDATE SET calls = excluded.calls, weight = excluded.weight, seen_at = excluded.seen_at,
        since = CASE WHEN w.seen_at > excluded.seen_at - $7 * interval '1 microsecond' THEN w.since ELSE excluded.since END";

/// Forgets what it waits for no more, and what processes left that are gone.
const WAIT_NO_MORE: &str = "DELETE FROM slot_waits WHERE ctid IN (
    SELECT ctid FROM slot_waits AS w
    WHERE (holder = $1 AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[], $4::text[]) AS given (server_url, class, caller)
            WHERE given.server_url = w.server_url AND given.class = w.class AND given.caller = w.caller))
        OR seen_at < clock_timestamp() - interval '10 minutes'
    FOR UPDATE SKIP LOCKED)";

fn lapse_micros() -> i64 {
    i64::try_from(WAIT_LAPSES.as_micros()).unwrap_or(i64::MAX)
}

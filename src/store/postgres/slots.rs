//! Servers and their slots. The lock of the server's row is the lock under which slots are given and renewed.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::FromRow;
use sqlx::postgres::PgConnection;

use super::waits::{RELEASE, WAIT, WAIT_NO_MORE, lapse_micros, line};
use super::{PostgresStore, Session};
use crate::store::admit::{
    DayRecord, Decision, ServerNowRecord, SlotRecord, calls_of_day, day_of, decide, life_at, occupied_rows,
    with_servers,
};
use crate::store::callers::limit_of;
use crate::store::changes::Topics;
use crate::store::order::{SlotAsker, class_word, full, grants};
use crate::store::rows::{ServerRecord, admission_word, purpose_word};
use crate::store::stamp::Stamp;
use crate::store::{
    CallLife, CallerLimit, Fence, ServerNow, ServerRow, Slot, SlotAnswer, SlotPurpose, SlotRequest, SlotRow, SlotWait,
    Slots, StoreError,
};

/// A server, with the database's time.
#[derive(FromRow)]
struct TimedServer {
    #[sqlx(flatten)]
    server: ServerRecord,
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
            let before = lock_server(session.connection(), &server.url).await?.and_then(|(before, _)| before.instance);
            sqlx::query(
                "INSERT INTO servers (url, slot_limit, admission, instance, calls_per_day) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (url) DO UPDATE SET slot_limit = $2, admission = $3, instance = $4, calls_per_day = $5",
            )
            .bind(&server.url)
            .bind(server.limit)
            .bind(admission_word(server.admission))
            .bind(&server.instance)
            .bind(server.calls_per_day)
            .execute(session.connection())
            .await?;
            if let (true, Some(instance), Some(most)) = (before != server.instance, &server.instance, running_for) {
                sqlx::query(
                    "UPDATE slots SET frees_at = clock_timestamp() WHERE server_url = $1 AND frees_at IS NULL
                     AND instance <> $2 AND lease_expires_at <= clock_timestamp() - $3 * interval '1 microsecond'",
                )
                .bind(&server.url)
                .bind(instance)
                .bind(i64::try_from(most.as_micros()).unwrap_or(i64::MAX))
                .execute(session.connection())
                .await?;
            }
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
        let records: Vec<ServerRecord> = self.fetch(server).await?;
        records.into_iter().next().map(ServerRow::try_from).transpose()
    }

    async fn take_slot(&self, request: &SlotRequest) -> Result<SlotAnswer, StoreError> {
        self.within(async {
            let mut session = self.write().await?;
            let answer = give(session.connection(), request).await?;
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
            match extend(&mut session, slot, lease, (life, asked_at)).await {
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
            let slots = rows(session.connection(), url).await?;
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
        servers.into_iter().map(ServerNow::try_from).collect()
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
    timed.map(|TimedServer { server, now }| Ok((server.try_into()?, now))).transpose()
}

/// A statement of its own after the lock: so it sees what the lock's previous holder committed.
pub(super) async fn rows(connection: &mut PgConnection, url: &str) -> Result<Vec<SlotRecord>, StoreError> {
    let all = sqlx::query_as("SELECT * FROM slots WHERE server_url = $1 ORDER BY number");
    Ok(all.bind(url).fetch_all(connection).await?)
}

/// Calls that a server may still begin today. Under the lock of its row.
pub(super) async fn calls_left(
    connection: &mut PgConnection,
    server: &ServerRow,
    now: Stamp,
) -> Result<i64, StoreError> {
    if server.calls_per_day.is_none() {
        return Ok(i64::MAX);
    }
    let counted = sqlx::query_as("SELECT day, calls FROM server_days WHERE server_url = $1");
    let counted: Option<DayRecord> = counted.bind(&server.url).fetch_optional(connection).await?;
    Ok(calls_of_day(server.calls_per_day, counted.as_ref(), now).map_or(i64::MAX, |calls| calls.left))
}

/// Notes that so many calls begin, where that is limited.
pub(super) async fn count_calls(
    connection: &mut PgConnection,
    server: &ServerRow,
    calls: usize,
    now: Stamp,
) -> Result<(), StoreError> {
    if server.calls_per_day.is_none() || calls == 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO server_days AS d (server_url, day, calls) VALUES ($1, $2, $3)
         ON CONFLICT (server_url) DO UPDATE SET day = greatest(d.day, excluded.day),
            calls = CASE WHEN d.day >= excluded.day THEN d.calls ELSE 0 END + excluded.calls",
    )
    .bind(&server.url)
    .bind(day_of(now))
    .bind(i64::try_from(calls).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(())
}

/// The limit of the caller that is reached, if one is. Its row is locked until the slot is given.
async fn caller_limit(
    connection: &mut PgConnection,
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
    .fetch_one(&mut *connection)
    .await?;
    let occupied = sqlx::query_scalar(
        "SELECT count(*) FROM slots WHERE caller = $1
         AND coalesce(frees_at, greatest(lease_expires_at, call_ends_at)) > clock_timestamp()",
    );
    Ok(limit_of(caller, occupied.bind(&caller.id).fetch_one(connection).await?, used, now))
}

async fn give(connection: &mut PgConnection, request: &SlotRequest) -> Result<SlotAnswer, StoreError> {
    let Some((server, now)) = lock_server(connection, &request.server_url).await? else {
        return Ok(SlotAnswer::Closed);
    };
    // Before the server's: whoever may not go on waits for no server.
    if let Some(limit) = caller_limit(connection, request, now).await? {
        return Ok(SlotAnswer::Limited(limit));
    }
    let slots = rows(connection, &server.url).await?;
    let (number, epoch) = match decide(&server, &slots, request.purpose, now) {
        Decision::Give { number, epoch } => (number, epoch),
        Decision::Refuse(answer) => return Ok(answer),
    };
    if let Some(asker) = SlotAsker::of(request) {
        let line = line(connection, &server.url, now).await?;
        if grants(&server, &slots, &line, asker, false, now) == 0 {
            return Ok(full(&server, &slots, now));
        }
    }
    if request.purpose == SlotPurpose::Call {
        if calls_left(connection, &server, now).await? == 0 {
            return Ok(SlotAnswer::Spent);
        }
        count_calls(connection, &server, 1, now).await?;
    }
    sqlx::query(
        "INSERT INTO slots (server_url, number, holder, epoch, purpose, model, taken_at, lease_expires_at, call_ends_at,
            call_began_at, last_byte_at, instance, aborted, frees_at, class, caller)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL, NULL, $10, false, NULL, $11, $12)
         ON CONFLICT (server_url, number) DO UPDATE SET holder = $3, epoch = $4, purpose = $5, model = $6, taken_at = $7, class = $11, caller = $12,
            lease_expires_at = $8, call_ends_at = $9, call_began_at = NULL, last_byte_at = NULL,
            outlives_client = false, instance = $10, aborted = false, frees_at = NULL",
    )
    .bind(&server.url)
    .bind(number)
    .bind(&request.holder)
    .bind(epoch)
    .bind(purpose_word(request.purpose))
    .bind(&request.model)
    .bind(now)
    .bind(now.after(request.lease))
    .bind(now.after(request.call_within))
    .bind(&server.instance)
    .bind(request.class.map(class_word))
    .bind(request.caller.as_ref().map(|caller| &caller.id))
    .execute(connection)
    .await?;
    Ok(SlotAnswer::Given(Slot { server_url: server.url, number, holder: request.holder.clone(), epoch }))
}

async fn extend(
    session: &mut Session,
    slot: &Slot,
    lease: Duration,
    (life, asked_at): (CallLife, Timestamp),
) -> Result<(), StoreError> {
    let server = lock_server(session.connection(), &slot.server_url).await?;
    let slots = rows(session.connection(), &slot.server_url).await?;
    let record = slots.into_iter().find(|record| record.number == slot.number);
    let (Some((_, now)), Some(record)) = (server, record) else {
        return Err(StoreError::Fenced(format!("slot {} of {} is gone", slot.number, slot.server_url)));
    };
    record.renewable(slot, now)?;
    let (call_began_at, last_byte_at) = life_at(life, asked_at, now);
    sqlx::query(
        "UPDATE slots SET lease_expires_at = $3, call_began_at = $4, last_byte_at = $5, outlives_client = $6,
            call_ends_at = greatest(call_ends_at, $7)
         WHERE server_url = $1 AND number = $2",
    )
    .bind(&slot.server_url)
    .bind(slot.number)
    .bind(now.after(lease))
    .bind(call_began_at)
    .bind(last_byte_at)
    .bind(life.outlives_client)
    .bind(life.may_last.map(|within| now.after(within)))
    .execute(session.connection())
    .await?;
    Ok(())
}

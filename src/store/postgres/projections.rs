//! Backends, their observations and their recovery documents.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::postgres::PgConnection;

use super::PostgresStore;
use crate::store::changes::Topics;
use crate::store::rows::{BackendRecord, ObservationRecord, in_microseconds};
use crate::store::stamp::Stamp;
use crate::store::text::{json, text};
use crate::store::{BackendRow, Fence, GONE_KEPT, Observation, Projections, StoreError};

#[async_trait]
impl Projections for PostgresStore {
    async fn project_backend(&self, fence: &Fence, row: &BackendRow) -> Result<(), StoreError> {
        let before = sqlx::query_as(
            "SELECT uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
                ready_since FROM backends WHERE uid = $1 AND gone_at IS NULL",
        )
        .bind(&row.uid);
        let before: Vec<BackendRecord> = self.fetch(before).await?;
        if before.into_iter().any(|before| BackendRow::from(before) == in_microseconds(row)) {
            return Ok(());
        }
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            upsert(session.connection(), row).await?;
            session.commit().await
        })
        .await?;
        self.work.changed(Topics::WORLD);
        Ok(())
    }

    async fn sweep_backends(&self, fence: &Fence, complete: &[String]) -> Result<Vec<BackendRow>, StoreError> {
        let missing = sqlx::query_as(
            "SELECT uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
                ready_since FROM backends WHERE gone_at IS NULL AND uid <> ALL ($1) ORDER BY namespace, name, uid",
        )
        .bind(complete);
        let missing: Vec<BackendRecord> = self.fetch(missing).await?;
        let missing: Vec<BackendRow> = missing.into_iter().map(Into::into).collect();
        let kept = i64::try_from(GONE_KEPT.as_secs()).unwrap_or(i64::MAX);
        let stale = sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM backends WHERE gone_at < clock_timestamp() - $1 * interval '1 second')",
        )
        .bind(kept);
        let stale: Vec<(bool,)> = self.fetch(stale).await?;
        if missing.is_empty() && !stale.iter().any(|(stale,)| *stale) {
            return Ok(missing);
        }
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            for row in &missing {
                mark_gone(session.connection(), row).await?;
            }
            purge(session.connection(), kept).await?;
            session.commit().await
        })
        .await?;
        self.work.changed(Topics::WORLD);
        Ok(missing)
    }

    async fn backends(&self) -> Result<Vec<BackendRow>, StoreError> {
        let living = sqlx::query_as(
            "SELECT uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
                ready_since FROM backends WHERE gone_at IS NULL ORDER BY namespace, name, uid",
        );
        let records: Vec<BackendRecord> = self.fetch(living).await?;
        Ok(records.into_iter().map(Into::into).collect())
    }

    async fn record_observations(&self, fence: &Fence, seen: &[(String, Observation)]) -> Result<(), StoreError> {
        let column = |of: fn(&Observation) -> Option<i64>| seen.iter().map(|(_, o)| of(o)).collect::<Vec<_>>();
        let times = |of: fn(&Observation) -> Option<Timestamp>| {
            seen.iter().map(|(_, o)| of(o).map(Stamp::from)).collect::<Vec<Option<Stamp>>>()
        };
        let words = |of: fn(&Observation) -> Option<&str>| {
            seen.iter().map(|(_, o)| of(o).map(|word| text(word).into_owned())).collect::<Vec<Option<String>>>()
        };
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            sqlx::query(
                "INSERT INTO observations
                    (uid, probe_at, probe_verdict, probe_millis, canary_at, canary_verdict, canary_millis, served_at, served_by)
                 SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::bigint[], $5::timestamptz[], $6::text[],
                    $7::bigint[], $8::timestamptz[], $9::text[])
                 ON CONFLICT (uid) DO UPDATE SET probe_at = excluded.probe_at, probe_verdict = excluded.probe_verdict,
                    probe_millis = excluded.probe_millis, canary_at = excluded.canary_at,
                    canary_verdict = excluded.canary_verdict, canary_millis = excluded.canary_millis,
                    served_at = excluded.served_at, served_by = excluded.served_by",
            )
            .bind(seen.iter().map(|(uid, _)| uid.clone()).collect::<Vec<_>>())
            .bind(times(|o| o.probe_at))
            .bind(words(|o| o.probe_verdict.as_deref()))
            .bind(column(|o| o.probe_millis))
            .bind(times(|o| o.canary_at))
            .bind(words(|o| o.canary_verdict.as_deref()))
            .bind(column(|o| o.canary_millis))
            .bind(times(|o| o.served_at))
            .bind(words(|o| o.served_by.as_deref()))
            .execute(session.connection())
            .await?;
            session.commit().await
        })
        .await
    }

    async fn observations(&self) -> Result<Vec<(String, Observation)>, StoreError> {
        let all = sqlx::query_as(
            "SELECT uid, probe_at, probe_verdict, probe_millis, canary_at, canary_verdict, canary_millis, served_at, served_by
             FROM observations ORDER BY uid",
        );
        let records: Vec<ObservationRecord> = self.fetch(all).await?;
        Ok(records.into_iter().map(Into::into).collect())
    }
}

async fn upsert(connection: &mut PgConnection, row: &BackendRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO backends (uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason,
            ready, ready_since, gone_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, NULL)
         ON CONFLICT (uid) DO UPDATE SET namespace = $2, name = $3, generation = $4, engine = $5, url = $6,
            server_url = $7, priority = $8, spec = $9, state = $10, reason = $11, ready = $12, ready_since = $13,
            gone_at = NULL",
    )
    .bind(&row.uid)
    .bind(&row.namespace)
    .bind(&row.name)
    .bind(row.generation)
    .bind(&row.engine)
    .bind(&row.url)
    .bind(&row.server_url)
    .bind(row.priority)
    .bind(json(&row.spec))
    .bind(&row.state)
    .bind(text(&row.reason))
    .bind(row.ready)
    .bind(row.ready_since.map(Stamp::from))
    .execute(connection)
    .await?;
    Ok(())
}

/// A gone backend gives no new slots, unless another one is declared for the same server.
async fn mark_gone(connection: &mut PgConnection, row: &BackendRow) -> Result<(), StoreError> {
    sqlx::query("UPDATE backends SET gone_at = clock_timestamp() WHERE uid = $1 AND gone_at IS NULL")
        .bind(&row.uid)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "UPDATE servers SET admission = 'Closed' WHERE url = $1
         AND NOT EXISTS (SELECT 1 FROM backends WHERE server_url = $1 AND gone_at IS NULL)",
    )
    .bind(&row.server_url)
    .execute(connection)
    .await?;
    Ok(())
}

/// Rows go when nothing refers to them: backends that are gone for long, with what is known about them, and servers that
/// nobody declares any more and that no call can be running on.
async fn purge(connection: &mut PgConnection, kept_seconds: i64) -> Result<(), StoreError> {
    for statement in [
        "WITH stale AS (SELECT server_url FROM backends WHERE gone_at < clock_timestamp() - $1 * interval '1 second')
         DELETE FROM servers WHERE url IN (SELECT server_url FROM stale)
         AND NOT EXISTS (SELECT 1 FROM backends WHERE server_url = servers.url
            AND (gone_at IS NULL OR gone_at >= clock_timestamp() - $1 * interval '1 second'))
         AND NOT EXISTS (SELECT 1 FROM slots WHERE server_url = servers.url
            AND greatest(coalesce(frees_at, lease_expires_at), call_ends_at) > clock_timestamp())",
        "WITH stale AS (DELETE FROM backends WHERE gone_at < clock_timestamp() - $1 * interval '1 second' RETURNING uid),
            seen AS (DELETE FROM observations WHERE uid IN (SELECT uid FROM stale))
         DELETE FROM recoveries WHERE uid IN (SELECT uid FROM stale)",
    ] {
        sqlx::query(statement).bind(kept_seconds).execute(&mut *connection).await?;
    }
    Ok(())
}

//! What was last observed of backends.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::FromRow;

use super::PostgresStore;
use crate::store::changes::Topics;
use crate::store::stamp::Stamp;
use crate::store::text::text;
use crate::store::{BackendRow, Fence, Observation, Observations, StoreError};

#[derive(FromRow)]
struct OfBackend {
    uid: String,
    #[sqlx(flatten)]
    observation: Observation,
}

impl PostgresStore {
    /// These backends are gone; what was observed of them goes with their rows.
    pub(in crate::store) fn swept(&self, _: &[BackendRow]) {
        self.changed(Topics::WORLD);
    }
}

#[async_trait]
impl Observations for PostgresStore {
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
        let all: Vec<OfBackend> = self.fetch(all).await?;
        Ok(all.into_iter().map(|OfBackend { uid, observation }| (uid, observation)).collect())
    }
}

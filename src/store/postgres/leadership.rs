//! The leader's row.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::PostgresStore;
use crate::store::lead::lost;
use crate::store::rows::LeadershipRecord;
use crate::store::{Fence, Leader, Leadership, StoreError};

/// The time is read after the lock was given: the select over the materialized row runs last.
pub(super) const READ_LOCKED: &str =
    "WITH lead AS MATERIALIZED (SELECT holder, epoch, expires_at FROM leadership FOR SHARE)
    SELECT holder, epoch, expires_at, clock_timestamp() AS now FROM lead";
const READ: &str = "SELECT holder, epoch, expires_at, clock_timestamp() AS now FROM leadership";

#[async_trait]
impl Leadership for PostgresStore {
    async fn installation(&self) -> Result<Uuid, StoreError> {
        Ok(self.installation)
    }

    /// A row that is somebody else's is only read: followers write nothing.
    async fn campaign(&self, holder: &str, lease: Duration) -> Result<Option<Fence>, StoreError> {
        let taken = sqlx::query_as(
            "UPDATE leadership SET epoch = CASE WHEN holder = $1 THEN epoch ELSE epoch + 1 END, holder = $1,
                expires_at = clock_timestamp() + $2 * interval '1 microsecond'
             WHERE holder = $1 OR expires_at <= clock_timestamp() RETURNING epoch",
        )
        .bind(holder)
        .bind(micros(lease));
        let taken: Vec<(i64,)> = self.fetch(taken).await?;
        Ok(taken.first().map(|(epoch,)| Fence { holder: holder.to_owned(), epoch: *epoch }))
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), StoreError> {
        let renewal = sqlx::query(
            "UPDATE leadership SET expires_at = clock_timestamp() + $3 * interval '1 microsecond'
             WHERE holder = $1 AND epoch = $2",
        )
        .bind(&fence.holder)
        .bind(fence.epoch)
        .bind(micros(lease));
        match self.execute(renewal).await? {
            1 => Ok(()),
            _ => Err(lost(fence)),
        }
    }

    async fn raise_epoch(&self, fence: &Fence, by: i64) -> Result<Fence, StoreError> {
        let raised =
            sqlx::query_as("UPDATE leadership SET epoch = epoch + $3 WHERE holder = $1 AND epoch = $2 RETURNING epoch");
        let raised: Vec<(i64,)> = self.fetch(raised.bind(&fence.holder).bind(fence.epoch).bind(by)).await?;
        let (epoch,) = raised.into_iter().next().ok_or_else(|| lost(fence))?;
        Ok(Fence { epoch, ..fence.clone() })
    }

    async fn resign(&self, fence: &Fence) -> Result<(), StoreError> {
        let resignation = sqlx::query(
            "UPDATE leadership SET holder = '', expires_at = clock_timestamp() WHERE holder = $1 AND epoch = $2",
        )
        .bind(&fence.holder)
        .bind(fence.epoch);
        self.execute(resignation).await?;
        Ok(())
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        let records: Vec<LeadershipRecord> = self.fetch(sqlx::query_as(READ)).await?;
        Ok(records.into_iter().next().and_then(LeadershipRecord::leader))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

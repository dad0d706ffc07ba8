//! The lead of a data folder: whoever holds its lock leads at once, the row keeps epoch and expiry.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Hold, SqliteStore};
use crate::store::rows::LeadershipRecord;
use crate::store::{Fence, Leader, Leadership, StoreError};

pub(super) const READ: &str = "SELECT holder, epoch, expires_at, ?1 AS now FROM leadership";

#[async_trait]
impl Leadership for SqliteStore {
    async fn installation(&self) -> Result<Uuid, StoreError> {
        Ok(self.installation)
    }

    async fn campaign(&self, holder: &str, lease: Duration) -> Result<Option<Fence>, StoreError> {
        if self.hold == Hold::Share {
            return Ok(None);
        }
        // No look at the expiry: the kernel gave us the lock, so whoever is in the row is dead.
        let epoch = sqlx::query_scalar(
            "UPDATE leadership SET epoch = CASE WHEN holder = ?1 THEN epoch ELSE epoch + 1 END, holder = ?1, expires_at = ?2
             RETURNING epoch",
        )
        .bind(holder)
        .bind(self.now().after(lease))
        .fetch_one(&self.writer)
        .await?;
        Ok(Some(Fence { holder: holder.to_owned(), epoch }))
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), StoreError> {
        let renewed = sqlx::query("UPDATE leadership SET expires_at = ?3 WHERE holder = ?1 AND epoch = ?2")
            .bind(&fence.holder)
            .bind(fence.epoch)
            .bind(self.now().after(lease))
            .execute(&self.writer)
            .await?;
        if renewed.rows_affected() == 1 { Ok(()) } else { Err(lost(fence)) }
    }

    async fn resign(&self, fence: &Fence) -> Result<(), StoreError> {
        sqlx::query("UPDATE leadership SET holder = '', expires_at = ?3 WHERE holder = ?1 AND epoch = ?2")
            .bind(&fence.holder)
            .bind(fence.epoch)
            .bind(self.now())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        let record: LeadershipRecord = sqlx::query_as(READ).bind(self.now()).fetch_one(&self.reader).await?;
        Ok(record.leader())
    }
}

fn lost(fence: &Fence) -> StoreError {
    StoreError::Fenced(format!("{} lost the lead that it had with epoch {}", fence.holder, fence.epoch))
}

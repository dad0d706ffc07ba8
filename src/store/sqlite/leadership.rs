//! The lead of a data folder: whoever holds its lock leads at once. The row keeps holder and epoch; until when, that process keeps in
//! memory, for nobody else could lead.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::lock::FolderLock;
use super::{FolderAccess, SqliteStore};
use crate::store::lead::lost;
use crate::store::rows::LeadershipRecord;
use crate::store::stamp::Stamp;
use crate::store::{Fence, Leader, Leadership, StoreError};

pub(super) const READ: &str = "SELECT holder, epoch, ?1 AS expires_at, ?2 AS now FROM leadership";
/// How long a lead is said to last that its process holds by the folder's lock.
const WHILE_LOCKED: Duration = Duration::from_secs(1);

impl SqliteStore {
    /// When the lead lapses, as far as this process can know.
    pub(super) fn lead_until(&self, now: Stamp) -> Stamp {
        match self.hold {
            FolderAccess::Lock => self.memory.lead_until().unwrap_or(now),
            FolderAccess::Share if FolderLock::is_taken(&self.folder) => now.after(WHILE_LOCKED),
            FolderAccess::Share => now,
        }
    }
}

#[async_trait]
impl Leadership for SqliteStore {
    async fn installation(&self) -> Result<Uuid, StoreError> {
        Ok(self.installation)
    }

    async fn campaign(&self, holder: &str, lease: Duration) -> Result<Option<Fence>, StoreError> {
        if self.hold == FolderAccess::Share {
            return Ok(None);
        }
        let until = self.now().after(lease);
        // The kernel gave us the lock, so whoever is in the row is dead.
        let epoch = sqlx::query_scalar(
            "UPDATE leadership SET epoch = CASE WHEN holder = ?1 THEN epoch ELSE epoch + 1 END, holder = ?1 RETURNING epoch",
        )
        .bind(holder)
        .fetch_one(&self.writer)
        .await?;
        self.memory.set_lead(Some(until));
        Ok(Some(Fence { holder: holder.to_owned(), epoch }))
    }

    /// Reads only: an idle leader writes nothing.
    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), StoreError> {
        let now = self.now();
        let ours: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leadership WHERE holder = ?1 AND epoch = ?2)")
                .bind(&fence.holder)
                .bind(fence.epoch)
                .fetch_one(&self.writer)
                .await?;
        if !ours {
            return Err(lost(fence));
        }
        self.memory.set_lead(Some(now.after(lease)));
        Ok(())
    }

    async fn raise_epoch(&self, fence: &Fence, by: i64) -> Result<Fence, StoreError> {
        let raised = sqlx::query_scalar(
            "UPDATE leadership SET epoch = epoch + ?3 WHERE holder = ?1 AND epoch = ?2 RETURNING epoch",
        );
        let raised = raised.bind(&fence.holder).bind(fence.epoch).bind(by).fetch_optional(&self.writer).await?;
        Ok(Fence { epoch: raised.ok_or_else(|| lost(fence))?, ..fence.clone() })
    }

    async fn resign(&self, fence: &Fence) -> Result<(), StoreError> {
        let resigned = sqlx::query("UPDATE leadership SET holder = '' WHERE holder = ?1 AND epoch = ?2")
            .bind(&fence.holder)
            .bind(fence.epoch)
            .execute(&self.writer)
            .await?;
        if resigned.rows_affected() > 0 {
            self.memory.set_lead(None);
        }
        Ok(())
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        let now = self.now();
        let read = sqlx::query_as::<_, LeadershipRecord>(READ).bind(self.lead_until(now)).bind(now);
        Ok(read.fetch_one(&self.reader).await?.leader())
    }
}

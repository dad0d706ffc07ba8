//! How much one statement may do, so that it ends in its time.

use std::sync::atomic::{AtomicI64, Ordering};

use super::StoreError;

/// Payloads and results that one statement reads, copies or deletes, in bytes. A single task may be larger.
pub(super) const BATCH_BYTES: i64 = 8 << 20;
/// The same for a page of whole tasks.
pub(super) const PAGE_BYTES: i64 = 16 << 20;

/// A number of rows that is halved after a statement was not done in its time, and grows again while they are.
#[derive(Debug)]
pub(super) struct BatchSize {
    now: AtomicI64,
    most: i64,
}

impl BatchSize {
    pub const fn new(most: i64) -> Self {
        Self { now: AtomicI64::new(most), most }
    }

    pub fn rows(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Runs one batch. One that was not done in its time fails, and the next one is half as large: whoever tries again gets on.
    pub async fn run<T>(&self, batch: impl AsyncFnOnce(i64) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let rows = self.rows();
        let done = batch(rows).await;
        match &done {
            Ok(_) => self.now.store((rows + rows / 4 + 1).min(self.most), Ordering::Relaxed),
            Err(StoreError::Unavailable(_)) => self.now.store((rows / 2).max(1), Ordering::Relaxed),
            Err(_) => {}
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_that_took_too_long_is_halved_and_grows_again() {
        let size = BatchSize::new(1_000);
        let at_most = async |most: i64| {
            let slow = Err(StoreError::Unavailable("too slow".into()));
            size.run(async |rows| if rows <= most { Ok(rows) } else { slow }).await
        };
        assert_eq!(at_most(1_000).await, Ok(1_000));
        for _ in 0..3 {
            assert!(at_most(130).await.is_err());
        }
        assert_eq!(at_most(130).await, Ok(125));
        assert_eq!(size.rows(), 157);
        for _ in 0..20 {
            at_most(1_000).await.expect("in time");
        }
        assert_eq!(size.rows(), 1_000);
        for _ in 0..20 {
            at_most(0).await.expect_err("nothing is done in time");
        }
        assert_eq!(size.rows(), 1, "one row is always tried");
    }

    #[tokio::test]
    async fn what_fails_for_another_reason_keeps_its_size() {
        let size = BatchSize::new(1_000);
        let broken = size.run(async |_| Err::<(), _>(StoreError::Broken("no such table".into()))).await;
        assert!(broken.is_err());
        assert_eq!(size.rows(), 1_000);
    }
}

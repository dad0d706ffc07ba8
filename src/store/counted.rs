//! A store whose errors are counted, by what was asked of it.

use std::sync::Arc;

use super::{Changes, Follower, Store, StoreClass, StoreError, Topics};
use crate::telemetry::Metrics;

/// Passes everything on, and counts each error but a lost lead or slot: that is an answer.
pub fn counted(inner: Arc<dyn Store>, metrics: Metrics) -> Arc<dyn Store> {
    Arc::new(Counted { inner, metrics })
}

pub(super) struct Counted {
    pub(super) inner: Arc<dyn Store>,
    metrics: Metrics,
}

impl Counted {
    pub(super) fn count<T>(&self, operation: &str, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let (what, vital) = attempted(operation);
        let troubles = &self.metrics.troubles;
        let class = result.as_ref().err().map(StoreError::class);
        match (class, &result) {
            (None | Some(StoreClass::Lost), _) => troubles.over(what),
            // It is about what somebody sent.
            (Some(StoreClass::Refusal), _) => self.metrics.process.store_error(operation),
            (Some(StoreClass::Passing | StoreClass::Person), result) => {
                self.metrics.process.store_error(operation);
                if let Err(error) = result {
                    troubles.failed(what, error.to_string(), vital);
                }
            }
        }
        result
    }
}

/// What an operation is called in status, and whether anything gets done without it.
fn attempted(operation: &str) -> (&str, bool) {
    match operation {
        "campaign" | "renew" => ("hold the lead", true),
        "open_lease" | "renew_leases" => ("hold leases", true),
        "claim_free" | "claim_slots" | "claim_next" => ("claim tasks", true),
        // One request may be too large for the bounds of a statement.
        "insert_tasks" => ("take tasks", false),
        "complete" => ("record results", true),
        other => (other, false),
    }
}

/// Traits of the store, of methods that can fail, and what counts their errors. Those of `default` are made of others.
macro_rules! store_traits {
    ($($(#[$about:meta])* $name:ident {
        $($(#[$doc:meta])* fn $method:ident($($arg:ident: $ty:ty),* $(,)?) -> $out:ty;)*
        $(default { $($default:tt)* })?
    })*) => {$(
        $(#[$about])*
        #[async_trait]
        pub trait $name: Send + Sync {
            $($(#[$doc])* async fn $method(&self, $($arg: $ty),*) -> Result<$out, StoreError>;)*
            $($($default)*)?
        }

        #[async_trait]
        impl $name for Counted {
            $(async fn $method(&self, $($arg: $ty),*) -> Result<$out, StoreError> {
                self.count(stringify!($method), self.inner.$method($($arg),*).await)
            })*
        }
    )*};
}
pub(super) use store_traits;

impl Changes for Counted {
    fn follow(&self, topics: Topics) -> Follower {
        self.inner.follow(topics)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::store::{Fence, Home, open, sqlite::FolderAccess};

    #[tokio::test]
    async fn what_the_database_does_not_carry_out_is_counted_and_a_lost_lead_is_not() {
        let folder = std::env::temp_dir().join(format!("ostler-counted-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let metrics = Metrics::new();
        let home = Home::Folder { path: folder.clone(), hold: FolderAccess::Lock };
        let store = counted(open(&home, None).await.unwrap(), metrics.clone());
        let nobody = Fence { holder: "nobody".into(), epoch: 7 };
        assert!(matches!(store.renew(&nobody, Duration::from_secs(1)).await, Err(StoreError::Fenced(_))));
        assert_eq!(store.backends().await, Ok(Vec::new()));
        assert!(!metrics.render(Timestamp::now()).contains("ostler_store_errors_total{"));
        let broken = Counted { inner: store, metrics: metrics.clone() };
        let away: Result<(), _> = Err(StoreError::Unavailable("away".into()));
        assert!(broken.count("save_recovery", away).is_err());
        let line = "ostler_store_errors_total{operation=\"save_recovery\"} 1";
        assert!(metrics.render(Timestamp::now()).contains(line));
        let said = || metrics.troubles.all().iter().map(ToString::to_string).collect::<Vec<_>>();
        for error in [StoreError::Refused("no".into()), StoreError::Unavailable("full".into())] {
            for _ in 0..2 {
                broken.count::<()>("complete", Err(error.clone())).unwrap_err();
            }
        }
        assert_eq!(said(), ["the database is unavailable: full (can't record results)"]);
        broken.count("complete", Ok(())).unwrap();
        assert_eq!(said(), Vec::<String>::new());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

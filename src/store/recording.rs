//! How the end of an execution gets into the database that may refuse it.

use super::{Store, StoreClass, StoreError};
use crate::tasks::{Completion, Finished};

/// What became of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Whether it changed anything: a late one does not.
    AsItIs(bool),
    /// The database refuses it for good: something else is recorded in its place.
    Refused { changed: bool, why: String },
}

impl Recorded {
    pub const fn changed(&self) -> bool {
        match self {
            Self::AsItIs(changed) | Self::Refused { changed, .. } => *changed,
        }
    }
}

/// Records one end, or what stands for it where the database refuses it.
///
/// # Errors
/// Where nothing could be recorded. It may be tried again.
pub async fn record(store: &dyn Store, finished: &Finished) -> Result<Recorded, StoreError> {
    match complete(store, &finished.completion).await {
        Ok(changed) => Ok(Recorded::AsItIs(changed)),
        Err(error) if error.class() == StoreClass::Refusal => instead(store, finished, error).await,
        Err(error) => Err(error),
    }
}

async fn instead(store: &dyn Store, finished: &Finished, refusal: StoreError) -> Result<Recorded, StoreError> {
    let why = refusal.to_string();
    for completion in finished.instead(&why) {
        match complete(store, &completion).await {
            Ok(changed) => return Ok(Recorded::Refused { changed, why }),
            Err(error) if error.class() == StoreClass::Refusal => {}
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

async fn complete(store: &dyn Store, completion: &Completion) -> Result<bool, StoreError> {
    Ok(store.complete(std::slice::from_ref(completion)).await? == [true])
}

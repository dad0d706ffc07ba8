//! Results that are given again to the same task of the same queue, where that is declared (`cache`). It is never the reason that a task
//! fails, nor that it begins late.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::{
    api::{AnswerCache, ExpertSpec},
    calls::seconds,
    store::{AnswerKey, Store},
    tasks::ClaimedTask,
};

/// A database that does not tell within this has none.
const LOOK: Duration = Duration::from_millis(500);
/// The largest result that is kept.
const MOST: usize = 1 << 20;
const JSON: &str = "application/json";

/// A task whose result may be kept.
#[derive(Debug)]
pub struct CachedTask {
    key: AnswerKey,
    declared: AnswerCache,
}

impl CachedTask {
    /// `expert`: with its system prompt. `model`: as its server knows it.
    pub fn new(declared: &AnswerCache, task: &ClaimedTask, expert: &ExpertSpec, model: &str) -> Option<Self> {
        let parts = [model.to_owned(), serde_json::to_string(expert).ok()?, serde_json::to_string(&task.payload).ok()?];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let owner = format!("queue {}/{}", task.namespace, task.queue);
        let key = AnswerKey { owner, request: hash.finalize().into() };
        Some(Self { key, declared: declared.clone() })
    }

    /// The result that is kept.
    pub async fn find(&self, store: &dyn Store) -> Option<Value> {
        match timeout(LOOK, store.kept_answer(&self.key)).await {
            Ok(Ok(kept)) => serde_json::from_slice(&kept?.body).ok(),
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look for a kept result; an engine is asked");
                None
            }
            Err(_) => None,
        }
    }

    /// Keeps a result, beside the end of its task.
    pub fn keep(self, store: &Arc<dyn Store>, result: &Value) {
        let (store, body) = (Arc::clone(store), result.to_string().into_bytes());
        if body.len() > MOST {
            return;
        }
        tokio::spawn(async move {
            let AnswerCache { seconds: lasting, mebibytes } = self.declared;
            let most = i64::from(mebibytes.max(0)) << 20;
            if let Err(error) = store.keep_answer(&self.key, JSON, &body, seconds(lasting), most).await {
                tracing::debug!(%error, "a result is not kept");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tasks::Payload, worker::testing};

    #[test]
    fn two_tasks_have_one_result_only_where_nothing_that_matters_differs() {
        let says = |text: &str| ClaimedTask {
            payload: Payload { prompt: Some(text.into()), ..Payload::default() },
            ..testing::task(1)
        };
        let of = |task: &ClaimedTask, prompt: Option<&str>, model: &str| {
            let expert = ExpertSpec { system_prompt: prompt.map(str::to_owned), ..testing::expert() };
            CachedTask::new(&AnswerCache::default(), task, &expert, model).expect("a key").key
        };
        let one = of(&says("hi"), None, "m");
        assert_eq!(of(&ClaimedTask { id: 7, ..says("hi") }, None, "m"), one, "another task with the same words");
        for other in [
            of(&says("ho"), None, "m"),
            of(&says("hi"), Some("Be terse."), "m"),
            of(&says("hi"), None, "n"),
            of(&ClaimedTask { queue: "other".into(), ..says("hi") }, None, "m"),
        ] {
            assert_ne!(other, one);
        }
    }
}

//! Answers that are given again to the same request of the same caller, where that is declared: no slot, no wait, no engine. It is never
//! the reason that a call fails, nor that it begins late.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{client::Client, core::GatewayCore};
use crate::{
    api::AnswerCache,
    calls::{KnownCaller, seconds},
    protocols::Ask,
    store::{AnswerKey, KeptAnswer},
};

/// A database that does not tell within this has none.
const LOOK: Duration = Duration::from_millis(100);
/// The largest answer that is kept.
pub(super) const MOST: usize = 1 << 20;
pub(super) const CACHE: HeaderName = HeaderName::from_static("ostler-cache");

/// What a client wants of the cache (`Cache-Control`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheWish {
    /// `no-cache`: a new answer.
    no_read: bool,
    /// `no-store`: that, and it is not kept.
    no_store: bool,
}

impl CacheWish {
    pub fn of(headers: &HeaderMap) -> Self {
        let words: Vec<String> = headers
            .get_all(header::CACHE_CONTROL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(',').map(|word| word.trim().to_ascii_lowercase()))
            .collect();
        let says = |word: &str| words.iter().any(|said| said == word);
        let no_store = says("no-store");
        Self { no_read: no_store || says("no-cache"), no_store }
    }
}

/// A call whose answer may be kept.
#[derive(Debug)]
pub(super) struct CachedCall {
    key: AnswerKey,
    wish: CacheWish,
    declared: AnswerCache,
}

impl CachedCall {
    /// None: its caller has no cache, or its client wants none of it.
    pub fn of(core: &GatewayCore, caller: &KnownCaller, ask: &Ask<'_>, alias: &str, wish: CacheWish) -> Option<Self> {
        let declared = caller.spec.cache.clone()?;
        let view = core.view();
        if wish.no_store || ask.load.is_some() || !view.aliases(caller).contains(alias) {
            return None;
        }
        // An alias that means another model has other answers.
        let mut models: Vec<String> = view
            .serving(&caller.namespace, alias)
            .flat_map(|backend| {
                backend.spec.models.iter().filter(|model| model.asked_as() == alias).map(|model| model.name.clone())
            })
            .collect();
        models.sort_unstable();
        models.dedup();
        let key = AnswerKey { owner: format!("caller {}", caller.id()), request: hash(ask, alias, &models) };
        Some(Self { key, wish, declared })
    }

    /// Answers with what is kept. False: nothing is.
    pub async fn answer(&self, core: &GatewayCore, client: &Client) -> bool {
        let kept = if self.wish.no_read { None } else { self.find(core).await };
        core.metrics.looked_up(kept.is_some());
        let Some(KeptAnswer { content_type, body, age }) = kept else {
            client.keeps();
            return false;
        };
        let mut headers = HeaderMap::new();
        if let Ok(kind) = HeaderValue::from_str(&content_type) {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
        headers.insert(CACHE, HeaderValue::from_static("hit"));
        client.answer(StatusCode::OK, headers, None, body.into())
    }

    async fn find(&self, core: &GatewayCore) -> Option<KeptAnswer> {
        match timeout(LOOK, core.store.kept_answer(&self.key)).await {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look for a kept answer; an engine is asked");
                None
            }
            Err(_) => None,
        }
    }

    /// Keeps what the client was sent, beside the end of its call.
    pub fn keep(self, core: &Arc<GatewayCore>, client: &Client) {
        let Some((content_type, body)) = client.kept() else { return };
        let core = Arc::clone(core);
        tokio::spawn(async move {
            let Self { key, declared: AnswerCache { seconds: lasting, mebibytes }, .. } = self;
            let most = i64::from(mebibytes.max(0)) << 20;
            let kept = core.store.keep_answer(&key, &content_type, &body, seconds(lasting), most).await;
            if let Err(error) = kept {
                tracing::debug!(%error, "an answer is not kept");
            }
        });
    }
}

/// Of everything that an answer depends on. Each part is preceded by its length, so that no two requests are written the same.
fn hash(ask: &Ask<'_>, alias: &str, models: &[String]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    };
    add(ask.operation.path());
    add(alias);
    add(if ask.streams { "stream" } else { "whole" });
    add(&models.len().to_string());
    models.iter().for_each(|model| add(model));
    for (name, value) in ask.meaning() {
        add(name);
        add(value);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::Operation;

    fn of(body: &str, alias: &str, models: &[&str]) -> [u8; 32] {
        let models: Vec<String> = models.iter().map(|model| (*model).to_owned()).collect();
        hash(&Ask::read(Operation::ChatCompletions, body.as_bytes()).expect("a request"), alias, &models)
    }

    #[test]
    fn two_requests_have_one_answer_only_where_nothing_that_matters_differs() {
        let one = of(r#"{"model":"small","messages":[1],"temperature":0}"#, "small", &["m"]);
        for (body, alias, models, same, why) in [
            (
                r#"{"temperature":0, "messages":[1], "model":"small:latest"}"#,
                "small",
                &["m"][..],
                true,
                "order, spaces, spelling",
            ),
            (
                r#"{"model":"small","messages":[1],"temperature":0,"user":"x","metadata":{}}"#,
                "small",
                &["m"],
                true,
                "who asks",
            ),
            (
                r#"{"model":"small","messages":[1],"temperature":0,"stream":false}"#,
                "small",
                &["m"],
                true,
                "what is so anyway",
            ),
            (r#"{"model":"small","messages":[1],"temperature":0,"stream":true}"#, "small", &["m"], false, "its shape"),
            (r#"{"model":"small","messages":[2],"temperature":0}"#, "small", &["m"], false, "what is said"),
            (r#"{"model":"small","messages":[1],"temperature":1}"#, "small", &["m"], false, "a parameter"),
            (r#"{"model":"small","messages":[1],"temperature":0,"tools":[1]}"#, "small", &["m"], false, "tools"),
            (r#"{"model":"small","messages":[1],"temperature":0}"#, "big", &["m"], false, "the alias"),
            (r#"{"model":"small","messages":[1],"temperature":0}"#, "small", &["n"], false, "the model behind it"),
            (r#"{"model":"small","messages":[1],"temperature":0}"#, "small", &["m", "n"], false, "one more model"),
        ] {
            assert_eq!(of(body, alias, models) == one, same, "{why}");
        }
    }

    #[test]
    fn clients_say_what_they_want_of_a_cache() {
        for (said, no_read, no_store) in [
            ("", false, false),
            ("max-age=0", false, false),
            ("no-cache", true, false),
            ("No-Store, max-age=0", true, true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, said.parse().expect("a value"));
            assert_eq!(CacheWish::of(&headers), CacheWish { no_read, no_store }, "{said}");
        }
    }
}

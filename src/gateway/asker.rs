//! Who asks: by the key that a request carries.

use std::sync::Arc;

use axum::http::{HeaderMap, header};

use crate::calls::{CallerKey, KeyHash, KnownCaller};

/// What a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Presented {
    /// No key of ours: clients of local servers send `none`, or what they have for others.
    Nothing,
    Key(KeyHash),
    /// It begins as one of ours does.
    Mistyped,
}

/// Whoever asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub caller: Arc<KnownCaller>,
    /// `None`: it needed none.
    pub key: Option<KeyHash>,
}

impl Presented {
    /// As clients of OpenAI, Anthropic and Azure send keys.
    pub fn of(headers: &HeaderMap) -> Self {
        let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key)
        });
        let named = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let mut keys = bearer.chain(named("x-api-key")).chain(named("api-key")).map(str::trim);
        match keys.find(|key| CallerKey::is_meant(key)) {
            None => Self::Nothing,
            Some(key) => CallerKey::parse(key).map_or(Self::Mistyped, |key| Self::Key(key.hash())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn a_key_is_found_in_each_header_and_what_is_no_key_of_ours_is_nothing() {
        let key = CallerKey::generate();
        let (text, cut) = (key.text(), &key.text()[..50]);
        let of = |headers: &[(&'static str, &str)]| {
            let each = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            Presented::of(&each.collect())
        };
        let known = Presented::Key(key.hash());
        for (headers, presented) in [
            (vec![], Presented::Nothing),
            (vec![("authorization", format!("Bearer {text}"))], known.clone()),
            (vec![("authorization", format!("bearer  {text} "))], known.clone()),
            (vec![("authorization", format!("Basic {text}"))], Presented::Nothing),
            (vec![("authorization", "Bearer none".to_owned())], Presented::Nothing),
            (vec![("authorization", format!("Bearer {cut}"))], Presented::Mistyped),
            (vec![("x-api-key", text.to_owned())], known.clone()),
            (vec![("api-key", text.to_owned())], known.clone()),
            (vec![("x-api-key", "sk-1".to_owned()), ("api-key", text.to_owned())], known.clone()),
        ] {
            let headers: Vec<(&'static str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(of(&headers), presented, "{headers:?}");
        }
    }
}

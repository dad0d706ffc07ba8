//! Callers of the gateway and their keys. A key is random, so its SHA-256 tells nothing of it; the database has that alone.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    api::{CallerClass, CallerSpec},
    store::{DeclaredRow, SlotCaller, caller_id},
    tasks::share::CallClass,
};

/// What every key begins with, so that scanners of repositories find one that was published.
const PREFIX: &str = "ostler_";
const RANDOM_BYTES: usize = 32;
/// Those bytes in base64, without padding.
const RANDOM_CHARS: usize = 43;
/// A mistyped or cut key is told without asking anybody.
const CHECK_CHARS: usize = 6;

/// A key of a caller. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct CallerKey(String);

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKey(redacted)")
    }
}

/// By which a key is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyHash(String);

impl CallerKey {
    pub fn generate() -> Self {
        let mut bytes = [0; RANDOM_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let check = check(&key);
        Self(key + &check)
    }

    /// `None`: it is no key, or was mistyped.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, given) = text.split_at_checked(PREFIX.len() + RANDOM_CHARS)?;
        let random = key.strip_prefix(PREFIX)?;
        let is_random = random.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        (is_random && given == check(key)).then(|| Self(text.to_owned()))
    }

    /// Whether a text means to be a key, right or wrong: clients of a local server send anything.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash(URL_SAFE_NO_PAD.encode(Sha256::digest(self.0.as_bytes())))
    }

    /// For whoever it is shown to, once.
    pub fn text(&self) -> &str {
        &self.0
    }
}

fn check(key: &str) -> String {
    let mut check = URL_SAFE_NO_PAD.encode(Sha256::digest(key.as_bytes()));
    check.truncate(CHECK_CHARS);
    check
}

/// The spec of a Caller as it is projected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectedCaller {
    #[serde(flatten)]
    pub spec: CallerSpec,
    #[serde(default)]
    pub key_hashes: Vec<KeyHash>,
}

/// A caller as whoever serves it knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownCaller {
    pub namespace: String,
    pub name: String,
    pub suspended: bool,
    pub spec: CallerSpec,
    pub key_hashes: Vec<KeyHash>,
}

impl KnownCaller {
    /// `None`: another release wrote it, which the log says.
    pub fn of(row: DeclaredRow) -> Option<Self> {
        let DeclaredRow { namespace, name, spec, suspended, .. } = row;
        match serde_json::from_value(spec) {
            Ok(ProjectedCaller { spec, key_hashes }) => Some(Self { namespace, name, suspended, spec, key_hashes }),
            Err(error) => {
                tracing::error!(caller = name, %error, "a projected Caller can't be read: another release wrote it");
                None
            }
        }
    }

    /// One that nobody declared: without limits.
    pub fn undeclared(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { namespace, name, suspended: false, spec: CallerSpec::default(), key_hashes: Vec::new() }
    }

    pub fn id(&self) -> String {
        caller_id(&self.namespace, &self.name)
    }

    pub fn class(&self) -> CallClass {
        match self.spec.class {
            CallerClass::Interactive => CallClass::Interactive,
            CallerClass::Batch => CallClass::Batch,
        }
    }

    /// As slots are asked for.
    pub fn for_slots(&self) -> SlotCaller {
        SlotCaller {
            id: self.id(),
            max_concurrent: self.spec.max_concurrent,
            tokens_per_day: self.spec.tokens_per_day,
            weight: self.spec.weight,
        }
    }

    /// The alias that is meant by a name: that of the first pattern that fits, else the name itself.
    pub fn alias_of<'a>(&'a self, asked: &'a str) -> &'a str {
        let fitting = self.spec.aliases.iter().find(|alias| fits(&alias.pattern, asked));
        fitting.map_or(asked, |alias| &alias.alias)
    }

    /// Whether it may ask for an alias.
    pub fn may_ask_for(&self, alias: &str) -> bool {
        self.spec.models.is_empty() || self.spec.models.iter().any(|model| model == alias)
    }
}

/// Whether a text is a pattern with its stars replaced by any text.
pub fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_read_back_and_a_mistyped_one_is_not() {
        let key = CallerKey::generate();
        assert_eq!(key.text().len(), 56);
        assert_eq!(CallerKey::parse(key.text()), Some(key.clone()));
        assert!(!format!("{key:?}").contains(key.text()));
        assert!(!key.hash().0.contains(&key.text()[7..20]));
        assert_ne!(key.hash(), CallerKey::generate().hash());
        let text = key.text();
        let other = if text.ends_with('A') { "B" } else { "A" };
        for wrong in [
            &text[..55],
            &format!("{text}A"),
            &format!("{}{other}", &text[..55]),
            &text.replacen("ostler_", "ostlar_", 1),
            &format!("ostler_ä{}", &text[9..]),
            "ostler_",
            "sk-1234",
            "",
        ] {
            assert_eq!(CallerKey::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, is_fitting) in [
            ("claude-*", "claude-sonnet-4-5", true),
            ("claude-*", "gpt-5", false),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acx", false),
            ("a*c", "abcxc", true),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axcxb", false),
            ("ab*bc", "abc", false),
            ("*", "", true),
            ("*", "any", true),
            ("ab", "ab", true),
            ("ab", "abc", false),
        ] {
            assert_eq!(fits(pattern, text), is_fitting, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_it_is_filled_with(parts in proptest::collection::vec("[ab*.]{0,3}", 1..4), fill in "[abc]{0,3}") {
            let pattern = parts.join("*");
            prop_assert!(fits(&pattern, &pattern.replace('*', &fill)), "{pattern} {fill}");
        }
    }

    #[test]
    fn a_caller_asks_by_its_own_names_for_what_it_may() {
        let spec = json!({
            "aliases": [{"match": "claude-haiku*", "alias": "small"}, {"match": "claude-*", "alias": "coder"}],
            "models": ["small", "coder"], "keyHashes": ["h"],
        });
        let row = DeclaredRow {
            uid: "u".into(),
            kind: "Caller".into(),
            namespace: "team".into(),
            name: "editor".into(),
            generation: 1,
            labels: std::collections::BTreeMap::new(),
            spec,
            suspended: false,
            held: None,
        };
        let caller = KnownCaller::of(row).expect("a caller");
        for (asked, alias, may) in [
            ("claude-haiku-4-5", "small", true),
            ("claude-opus-4", "coder", true),
            ("coder", "coder", true),
            ("big", "big", false),
        ] {
            assert_eq!(caller.alias_of(asked), alias);
            assert_eq!(caller.may_ask_for(alias), may, "{alias}");
        }
        assert_eq!((caller.id().as_str(), caller.spec.weight), ("team/editor", 10));
        assert!(KnownCaller::undeclared("team", "local").may_ask_for("big"));
    }
}

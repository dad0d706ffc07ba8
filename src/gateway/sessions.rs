//! Which server served a conversation last: it has what was said in its prompt cache.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// For so long a conversation prefers the server that served it.
const KEPT: Duration = Duration::from_secs(600);
/// Conversations that are known at once.
const MOST: usize = 10_000;

pub(super) type SessionKey = [u8; 32];

/// Of one gateway process.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<SessionKey, (String, Instant)>>);

impl Sessions {
    /// The server that served it within the last ten minutes.
    pub fn server(&self, key: &SessionKey, now: Instant) -> Option<String> {
        self.0.lock().get(key).filter(|(_, at)| now.duration_since(*at) < KEPT).map(|(server, _)| server.clone())
    }

    pub fn served(&self, key: SessionKey, server: &str, now: Instant) {
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.retain(|_, (_, at)| now.duration_since(*at) < KEPT);
            // Whatever is left is as good as what comes: a conversation that is not known goes by priority.
            if known.len() >= MOST {
                known.clear();
            }
        }
        known.insert(key, (server.to_owned(), now));
    }
}

/// A conversation of a caller with a model.
pub(super) fn key<'a>(caller: &'a str, alias: &'a str, told: impl IntoIterator<Item = &'a str>) -> SessionKey {
    let mut hash = Sha256::new();
    for part in [caller, alias].into_iter().chain(told) {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_a_callers_with_a_model_and_known_for_ten_minutes() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let one = key("team/editor", "small", ["a", "b"]);
        sessions.served(one, "http://mlx", now);
        for (other, known) in [
            (key("team/editor", "small", ["a", "b"]), true),
            (key("team/other", "small", ["a", "b"]), false),
            (key("team/editor", "big", ["a", "b"]), false),
            (key("team/editor", "small", ["ab"]), false),
        ] {
            assert_eq!(sessions.server(&other, now).is_some(), known);
        }
        assert_eq!(sessions.server(&one, now + KEPT), None);
        for n in 0..MOST {
            sessions.served(key("", "", [n.to_string().as_str()]), "http://mlx", now);
        }
        assert!(sessions.0.lock().len() <= MOST);
    }
}

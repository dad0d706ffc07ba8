//! Who is signed in. A session is a cookie, sealed under the installation's key: every replica knows it, a restart keeps it, and nobody can
//! make one up. One-time links are kept by the process that made them.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::seal;

/// After that a person signs in again.
pub const SESSION_LASTS: SignedDuration = SignedDuration::from_hours(12);
/// What fits in a cookie with all else that is in it.
pub const MOST_TOKEN_BYTES: usize = 2_600;
/// A link that is not opened by then is worth nothing.
pub const LINK_LASTS: Duration = Duration::from_secs(60);
/// Links that wait to be opened.
const MOST_LINKS: usize = 100;
/// What the key seals here.
const PURPOSE: &str = "ostler dashboard session";

/// Who a person is, and what a session may do in that person's name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UiGrant {
    pub person: String,
    /// For the API server's reviews; none in a folder, where whoever has its token may do everything.
    pub token: Option<String>,
    /// May change things; else only look.
    pub operate: bool,
}

impl fmt::Debug for UiGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UiGrant").field("person", &self.person).field("operate", &self.operate).finish_non_exhaustive()
    }
}

/// Somebody who is signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UiSession {
    pub grant: UiGrant,
    pub until: Timestamp,
    /// Random: what the session's forms show that they are its own.
    id: Uuid,
}

impl UiSession {
    pub fn new(grant: UiGrant, now: Timestamp) -> Self {
        let until = now.checked_add(SESSION_LASTS).unwrap_or(now);
        Self { grant, until, id: Uuid::new_v4() }
    }

    /// What every form of the session carries: another page can't know it, and it says nothing of the cookie.
    pub fn form_token(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"ostler form ");
        hash.update(self.id.as_bytes());
        hex(&hash.finalize()[..16])
    }
}

/// By the hash of their codes, with when they were made.
type Links = HashMap<[u8; 32], (UiGrant, Instant)>;

/// Seals sessions, and keeps links until they are opened.
#[derive(Clone)]
pub struct UiSessions {
    /// `None` only if no key can be made.
    key: Option<seal::Key>,
    links: Arc<Mutex<Links>>,
}

impl UiSessions {
    /// Without a key of the installation, sessions end with the process.
    pub fn new(key: Option<seal::Key>) -> Self {
        let key = key.or_else(|| seal::Key::parse(&seal::Key::generate()).ok());
        Self { key, links: Arc::default() }
    }

    /// The cookie's value.
    pub fn seal(&self, session: &UiSession) -> Option<String> {
        let text = serde_json::to_string(session).ok()?;
        self.key.as_ref()?.seal_text(PURPOSE, &text).ok()
    }

    /// `None`: nobody's, or one that is over.
    pub fn open(&self, value: &str, now: Timestamp) -> Option<UiSession> {
        let text = self.key.as_ref()?.open_text(PURPOSE, value).ok()?;
        let session: UiSession = serde_json::from_str(&text).ok()?;
        (session.until > now).then_some(session)
    }

    /// The code of a new link; `None`: too many wait to be opened.
    pub fn link(&self, grant: UiGrant) -> Option<String> {
        let mut links = self.links.lock();
        links.retain(|_, (_, made)| made.elapsed() < LINK_LASTS);
        if links.len() >= MOST_LINKS {
            return None;
        }
        let code = Uuid::new_v4().simple().to_string();
        links.insert(hashed(&code), (grant, Instant::now()));
        Some(code)
    }

    /// Who would be signed in by a link; it stays good.
    pub fn of_link(&self, code: &str) -> Option<UiGrant> {
        let links = self.links.lock();
        links.get(&hashed(code)).filter(|(_, made)| made.elapsed() < LINK_LASTS).map(|(grant, _)| grant.clone())
    }

    /// Opens a link: once.
    pub fn open_link(&self, code: &str) -> Option<UiGrant> {
        let (grant, made) = self.links.lock().remove(&hashed(code))?;
        (made.elapsed() < LINK_LASTS).then_some(grant)
    }
}

pub fn hashed(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada(token: Option<&str>) -> UiGrant {
        UiGrant { person: "ada".into(), token: token.map(str::to_owned), operate: true }
    }

    #[test]
    fn a_session_is_opened_by_every_process_with_the_key_until_it_is_over() {
        let key = seal::Key::parse(&seal::Key::generate()).unwrap();
        let [one, other] = [(); 2].map(|()| UiSessions::new(Some(key.clone())));
        let now = Timestamp::from_second(1_000).unwrap();
        let session = UiSession::new(ada(Some("secret")), now);
        let cookie = one.seal(&session).unwrap();
        assert_eq!(other.open(&cookie, now), Some(session.clone()));
        assert_eq!(other.open(&cookie, now.checked_add(SESSION_LASTS).unwrap()), None);
        assert_eq!(UiSessions::new(None).open(&cookie, now), None, "another key");
        assert_eq!(one.open(&cookie[1..], now), None);
        let longest = UiSession::new(ada(Some(&"t".repeat(MOST_TOKEN_BYTES))), now);
        assert!(one.seal(&longest).unwrap().len() < 3_900);
        assert!(!format!("{session:?}").contains("secret"));
    }

    #[test]
    fn a_link_is_good_once() {
        let sessions = UiSessions::new(None);
        let code = sessions.link(ada(None)).unwrap();
        assert_eq!(sessions.of_link(&code), Some(ada(None)));
        assert_eq!(sessions.open_link(&code), Some(ada(None)));
        assert_eq!((sessions.open_link(&code), sessions.of_link(&code)), (None, None));
        assert_eq!(sessions.open_link("made up"), None);
    }

    #[test]
    fn links_that_nobody_opens_are_bounded() {
        let sessions = UiSessions::new(None);
        let made = (0..200).filter(|_| sessions.link(ada(None)).is_some()).count();
        assert_eq!(made, MOST_LINKS);
    }

    #[test]
    fn forms_of_two_sessions_differ() {
        let now = Timestamp::from_second(1_000).unwrap();
        let [one, two] = [(); 2].map(|()| UiSession::new(ada(None), now).form_token());
        assert_ne!(one, two);
        assert_eq!(one.len(), 32);
    }
}

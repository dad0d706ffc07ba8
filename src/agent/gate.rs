//! Who may ask what: pure, from what a request presents and what was seen before.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::host::{
    Action, Credentials, HoldOwner, OperationRequest, Refusal,
    sign::{self, Bound, Covers, Signature, SignatureError},
};

/// A request that is refused: the word for machines and metrics, the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: Refusal,
    pub message: String,
}

impl Refused {
    pub fn new(reason: Refusal, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// An Idempotency-Key that came before, with another request.
    pub fn key_reused(operation: &str) -> Self {
        let message = format!("this Idempotency-Key is operation {operation}, which asked for something else");
        Self::new(Refusal::KeyReused, message)
    }
}

/// What a request brings to prove who sends it.
#[derive(Clone, Debug, Default)]
pub struct Presented {
    /// What its signature covers beside the body; absent for the webhooks of other programs, which sign the body alone.
    pub request: Option<Request>,
    pub signature: Option<Signature>,
    /// From the Authorization header, or the last part of `/recover/TOKEN`.
    pub token: Option<String>,
    /// A browser sent it for some page.
    pub origin: Option<String>,
    pub host: Option<String>,
}

/// What is asked, as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Headers; empty where they lack.
    pub agent: String,
    pub installation: String,
    pub epoch: String,
    pub idempotency_key: String,
}

impl Request {
    fn covered<'a>(&'a self, own_name: &'a str) -> Covers<'a> {
        Covers::Request(Bound {
            agent: own_name,
            method: &self.method,
            path: &self.path,
            installation: &self.installation,
            epoch: &self.epoch,
            idempotency_key: &self.idempotency_key,
        })
    }
}

/// How a request was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Its signature holds. The id is still to be checked against those seen.
    Signed {
        id: String,
    },
    Token,
    /// The agent has neither secret nor token, and listens on loopback only.
    Open,
}

/// Checks credentials. A request with a signature is judged by its signature alone. `name` is the agent's own.
pub fn admit(
    name: &str,
    keys: &Credentials,
    given: &Presented,
    body: &[u8],
    now: Timestamp,
) -> Result<Admission, Refused> {
    let admission = before_body(keys, given, now)?;
    let meant = given.request.as_ref().map_or("", |request| request.agent.as_str());
    let for_another = !meant.is_empty() && meant != name;
    if let Admission::Signed { .. } = &admission {
        let (Some(secret), Some(signature)) = (&keys.signing_secret, &given.signature) else {
            return Err(bad_signature(SignatureError::Mismatch));
        };
        let holds_for = |name: &str| {
            let covers = given.request.as_ref().map_or(Covers::Body, |request| request.covered(name));
            sign::verify_covering(secret, signature, covers, body, now)
        };
        if let Err(error) = holds_for(name) {
            // Signed by one who knows the secret, for another agent.
            let misled = for_another && holds_for(meant).is_ok();
            return Err(if misled { wrong_agent(meant, name) } else { bad_signature(error) });
        }
    }
    if for_another { Err(wrong_agent(meant, name)) } else { Ok(admission) }
}

/// Whoever holds the credentials is told what to mend.
fn wrong_agent(meant: &str, name: &str) -> Refused {
    let meant: String = meant.chars().take(253).collect();
    Refused::new(
        Refusal::WrongAgent,
        format!(
            "the request is for agent {meant:?}, and this is agent {name:?}: correct the HostAgent's url, or set its spec.agent to {name:?}"
        ),
    )
}

/// What can be said of the credentials before the body is read; a signature's code is still to be checked.
pub fn before_body(keys: &Credentials, given: &Presented, now: Timestamp) -> Result<Admission, Refused> {
    if keys.signing_secret.is_none() && keys.token.is_none() {
        return admit_open(given);
    }
    if let (Some(_), Some(signature)) = (&keys.signing_secret, &given.signature) {
        sign::plausible(signature, now).map_err(bad_signature)?;
        return Ok(Admission::Signed { id: signature.id.clone() });
    }
    match (&keys.token, &given.token) {
        (Some(expected), Some(token)) if sign::same(expected.expose().as_bytes(), token.as_bytes()) => {
            Ok(Admission::Token)
        }
        (_, Some(_)) => Err(Refused::new(Refusal::BadToken, "the token is not this agent's")),
        (_, None) => Err(Refused::new(
            Refusal::NoCredentials,
            "sign the request with the agent's secret (Standard Webhooks), or send its bearer token",
        )),
    }
}

fn bad_signature(error: SignatureError) -> Refused {
    let reason = match error {
        SignatureError::Stale(_) => Refusal::StaleTimestamp,
        SignatureError::Malformed | SignatureError::Mismatch => Refusal::BadSignature,
    };
    Refused::new(reason, error.to_string())
}

/// Without credentials the address alone protects: a web page that a browser shows here must not get through.
fn admit_open(given: &Presented) -> Result<Admission, Refused> {
    // Whoever does not say whom it asks may have been sent here by a page, too.
    let host = given.host.as_deref().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(
        host,
        |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
        },
    );
    let loopback =
        name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
    if given.origin.is_some() || !loopback {
        return Err(Refused::new(
            Refusal::NoCredentials,
            "this agent has no secret, so it answers programs on this machine only, and no web pages: give it a signing secret",
        ));
    }
    Ok(Admission::Open)
}

/// Ids of signed requests, kept for as long as their timestamps could still be accepted.
#[derive(Debug, Default)]
pub struct Replays {
    seen: HashMap<String, Timestamp>,
}

/// A timestamp may be five minutes ahead, and is accepted until five minutes after: ten in all.
pub const REPLAY_MEMORY: SignedDuration = SignedDuration::from_secs(2 * sign::TOLERANCE_SECONDS);

impl Replays {
    /// What a restart of the agent brings back.
    pub fn restore(ids: impl IntoIterator<Item = (String, Timestamp)>, now: Timestamp) -> Self {
        let mut replays = Self { seen: ids.into_iter().collect() };
        replays.forget_old(now);
        replays
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.seen.retain(|_, &mut at| now.duration_since(at) <= REPLAY_MEMORY);
    }

    /// Takes an id once.
    pub fn take(&mut self, id: &str, now: Timestamp) -> Result<(), Refused> {
        self.forget_old(now);
        if self.seen.contains_key(id) {
            return Err(Refused::new(
                Refusal::ReplayedId,
                format!("request {id} came before: a retry signs anew, with a new id and the same Idempotency-Key"),
            ));
        }
        self.seen.insert(id.to_owned(), now);
        Ok(())
    }

    pub fn ids(&self) -> impl Iterator<Item = (&String, &Timestamp)> {
        self.seen.iter()
    }

    pub fn len(&self) -> usize {
        self.seen.len()
    }
}

/// Whose leader a request says it comes from: installation and epoch headers as they stand there.
pub fn caller(installation: Option<&str>, epoch: Option<&str>) -> Result<Option<(Uuid, i64)>, Refused> {
    let bad = |what: &str| {
        Refused::new(
            Refusal::BadRequest,
            format!("{what}: send Ostler-Installation (a UUID) and Ostler-Epoch (an integer) together"),
        )
    };
    match (installation, epoch) {
        (None, None) => Ok(None),
        (Some(installation), Some(epoch)) => Ok(Some((
            installation.parse().map_err(|_| bad("the installation is no UUID"))?,
            epoch.parse().map_err(|_| bad("the epoch is no integer"))?,
        ))),
        _ => Err(bad("one of two headers is missing")),
    }
}

/// The highest epoch that was heard of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub epoch: i64,
    pub at: Timestamp,
}

/// No installation changes its leader so often.
const MAX_EPOCH: i64 = 1_000_000_000;
const MAX_JUMP: i64 = 1_000_000;
/// A leader renews its care each ten seconds, and a request that it signed holds for five minutes: a leader that was not heard for
/// longer is none, and whoever used a made-up epoch locks nobody out for ever.
pub const EPOCH_MEMORY: SignedDuration = REPLAY_MEMORY;

/// Refuses a leader that another has followed. Returns whether the epoch is another one than was kept.
pub fn check_epoch(
    highest: &BTreeMap<Uuid, Heard>,
    (installation, epoch): (Uuid, i64),
    now: Timestamp,
) -> Result<bool, Refused> {
    let seen = highest.get(&installation);
    let most = seen.map_or(MAX_EPOCH, |seen| seen.epoch.saturating_add(MAX_JUMP).min(MAX_EPOCH));
    if !(0..=most).contains(&epoch) {
        let why = format!(
            "epoch {epoch} of installation {installation} can't be: it is counted one by one, up to {most} by now"
        );
        return Err(Refused::new(Refusal::BadRequest, why));
    }
    match seen {
        Some(seen) if epoch < seen.epoch && now.duration_since(seen.at) <= EPOCH_MEMORY => Err(Refused::new(
            Refusal::LowerEpoch,
            format!("epoch {epoch} of installation {installation} is over: {} was seen", seen.epoch),
        )),
        Some(seen) => Ok(epoch != seen.epoch),
        None => Ok(true),
    }
}

/// Without a leader's epoch only a person may ask for something, so that a late leader can't leave it out.
pub fn may_omit_epoch(request: &OperationRequest) -> bool {
    match request.owner {
        Some(owner) => owner == HoldOwner::Person,
        None => request.action != Action::Restart,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::{SigningSecret, Token};

    fn now() -> Timestamp {
        "2026-03-01T02:00:00Z".parse().unwrap()
    }

    fn ago(seconds: i64) -> Timestamp {
        now() - SignedDuration::from_secs(seconds)
    }

    #[test]
    fn each_way_in_opens_to_its_own_key_only() {
        let secret = SigningSecret::generate();
        let both = Credentials { signing_secret: Some(secret.clone()), token: Some(Token::new("a-token-of-twenty-1")) };
        let only_secret = Credentials { token: None, ..both.clone() };
        let only_token = Credentials { signing_secret: None, ..both.clone() };
        let none = Credentials::default();
        let signed =
            |s: &SigningSecret, at| Presented { signature: Some(sign::sign(s, b"{}", at)), ..Presented::default() };
        let request =
            || Request { method: "POST".into(), path: "/v1/care".into(), epoch: "7".into(), ..Request::default() };
        let bound_for = |agent: &str, request: Request| {
            let bound = Bound { agent, method: "POST", path: "/v1/care", epoch: "7", ..Bound::default() };
            let signature = Some(sign::sign_request(&secret, bound, b"{}", now()));
            Presented { signature, request: Some(Request { agent: agent.into(), ..request }), ..Presented::default() }
        };
        let token = |t: &str| Presented { token: Some(t.into()), ..Presented::default() };
        let nothing = Presented::default();
        let good = signed(&secret, now());
        let from = |host: &str, origin: Option<&str>| Presented {
            host: Some(host.into()),
            origin: origin.map(Into::into),
            ..Presented::default()
        };
        let cases = [
            ("signed", &both, good.clone(), Ok(())),
            ("signed, no token configured", &only_secret, good.clone(), Ok(())),
            ("signed by another", &both, signed(&SigningSecret::generate(), now()), Err(Refusal::BadSignature)),
            ("signed long ago", &both, signed(&secret, ago(301)), Err(Refusal::StaleTimestamp)),
            ("signed in the future", &both, signed(&secret, ago(-301)), Err(Refusal::StaleTimestamp)),
            (
                "a bad signature is not mended by a token",
                &both,
                Presented { token: Some("a-token-of-twenty-1".into()), ..signed(&SigningSecret::generate(), now()) },
                Err(Refusal::BadSignature),
            ),
            ("token", &both, token("a-token-of-twenty-1"), Ok(())),
            ("wrong token", &both, token("a-token-of-twenty-2"), Err(Refusal::BadToken)),
            ("prefix of the token", &only_token, token("a-token"), Err(Refusal::BadToken)),
            ("a token where only signatures count", &only_secret, token("x"), Err(Refusal::BadToken)),
            ("bound to this agent", &both, bound_for("mac", request()), Ok(())),
            ("bound to another agent", &both, bound_for("other", request()), Err(Refusal::WrongAgent)),
            (
                "another path",
                &both,
                bound_for("mac", Request { path: "/v1/operations".into(), ..request() }),
                Err(Refusal::BadSignature),
            ),
            (
                "another leader",
                &both,
                bound_for("mac", Request { epoch: "8".into(), ..request() }),
                Err(Refusal::BadSignature),
            ),
            (
                "the body alone is signed",
                &both,
                Presented { request: Some(request()), ..good.clone() },
                Err(Refusal::BadSignature),
            ),
            (
                "a token for another agent",
                &both,
                Presented {
                    request: Some(Request { agent: "other".into(), ..request() }),
                    ..token("a-token-of-twenty-1")
                },
                Err(Refusal::WrongAgent),
            ),
            ("a signature where only tokens count", &only_token, good, Err(Refusal::NoCredentials)),
            ("nothing", &both, nothing.clone(), Err(Refusal::NoCredentials)),
            ("no host, open agent", &none, nothing, Err(Refusal::NoCredentials)),
            ("a program here, open agent", &none, from("127.0.0.1:9099", None), Ok(())),
            ("a program here by IPv6, open agent", &none, from("[::1]:9099", None), Ok(())),
            (
                "a web page, open agent",
                &none,
                from("127.0.0.1:9099", Some("https://example.com")),
                Err(Refusal::NoCredentials),
            ),
            ("a rebound name, open agent", &none, from("evil.example:9099", None), Err(Refusal::NoCredentials)),
        ];
        for (name, keys, given, expected) in cases {
            assert_eq!(admit("mac", keys, &given, b"{}", now()).map(drop).map_err(|r| r.reason), expected, "{name}");
        }
    }

    #[test]
    fn a_body_is_read_only_for_credentials_that_may_be_right() {
        let (secret, token) = (SigningSecret::generate(), Token::new("a-token-of-twenty-1"));
        let keys = Credentials { signing_secret: Some(secret.clone()), token: Some(token) };
        let signed = |at| Presented { signature: Some(sign::sign(&secret, b"{}", at)), ..Presented::default() };
        let half = Signature { id: "msg_1".into(), timestamp: String::new(), signature: String::new() };
        for (given, admitted) in [
            (Presented::default(), false),
            (Presented { token: Some("another".into()), ..Presented::default() }, false),
            (Presented { signature: Some(half), ..Presented::default() }, false),
            (signed(ago(301)), false),
            (signed(now()), true),
        ] {
            assert_eq!(before_body(&keys, &given, now()).is_ok(), admitted, "{given:?}");
        }
    }

    #[test]
    fn an_id_is_taken_once_in_ten_minutes_also_after_a_restart() {
        let mut replays = Replays::default();
        replays.take("a", now()).unwrap();
        assert_eq!(replays.take("a", now()).unwrap_err().reason, Refusal::ReplayedId);
        let kept: Vec<_> = replays.ids().map(|(i, t)| (i.clone(), *t)).collect();
        let mut restored = Replays::restore(kept.clone(), ago(-600));
        assert!(restored.take("a", ago(-600)).is_err(), "600 s later");
        let mut late = Replays::restore(kept, ago(-601));
        assert_eq!(late.len(), 0);
        late.take("a", ago(-601)).unwrap();
    }

    #[test]
    fn an_epoch_only_rises_for_each_installation_by_itself() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let seen = BTreeMap::from([(a, Heard { epoch: 7, at: now() })]);
        let check = |caller, at| check_epoch(&seen, caller, at).map_err(|refused| refused.reason);
        assert_eq!(check((a, 7), now()), Ok(false));
        assert_eq!(check((a, 8), now()), Ok(true));
        assert_eq!(check((b, 1), now()), Ok(true));
        assert_eq!(check((a, 6), now()), Err(Refusal::LowerEpoch));
        assert_eq!(check((a, 6), ago(-600)), Err(Refusal::LowerEpoch));
        assert_eq!(check((a, 6), ago(-601)), Ok(true), "nobody was heard since");
        for epoch in [i64::MIN, -1, 7 + MAX_JUMP + 1, i64::MAX] {
            assert_eq!(check((a, epoch), now()), Err(Refusal::BadRequest), "{epoch}");
            assert!(epoch == 7 + MAX_JUMP + 1 || check((b, epoch), now()) == Err(Refusal::BadRequest), "{epoch}");
        }
        assert_eq!(caller(Some("x"), Some("1")).unwrap_err().reason, Refusal::BadRequest);
        assert_eq!(caller(None, Some("1")).unwrap_err().reason, Refusal::BadRequest);
        assert_eq!(caller(None, None), Ok(None));
    }

    #[test]
    fn only_a_person_may_leave_the_epoch_out() {
        let ask = |action, owner| may_omit_epoch(&OperationRequest { owner, ..OperationRequest::new("s", action, "") });
        assert!(ask(Action::Stop, None));
        assert!(ask(Action::Restart, Some(HoldOwner::Person)));
        assert!(!ask(Action::Restart, None));
        assert!(!ask(Action::Hold, Some(HoldOwner::Suspend)));
    }

    proptest! {
        #[test]
        fn no_id_is_ever_taken_twice_within_ten_minutes(asked in prop::collection::vec((0u8..4, 0i64..200), 1..60)) {
            let mut replays = Replays::default();
            let mut taken: HashMap<u8, Timestamp> = HashMap::new();
            let mut clock = now();
            for (id, step) in asked {
                clock += SignedDuration::from_secs(step);
                let fresh = taken.get(&id).is_none_or(|&at| clock.duration_since(at) > REPLAY_MEMORY);
                prop_assert_eq!(replays.take(&id.to_string(), clock).is_ok(), fresh);
                if fresh { taken.insert(id, clock); }
            }
        }
    }
}

//! Whether a request proves who sends it: pure, from what it presents.

use jiff::Timestamp;

use crate::host::{
    AgentRefusal, Credentials,
    sign::{self, Bound, Covers, Signature, SignatureError},
};

/// A request that is refused: the word for machines and metrics, the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: AgentRefusal,
    pub message: String,
}

impl Refused {
    pub fn new(reason: AgentRefusal, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// An Idempotency-Key that came before, with another request.
    pub fn key_reused(operation: &str) -> Self {
        let message = format!("this Idempotency-Key is operation {operation}, which asked for something else");
        Self::new(AgentRefusal::KeyReused, message)
    }
}

/// What a request brings to prove who sends it.
#[derive(Clone, Debug, Default)]
pub struct RequestCredentials {
    /// What its signature covers beside the body; absent for the webhooks of other programs, which sign the body alone.
    pub request: Option<RequestHead>,
    pub signature: Option<Signature>,
    /// From the Authorization header, or the last part of `/recover/TOKEN`.
    pub token: Option<String>,
    /// A browser sent it for some page.
    pub origin: Option<String>,
    pub host: Option<String>,
}

/// What is asked, as it came.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Headers; empty where they lack.
    pub agent: String,
    pub installation: String,
    pub epoch: String,
    pub idempotency_key: String,
}

impl RequestHead {
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
pub enum RequestAdmission {
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
    given: &RequestCredentials,
    body: &[u8],
    now: Timestamp,
) -> Result<RequestAdmission, Refused> {
    let admission = before_body(keys, given, now)?;
    let meant = given.request.as_ref().map_or("", |request| request.agent.as_str());
    let for_another = !meant.is_empty() && meant != name;
    if let RequestAdmission::Signed { .. } = &admission {
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
        AgentRefusal::WrongAgent,
        format!(
            "the request is for agent {meant:?}, and this is agent {name:?}: correct the HostAgent's url, or set its spec.agent to {name:?}"
        ),
    )
}

/// What can be said of the credentials before the body is read; a signature's code is still to be checked.
pub fn before_body(
    keys: &Credentials,
    given: &RequestCredentials,
    now: Timestamp,
) -> Result<RequestAdmission, Refused> {
    if keys.signing_secret.is_none() && keys.token.is_none() {
        return admit_open(given);
    }
    if let (Some(_), Some(signature)) = (&keys.signing_secret, &given.signature) {
        sign::plausible(signature, now).map_err(bad_signature)?;
        return Ok(RequestAdmission::Signed { id: signature.id.clone() });
    }
    match (&keys.token, &given.token) {
        (Some(expected), Some(token)) if sign::same(expected.expose().as_bytes(), token.as_bytes()) => {
            Ok(RequestAdmission::Token)
        }
        (_, Some(_)) => Err(Refused::new(AgentRefusal::BadToken, "the token is not this agent's")),
        (_, None) => Err(Refused::new(
            AgentRefusal::NoCredentials,
            "sign the request with the agent's secret (Standard Webhooks), or send its bearer token",
        )),
    }
}

fn bad_signature(error: SignatureError) -> Refused {
    let reason = match error {
        SignatureError::Stale(_) => AgentRefusal::StaleTimestamp,
        SignatureError::Malformed | SignatureError::Mismatch => AgentRefusal::BadSignature,
    };
    Refused::new(reason, error.to_string())
}

/// Without credentials the address alone protects: a web page that a browser shows here must not get through.
fn admit_open(given: &RequestCredentials) -> Result<RequestAdmission, Refused> {
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
            AgentRefusal::NoCredentials,
            "this agent has no secret, so it answers programs on this machine only, and no web pages: give it a signing secret",
        ));
    }
    Ok(RequestAdmission::Open)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

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
        let signed = |s: &SigningSecret, at| RequestCredentials {
            signature: Some(sign::sign(s, b"{}", at)),
            ..RequestCredentials::default()
        };
        let request = || RequestHead {
            method: "POST".into(),
            path: "/v1/care".into(),
            epoch: "7".into(),
            ..RequestHead::default()
        };
        let bound_for = |agent: &str, request: RequestHead| {
            let bound = Bound { agent, method: "POST", path: "/v1/care", epoch: "7", ..Bound::default() };
            let signature = Some(sign::sign_request(&secret, bound, b"{}", now()));
            RequestCredentials {
                signature,
                request: Some(RequestHead { agent: agent.into(), ..request }),
                ..RequestCredentials::default()
            }
        };
        let token = |t: &str| RequestCredentials { token: Some(t.into()), ..RequestCredentials::default() };
        let nothing = RequestCredentials::default();
        let good = signed(&secret, now());
        let from = |host: &str, origin: Option<&str>| RequestCredentials {
            host: Some(host.into()),
            origin: origin.map(Into::into),
            ..RequestCredentials::default()
        };
        let cases = [
            ("signed", &both, good.clone(), Ok(())),
            ("signed, no token configured", &only_secret, good.clone(), Ok(())),
            ("signed by another", &both, signed(&SigningSecret::generate(), now()), Err(AgentRefusal::BadSignature)),
            ("signed long ago", &both, signed(&secret, ago(301)), Err(AgentRefusal::StaleTimestamp)),
            ("signed in the future", &both, signed(&secret, ago(-301)), Err(AgentRefusal::StaleTimestamp)),
            (
                "a bad signature is not mended by a token",
                &both,
                RequestCredentials {
                    token: Some("a-token-of-twenty-1".into()),
                    ..signed(&SigningSecret::generate(), now())
                },
                Err(AgentRefusal::BadSignature),
            ),
            ("token", &both, token("a-token-of-twenty-1"), Ok(())),
            ("wrong token", &both, token("a-token-of-twenty-2"), Err(AgentRefusal::BadToken)),
            ("prefix of the token", &only_token, token("a-token"), Err(AgentRefusal::BadToken)),
            ("a token where only signatures count", &only_secret, token("x"), Err(AgentRefusal::BadToken)),
            ("bound to this agent", &both, bound_for("mac", request()), Ok(())),
            ("bound to another agent", &both, bound_for("other", request()), Err(AgentRefusal::WrongAgent)),
            (
                "another path",
                &both,
                bound_for("mac", RequestHead { path: "/v1/operations".into(), ..request() }),
                Err(AgentRefusal::BadSignature),
            ),
            (
                "another leader",
                &both,
                bound_for("mac", RequestHead { epoch: "8".into(), ..request() }),
                Err(AgentRefusal::BadSignature),
            ),
            (
                "the body alone is signed",
                &both,
                RequestCredentials { request: Some(request()), ..good.clone() },
                Err(AgentRefusal::BadSignature),
            ),
            (
                "a token for another agent",
                &both,
                RequestCredentials {
                    request: Some(RequestHead { agent: "other".into(), ..request() }),
                    ..token("a-token-of-twenty-1")
                },
                Err(AgentRefusal::WrongAgent),
            ),
            ("a signature where only tokens count", &only_token, good, Err(AgentRefusal::NoCredentials)),
            ("nothing", &both, nothing.clone(), Err(AgentRefusal::NoCredentials)),
            ("no host, open agent", &none, nothing, Err(AgentRefusal::NoCredentials)),
            ("a program here, open agent", &none, from("127.0.0.1:9099", None), Ok(())),
            ("a program here by IPv6, open agent", &none, from("[::1]:9099", None), Ok(())),
            (
                "a web page, open agent",
                &none,
                from("127.0.0.1:9099", Some("https://example.com")),
                Err(AgentRefusal::NoCredentials),
            ),
            ("a rebound name, open agent", &none, from("evil.example:9099", None), Err(AgentRefusal::NoCredentials)),
        ];
        for (name, keys, given, expected) in cases {
            assert_eq!(admit("mac", keys, &given, b"{}", now()).map(drop).map_err(|r| r.reason), expected, "{name}");
        }
    }

    #[test]
    fn a_body_is_read_only_for_credentials_that_may_be_right() {
        let (secret, token) = (SigningSecret::generate(), Token::new("a-token-of-twenty-1"));
        let keys = Credentials { signing_secret: Some(secret.clone()), token: Some(token) };
        let signed = |at| RequestCredentials {
            signature: Some(sign::sign(&secret, b"{}", at)),
            ..RequestCredentials::default()
        };
        let half = Signature { id: "msg_1".into(), timestamp: String::new(), signature: String::new() };
        for (given, admitted) in [
            (RequestCredentials::default(), false),
            (RequestCredentials { token: Some("another".into()), ..RequestCredentials::default() }, false),
            (RequestCredentials { signature: Some(half), ..RequestCredentials::default() }, false),
            (signed(ago(301)), false),
            (signed(now()), true),
        ] {
            assert_eq!(before_body(&keys, &given, now()).is_ok(), admitted, "{given:?}");
        }
    }
}

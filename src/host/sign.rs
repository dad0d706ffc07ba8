//! Standard Webhooks signatures: HMAC-SHA256 over `id.timestamp.body`, with a secret that people see as `whsec_BASE64`. Requests to
//! host agents sign more than that: for whom, what and by which leader they are. Pure: whoever signs or verifies brings the time.

#[cfg(test)]
mod tests;

use std::fmt;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use rand::RngCore;
use sha2::Sha256;
use uuid::Uuid;

pub const HEADER_ID: &str = "webhook-id";
pub const HEADER_TIMESTAMP: &str = "webhook-timestamp";
pub const HEADER_SIGNATURE: &str = "webhook-signature";

/// How far the signer's clock may be from ours, in seconds, in either direction.
pub const TOLERANCE_SECONDS: i64 = 300;

const PREFIX: &str = "whsec_";
/// The specification's range, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret for signing; its `Debug` tells nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

/// Why a text is no signing secret. Never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningSecretError {
    #[error("a signing secret starts with `whsec_`: write `whsec_` and the base64 of 24 to 64 random bytes")]
    NoPrefix,
    #[error("what follows `whsec_` in a signing secret is base64 of 24 to 64 random bytes, and this is not base64")]
    NotBase64,
    #[error("a signing secret has 24 to 64 bytes after decoding, and this one has {0}: make a longer or shorter one")]
    Length(usize),
}

impl SigningSecret {
    /// Reads `whsec_BASE64`; white space around it (a file's last newline) is allowed.
    pub fn parse(text: &str) -> Result<Self, SigningSecretError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(SigningSecretError::NoPrefix)?;
        let key = STANDARD.decode(encoded).map_err(|_| SigningSecretError::NotBase64)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(SigningSecretError::Length(key.len()));
        }
        Ok(Self(key))
    }

    /// A new secret of 32 random bytes.
    pub fn generate() -> Self {
        let mut key = vec![0; 32];
        rand::rng().fill_bytes(&mut key);
        Self(key)
    }

    /// The text that `parse` reads. For the file or Secret that keeps it, never for a log.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    fn keyed(&self) -> Hmac<Sha256> {
        // HMAC takes keys of any length, so this can't fail; an empty key would only make signatures that nobody accepts.
        Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| Hmac::new(&Default::default()))
    }

    fn mac_of(&self, covers: Covers<'_>, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        match covers {
            Covers::Body => self.mac(id, timestamp, body),
            // It begins with a line break before any full stop, which no id has: neither form can be taken for the other.
            Covers::Request(bound) => {
                let mut mac = self.keyed();
                mac.update(bound.lines(id, timestamp).as_bytes());
                mac.update(body);
                mac
            }
        }
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac
    }
}

/// Whether two secrets are the same text, in a time that does not tell where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    // Two codes under a key of this moment: comparing them is constant in time, and their lengths are equal.
    let key = SigningSecret::generate();
    let code = key.mac("", "", a).finalize().into_bytes();
    key.mac("", "", b).verify_slice(&code).is_ok()
}

/// The three headers of a signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Unique for each request: a repeated one is a replay.
    pub id: String,
    /// Unix seconds.
    pub timestamp: String,
    /// `v1,BASE64`; several may stand there, apart by blanks, while a secret is changed.
    pub signature: String,
}

impl Signature {
    /// Header names with their values, for a request under way.
    pub fn headers(&self) -> [(&'static str, &str); 3] {
        [(HEADER_ID, &self.id), (HEADER_TIMESTAMP, &self.timestamp), (HEADER_SIGNATURE, &self.signature)]
    }
}

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the id or the timestamp of the signature is malformed")]
    Malformed,
    #[error(
        "signed {0} s away from this host's clock, 300 s are allowed: set the clocks right, and sign anew on each retry"
    )]
    Stale(i64),
    #[error(
        "the signature does not match: the two sides have different signing secrets, or what was signed is not what was sent"
    )]
    Mismatch,
}

const CLAIM: &str = "claim";

/// What a request to a host agent says beside its body: a signature over all of it holds for no other agent, path or leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound<'a> {
    /// The agent's name in its own file.
    pub agent: &'a str,
    pub method: &'a str,
    /// With the query, as it is sent.
    pub path: &'a str,
    /// The values of `Ostler-Installation`, `Ostler-Epoch` and `Idempotency-Key`; empty where they are not sent.
    pub installation: &'a str,
    pub epoch: &'a str,
    pub idempotency_key: &'a str,
}

impl Bound<'_> {
    /// Nothing here has a line break, so each text has its own line.
    fn lines(&self, id: &str, timestamp: &str) -> String {
        let Bound { agent, method, path, installation, epoch, idempotency_key } = self;
        format!(
            "ostler request\n{id}\n{timestamp}\n{agent}\n{method}\n{path}\n{installation}\n{epoch}\n{idempotency_key}\n"
        )
    }
}

/// What a request's signature covers.
#[derive(Clone, Copy, Debug)]
pub enum Covers<'a> {
    /// As Standard Webhooks has it.
    Body,
    Request(Bound<'a>),
}

/// What an agent shows when it keeps or ends the task that was handed to it: `claim_TASK_EPOCH_CODE`. Whoever knows the secret that
/// requests to that agent are signed with can make one and tell one; nobody else can.
pub fn claim_token(secret: &SigningSecret, task: i64, epoch: i64) -> String {
    let code = secret.mac(CLAIM, &task.to_string(), epoch.to_string().as_bytes()).finalize().into_bytes();
    format!("{CLAIM}_{task}_{epoch}_{}", URL_SAFE_NO_PAD.encode(code))
}

/// The task and the epoch that a claim token names; it is not proven by that. `None`: it is none.
pub fn named_claim(token: &str) -> Option<(i64, i64)> {
    let mut parts = token.strip_prefix(CLAIM)?.strip_prefix('_')?.splitn(3, '_');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether the token is one of this secret, for the task and the epoch that it names.
pub fn verify_claim(secret: &SigningSecret, token: &str) -> bool {
    named_claim(token).is_some_and(|(task, epoch)| same(token.as_bytes(), claim_token(secret, task, epoch).as_bytes()))
}

/// Signs under a new id.
pub fn sign(secret: &SigningSecret, body: &[u8], now: Timestamp) -> Signature {
    sign_as(secret, format!("msg_{}", Uuid::new_v4().simple()), body, now)
}

/// Signs under an id that the caller chose. An id must not contain a full stop.
pub fn sign_as(secret: &SigningSecret, id: String, body: &[u8], now: Timestamp) -> Signature {
    signed(secret, id, Covers::Body, body, now)
}

/// Signs a request to a host agent, under a new id.
pub fn sign_request(secret: &SigningSecret, bound: Bound<'_>, body: &[u8], now: Timestamp) -> Signature {
    signed(secret, format!("msg_{}", Uuid::new_v4().simple()), Covers::Request(bound), body, now)
}

fn signed(secret: &SigningSecret, id: String, covers: Covers<'_>, body: &[u8], now: Timestamp) -> Signature {
    let timestamp = now.as_second().to_string();
    let code = secret.mac_of(covers, &id, &timestamp, body).finalize().into_bytes();
    Signature { signature: format!("v1,{}", STANDARD.encode(code)), id, timestamp }
}

/// Whether one of the signatures is of this secret, over this body, and made within five minutes of `now`. The codes are
/// compared in constant time. Replays are for the caller to refuse: it alone knows the ids it has seen.
pub fn verify(secret: &SigningSecret, given: &Signature, body: &[u8], now: Timestamp) -> Result<(), SignatureError> {
    verify_covering(secret, given, Covers::Body, body, now)
}

/// The same for a signature that may cover more than the body.
pub fn verify_covering(
    secret: &SigningSecret,
    given: &Signature,
    covers: Covers<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), SignatureError> {
    plausible(given, now)?;
    let mac = secret.mac_of(covers, &given.id, &given.timestamp, body);
    let matches = given
        .signature
        .split_ascii_whitespace()
        .take(8)
        .filter_map(|s| s.strip_prefix("v1,"))
        .filter_map(|s| STANDARD.decode(s).ok())
        .any(|code| mac.clone().verify_slice(&code).is_ok());
    if matches { Ok(()) } else { Err(SignatureError::Mismatch) }
}

/// What can be said against a signature before the body is there.
pub fn plausible(given: &Signature, now: Timestamp) -> Result<(), SignatureError> {
    let well_formed = (1..=256).contains(&given.id.len()) && !given.id.contains(['.', '\n']);
    let signed_at: i64 = given.timestamp.parse().map_err(|_| SignatureError::Malformed)?;
    if !well_formed {
        return Err(SignatureError::Malformed);
    }
    let apart = now.as_second().saturating_sub(signed_at);
    if apart.saturating_abs() > TOLERANCE_SECONDS {
        return Err(SignatureError::Stale(apart));
    }
    Ok(())
}

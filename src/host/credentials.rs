//! How callers of a host agent prove who they are.

use std::fmt;

use uuid::Uuid;

use super::sign::SigningSecret;

/// Whose leader asks, and in which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub installation: Uuid,
    pub epoch: i64,
}

/// A bearer token; its `Debug` tells nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// White space around it (a file's last newline) is dropped.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// For the header that carries it, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How a caller proves who it is. With a signing secret every request is signed and the token is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    pub signing_secret: Option<SigningSecret>,
    pub token: Option<Token>,
}

//! Secrets from files, and where the agent may listen with them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::{
    agent::config::Resolved,
    host::{Credentials, SigningSecret, Token},
};

use super::AgentError;

const SHORTEST_TOKEN: usize = 16;

/// Reads what the file names; a secret that the caller brings wins over the file's.
pub fn read(config: &Resolved, given: Option<SigningSecret>) -> Result<Credentials, AgentError> {
    let signing_secret = match (given, &config.signing_secret_file) {
        (Some(secret), _) => Some(secret),
        (None, Some(path)) => {
            let parsed = SigningSecret::parse(&text(path)?);
            Some(parsed.map_err(|e| AgentError::secret(path, e))?)
        }
        (None, None) => None,
    };
    let token = match &config.token_file {
        None => None,
        Some(path) => {
            let token = Token::new(&text(path)?);
            if token.expose().len() < SHORTEST_TOKEN {
                return Err(AgentError::secret(path, format!("a token has {SHORTEST_TOKEN} characters or more")));
            }
            Some(token)
        }
    };
    Ok(Credentials { signing_secret, token })
}

fn text(path: &Path) -> Result<String, AgentError> {
    let text = fs::read_to_string(path).map_err(|e| AgentError::secret(path, e))?;
    if fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
        tracing::warn!(file = %path.display(), "other users can read the agent's secret; run chmod 600 on it");
    }
    Ok(text)
}

/// Whether the agent may listen there with these keys. The error says what to change.
pub fn may_listen(config: &Resolved, keys: &Credentials) -> Result<(), AgentError> {
    let loopback = config.listen.ip().is_loopback();
    let exposed = |why: &'static str| Err(AgentError::Exposed { listen: config.listen, why });
    match (&keys.signing_secret, &keys.token, &config.tls) {
        (None, None, _) if !loopback => {
            exposed("anybody could stop its services: give it auth.signingSecretFile, or listen on 127.0.0.1")
        }
        (_, Some(_), None) if !loopback => exposed(
            "a bearer token could be read on the way: give it tls, or leave auth.tokenFile out and sign requests",
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use super::*;
    use crate::listener::TlsFiles;

    #[test]
    fn only_what_can_not_be_overheard_leaves_the_machine() {
        let secret = || Some(SigningSecret::generate());
        let token = || Some(Token::new("0123456789abcdef"));
        let config = |listen: &str, tls: bool| Resolved {
            listen: listen.parse::<SocketAddr>().unwrap(),
            tls: tls.then(|| TlsFiles { cert: "c".into(), key: "k".into() }),
            signing_secret_file: None,
            token_file: None,
            self_check: Duration::from_secs(1),
            services: Vec::new(),
        };
        for (listen, tls, signing_secret, token, allowed) in [
            ("127.0.0.1:1", false, None, None, true),
            ("[::1]:1", false, None, token(), true),
            ("0.0.0.0:1", false, None, None, false),
            ("0.0.0.0:1", true, None, None, false),
            ("10.0.0.1:1", false, None, token(), false),
            ("10.0.0.1:1", false, secret(), token(), false),
            ("10.0.0.1:1", true, None, token(), true),
            ("10.0.0.1:1", false, secret(), None, true),
        ] {
            let name = format!("{listen} tls={tls} secret={} token={}", signing_secret.is_some(), token.is_some());
            let keys = Credentials { signing_secret, token };
            assert_eq!(may_listen(&config(listen, tls), &keys).is_ok(), allowed, "{name}");
        }
    }
}

//! The client of a HostAgent: its URL, and what the Secrets that it names hold.

use super::{SecretError, Secrets};
use crate::{
    api::HostAgentSpec,
    host::{Credentials, HostError, HttpHost, SigningSecret, Token},
    net::HttpClient,
};

/// How to speak to an agent.
#[derive(Clone)]
pub struct AgentAccess {
    pub host: HttpHost,
    /// Changes with URL, certificate and credentials. It holds them: never shown.
    pub fingerprint: String,
}

/// Why no client can be built for a HostAgent.
#[derive(Debug, thiserror::Error)]
pub enum HostAgentError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("Secret {secret} has neither signingSecret nor token: add one of them")]
    NoCredentials { secret: String },
    #[error("key {key} of Secret {secret}: {cause}")]
    BadValue { secret: String, key: &'static str, cause: String },
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Builds the client of the HostAgent of this name. `http` is the process's client; an agent with a CA of its own gets one of its
/// own.
pub async fn host_agent(
    secrets: &Secrets,
    http: &HttpClient,
    (namespace, name): (&str, &str),
    spec: &HostAgentSpec,
) -> Result<AgentAccess, HostAgentError> {
    let agent = spec.agent.as_deref().unwrap_or(name);
    let mut fingerprint = format!("{} {agent}", spec.url);
    let credentials = match &spec.secret_ref {
        Some(secret) => credentials(secrets, (namespace, &secret.name), &mut fingerprint).await?,
        None => Credentials::default(),
    };
    let http = match &spec.ca_secret_ref {
        Some(ca) => {
            let pem = secrets.text(namespace, &ca.name, "ca.crt").await?;
            fingerprint.push_str(&pem);
            let bad =
                |cause| HostAgentError::BadValue { secret: format!("{namespace}/{}", ca.name), key: "ca.crt", cause };
            HttpClient::trusting(&pem).map_err(|error| bad(error.to_string()))?
        }
        None => http.clone(),
    };
    Ok(AgentAccess { host: HttpHost::new(http, &spec.url, agent, credentials)?, fingerprint })
}

async fn credentials(
    secrets: &Secrets,
    (namespace, name): (&str, &str),
    fingerprint: &mut String,
) -> Result<Credentials, HostAgentError> {
    let secret = || format!("{namespace}/{name}");
    let signing = secrets.optional(namespace, name, "signingSecret").await?;
    let token = secrets.optional(namespace, name, "token").await?;
    if signing.is_none() && token.is_none() {
        return Err(HostAgentError::NoCredentials { secret: secret() });
    }
    fingerprint.push_str(&format!("|{signing:?}|{token:?}"));
    let bad = |cause: crate::host::SigningSecretError| HostAgentError::BadValue {
        secret: secret(),
        key: "signingSecret",
        cause: cause.to_string(),
    };
    let signing_secret = signing.map(|s| SigningSecret::parse(&s)).transpose().map_err(bad)?;
    Ok(Credentials { signing_secret, token: token.as_deref().map(Token::new) })
}

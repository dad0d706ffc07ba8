//! The client of a HostAgent: its URL, and what the Secrets that it names hold.

use reqwest::Certificate;

use super::{Platform, PlatformError};
use crate::{
    api::HostAgentSpec,
    host::{Credentials, HostError, HttpHost, SecretError, SigningSecret, Token},
};

/// Why no client can be built for a HostAgent.
#[derive(Debug, thiserror::Error)]
pub enum HostAgentError {
    #[error("Secret {name} of the agent: {cause}")]
    Secret { name: String, cause: PlatformError },
    #[error("Secret {name} has no key `{key}`: add it")]
    NoKey { name: String, key: &'static str },
    #[error("key `{key}` of Secret {name} is no text")]
    NoText { name: String, key: &'static str },
    #[error("key `signingSecret` of Secret {name}: {cause}")]
    BadSecret { name: String, cause: SecretError },
    #[error("key `ca.crt` of Secret {name} has no certificates in PEM that can be used: {cause}")]
    BadCa { name: String, cause: String },
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Builds the client of an agent. `http` is the process's client; an agent with a CA of its own gets one of its own.
pub async fn host_agent(
    platform: &dyn Platform,
    http: &reqwest::Client,
    namespace: &str,
    spec: &HostAgentSpec,
) -> Result<HttpHost, HostAgentError> {
    let http = match &spec.ca_secret_ref {
        Some(ca) => trusting(&ca.name, &text(platform, namespace, &ca.name, "ca.crt").await?)?,
        None => http.clone(),
    };
    let credentials = match &spec.secret_ref {
        Some(secret) => credentials(platform, namespace, &secret.name).await?,
        None => Credentials::default(),
    };
    Ok(HttpHost::new(http, &spec.url, credentials)?)
}

async fn credentials(platform: &dyn Platform, namespace: &str, name: &str) -> Result<Credentials, HostAgentError> {
    let optional = |found: Result<String, HostAgentError>| match found {
        Ok(text) => Ok(Some(text)),
        Err(HostAgentError::NoKey { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let signing = optional(text(platform, namespace, name, "signingSecret").await)?;
    let token = optional(text(platform, namespace, name, "token").await)?;
    if signing.is_none() && token.is_none() {
        return Err(HostAgentError::NoKey { name: name.to_owned(), key: "signingSecret` or `token" });
    }
    let signing_secret = signing
        .map(|secret| SigningSecret::parse(&secret))
        .transpose()
        .map_err(|cause| HostAgentError::BadSecret { name: name.to_owned(), cause })?;
    Ok(Credentials { signing_secret, token: token.as_deref().map(Token::new) })
}

async fn text(
    platform: &dyn Platform,
    namespace: &str,
    name: &str,
    key: &'static str,
) -> Result<String, HostAgentError> {
    let mut data = platform
        .secret(namespace, name)
        .await
        .map_err(|cause| HostAgentError::Secret { name: name.to_owned(), cause })?;
    let bytes = data.remove(key).ok_or_else(|| HostAgentError::NoKey { name: name.to_owned(), key })?;
    String::from_utf8(bytes).map_err(|_| HostAgentError::NoText { name: name.to_owned(), key })
}

/// A client that trusts these certificates alone, and waits no longer than the process's own.
fn trusting(name: &str, pem: &str) -> Result<reqwest::Client, HostAgentError> {
    let bad = |cause: String| HostAgentError::BadCa { name: name.to_owned(), cause };
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("it is empty".to_owned()));
    }
    reqwest::Client::builder().tls_certs_only(certificates).build().map_err(|e| bad(e.to_string()))
}

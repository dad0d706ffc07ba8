//! The client of a HostAgent: its URL, and what the Secrets that it names hold.

use reqwest::Certificate;

use super::{SecretError, Secrets};
use crate::{
    api::HostAgentSpec,
    host::{Credentials, HostError, HttpHost, SigningSecret, Token},
};

/// How to speak to an agent.
#[derive(Clone)]
pub struct Access {
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

/// Builds the client of an agent. `http` is the process's client; an agent with a CA of its own gets one of its own.
pub async fn host_agent(
    secrets: &Secrets,
    http: &reqwest::Client,
    namespace: &str,
    spec: &HostAgentSpec,
) -> Result<Access, HostAgentError> {
    let mut fingerprint = spec.url.clone();
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
            trusting(&pem).map_err(bad)?
        }
        None => http.clone(),
    };
    Ok(Access { host: HttpHost::new(http, &spec.url, credentials)?, fingerprint })
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
    let bad = |cause: crate::host::SecretError| HostAgentError::BadValue {
        secret: secret(),
        key: "signingSecret",
        cause: cause.to_string(),
    };
    let signing_secret = signing.map(|s| SigningSecret::parse(&s)).transpose().map_err(bad)?;
    Ok(Credentials { signing_secret, token: token.as_deref().map(Token::new) })
}

/// A client that trusts these certificates alone.
fn trusting(pem: &str) -> Result<reqwest::Client, String> {
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|e| e.to_string())?;
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM".to_owned());
    }
    reqwest::Client::builder().tls_certs_only(certificates).build().map_err(|e| e.to_string())
}

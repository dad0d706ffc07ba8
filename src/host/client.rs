//! The way to an agent: one trait, and its implementation over HTTP.

use std::{error::Error, fmt, io, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Method, Url};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    MAX_WAIT_SECONDS,
    container_work::{
        ContainerExecRequest, ContainerExecResult, ContainerLogs, ContainerLogsRequest, ContainerOperation,
        ContainerOperationRequest,
    },
    containers::{ContainerList, ContainerQuery},
    error::{HostError, root_cause},
    header,
    logs::{LogPart, LogRequest},
    messages::{CareRequest, OperationRequest, OperationStatus},
    refusal::{ErrorBody, Refusal},
    report::AgentReport,
    sign::{self, SigningSecret},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than the wait for a change the answer may take.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

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

/// What can be asked of a host agent.
#[async_trait]
pub trait HostApi: Send + Sync {
    async fn report(&self) -> Result<AgentReport, HostError>;

    /// The report as soon as its revision is another one than `after`, or when `wait` (at most [`MAX_WAIT_SECONDS`]) is over. An
    /// agent without revisions answers at once.
    async fn report_after(&self, after: u64, wait: Duration) -> Result<AgentReport, HostError>;

    /// Returns at the agent's 202: follow the id with [`HostApi::operation`]. The same key is the same operation.
    async fn operate(
        &self,
        request: &OperationRequest,
        idempotency_key: &str,
        caller: Caller,
    ) -> Result<OperationStatus, HostError>;

    async fn operation(&self, id: &str) -> Result<OperationStatus, HostError>;

    /// Says that the controller looks after these services, so that the agent's own loop leaves them to it.
    async fn care(&self, request: &CareRequest, caller: Caller) -> Result<(), HostError>;

    /// The containers that are meant, as they are now. With the engine away that is an error, never an empty list.
    async fn containers(&self, query: &ContainerQuery) -> Result<ContainerList, HostError>;

    async fn container_logs(&self, request: &ContainerLogsRequest) -> Result<ContainerLogs, HostError>;

    /// Runs a command in a container and waits for its end.
    async fn container_exec(
        &self,
        request: &ContainerExecRequest,
        caller: Caller,
    ) -> Result<ContainerExecResult, HostError>;

    /// Returns at the agent's 202: follow the id with [`HostApi::container_operation`]. The same key is the same operation.
    async fn operate_container(
        &self,
        request: &ContainerOperationRequest,
        idempotency_key: &str,
        caller: Caller,
    ) -> Result<ContainerOperation, HostError>;

    async fn container_operation(&self, id: &str) -> Result<ContainerOperation, HostError>;
}

/// A host agent over HTTP.
#[derive(Clone, Debug)]
pub struct HttpHost {
    http: reqwest::Client,
    base: Url,
    credentials: Credentials,
}

impl HttpHost {
    /// `http` is the process's client, or one of its own that trusts this agent's CA.
    pub fn new(http: reqwest::Client, url: &str, credentials: Credentials) -> Result<Self, HostError> {
        let bad = |cause: String| HostError::BadUrl { url: url.to_owned(), cause };
        let mut base = Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(bad(format!("scheme {}", base.scheme())));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { http, base, credentials })
    }

    /// A part of what a service wrote.
    pub async fn log(&self, request: &LogRequest) -> Result<LogPart, HostError> {
        self.send(Ask::question("v1/logs", request, &request.service)?).await
    }

    fn url(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    async fn send<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, HostError> {
        let bytes = self.exchange(&ask).await?;
        serde_json::from_slice(&bytes).map_err(|e| HostError::BadReply { url: self.url(), cause: e.to_string() })
    }

    async fn exchange(&self, ask: &Ask<'_>) -> Result<Vec<u8>, HostError> {
        let url = self.base.join(ask.path).map_err(|e| HostError::BadUrl { url: self.url(), cause: e.to_string() })?;
        let unreachable = |e: &reqwest::Error| of_transport(self.url(), e, ask.timeout);
        let mut request = self.http.request(ask.method.clone(), url).timeout(ask.timeout);
        if let Some(secret) = &self.credentials.signing_secret {
            for (name, value) in sign::sign(secret, &ask.body, Timestamp::now()).headers() {
                request = request.header(name, value);
            }
        } else if let Some(token) = &self.credentials.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(key) = ask.idempotency_key {
            request = request.header(header::IDEMPOTENCY_KEY, key);
        }
        if let Some(caller) = ask.caller {
            request = request
                .header(header::INSTALLATION, caller.installation.to_string())
                .header(header::EPOCH, caller.epoch.to_string());
        }
        if !ask.body.is_empty() {
            request = request.header("content-type", "application/json").body(ask.body.clone());
        }
        let response = request.send().await.map_err(|e| unreachable(&e))?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.map_err(|e| unreachable(&e))?.to_vec();
        if (200..300).contains(&status) { Ok(bytes) } else { Err(self.refused(ask, status, &bytes)) }
    }

    async fn follow<T: DeserializeOwned>(&self, path: &str, id: &str) -> Result<T, HostError> {
        // An id is the agent's own, yet it went through a database: nothing of it may leave the path.
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(HostError::UnknownOperation { url: self.url(), id: id.to_owned() });
        }
        self.send(Ask::get(&format!("{path}/{id}"), id)).await
    }

    /// Turns the agent's word for a refusal into ours. A reply without such a word is not an agent's.
    fn refused(&self, ask: &Ask<'_>, status: u16, bytes: &[u8]) -> HostError {
        let url = self.url();
        let Ok(ErrorBody { error: message, reason }) = serde_json::from_slice(bytes) else {
            return HostError::BadReply { url, cause: format!("status {status} without a reason") };
        };
        match (reason, status) {
            (_, 401 | 403) => HostError::Unauthorized { url, reason, message },
            (Refusal::LowerEpoch, _) => HostError::StaleEpoch { url, message },
            (Refusal::ContainerNotAllowed, _) => {
                HostError::ContainerNotAllowed { url, container: ask.subject.to_owned(), message }
            }
            (Refusal::UnknownContainer, _) => {
                HostError::UnknownContainer { url, container: ask.subject.to_owned(), message }
            }
            (Refusal::EngineUnavailable, _) => HostError::EngineUnavailable { url, message },
            (Refusal::UnknownService, _) => HostError::UnknownService { url, service: ask.subject.to_owned() },
            (Refusal::UnknownOperation, _) => HostError::UnknownOperation { url, id: ask.subject.to_owned() },
            (Refusal::Held, _) => HostError::Held { service: ask.subject.to_owned(), message },
            _ => HostError::Refused { url, status, reason, message },
        }
    }
}

struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Vec<u8>,
    caller: Option<Caller>,
    idempotency_key: Option<&'a str>,
    /// The service, container or operation that errors name.
    subject: &'a str,
    timeout: Duration,
}

impl<'a> Ask<'a> {
    fn get(path: &'a str, subject: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            body: Vec::new(),
            caller: None,
            idempotency_key: None,
            subject,
            timeout: TIMEOUT,
        }
    }

    fn post<T: Serialize>(path: &'a str, body: &T, caller: Caller, subject: &'a str) -> Result<Self, HostError> {
        Ok(Self { caller: Some(caller), ..Self::question(path, body, subject)? })
    }

    /// What changes nothing, and needs a body to say what is asked.
    fn question<T: Serialize>(path: &'a str, body: &T, subject: &'a str) -> Result<Self, HostError> {
        let body = serde_json::to_vec(body).map_err(|e| HostError::BadReply {
            url: path.to_owned(),
            cause: format!("can't write the request: {e}"),
        })?;
        Ok(Self { method: Method::POST, body, ..Self::get(path, subject) })
    }
}

#[async_trait]
impl HostApi for HttpHost {
    async fn report(&self) -> Result<AgentReport, HostError> {
        self.send(Ask::get("v1/report", "")).await
    }

    async fn report_after(&self, after: u64, wait: Duration) -> Result<AgentReport, HostError> {
        let seconds = wait.as_secs().clamp(1, MAX_WAIT_SECONDS.into());
        let path = format!("v1/report?after={after}&waitSeconds={seconds}");
        // An agent that is gone must not stay unnoticed for much longer than the wait.
        let timeout = TIMEOUT.max(Duration::from_secs(seconds) + WAIT_MARGIN);
        self.send(Ask { timeout, ..Ask::get(&path, "") }).await
    }

    async fn operate(
        &self,
        request: &OperationRequest,
        idempotency_key: &str,
        caller: Caller,
    ) -> Result<OperationStatus, HostError> {
        let mut ask = Ask::post("v1/operations", request, caller, &request.service)?;
        ask.idempotency_key = Some(idempotency_key);
        self.send(ask).await
    }

    async fn operation(&self, id: &str) -> Result<OperationStatus, HostError> {
        self.follow("v1/operations", id).await
    }

    async fn care(&self, request: &CareRequest, caller: Caller) -> Result<(), HostError> {
        let subject = request.services.join(", ");
        self.exchange(&Ask::post("v1/care", request, caller, &subject)?).await.map(drop)
    }

    async fn containers(&self, query: &ContainerQuery) -> Result<ContainerList, HostError> {
        self.send(Ask::question("v1/containers", query, &query.selector.shown())?).await
    }

    async fn container_logs(&self, request: &ContainerLogsRequest) -> Result<ContainerLogs, HostError> {
        self.send(Ask::question("v1/containers/logs", request, request.target.name())?).await
    }

    async fn container_exec(
        &self,
        request: &ContainerExecRequest,
        caller: Caller,
    ) -> Result<ContainerExecResult, HostError> {
        self.send(Ask::post("v1/containers/exec", request, caller, request.target.name())?).await
    }

    async fn operate_container(
        &self,
        request: &ContainerOperationRequest,
        idempotency_key: &str,
        caller: Caller,
    ) -> Result<ContainerOperation, HostError> {
        let mut ask = Ask::post("v1/containers/operations", request, caller, request.target.name())?;
        ask.idempotency_key = Some(idempotency_key);
        self.send(ask).await
    }

    async fn container_operation(&self, id: &str) -> Result<ContainerOperation, HostError> {
        self.follow("v1/containers/operations", id).await
    }
}

fn of_transport(url: String, error: &reqwest::Error, timeout: Duration) -> HostError {
    if error.is_timeout() {
        return HostError::Unreachable { url, cause: format!("no answer within {} s", timeout.as_secs()) };
    }
    let cause = root_cause(error);
    if is_bad_certificate(error) { HostError::Untrusted { url, cause } } else { HostError::Unreachable { url, cause } }
}

/// Whether rustls refused the agent's certificate.
fn is_bad_certificate(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An I/O error's source is the source of what it wraps: the wrapped error itself is behind get_ref.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = wrapped.and_then(|e| e.downcast_ref()).or_else(|| error.downcast_ref());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(url: &str) -> Result<HttpHost, HostError> {
        // Another test may have done it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        HttpHost::new(reqwest::Client::new(), url, Credentials::default())
    }

    #[test]
    fn a_url_must_be_http() {
        assert!(host("http://127.0.0.1:9099").is_ok());
        assert!(matches!(host("ftp://host/"), Err(HostError::BadUrl { .. })));
        assert!(matches!(host("127.0.0.1:9099"), Err(HostError::BadUrl { .. })));
    }

    #[test]
    fn a_refusal_becomes_the_error_that_its_word_names() {
        let host = host("http://agent:9099").unwrap();
        let ask = Ask::get("v1/report", "ollama");
        let body = |reason: Refusal| serde_json::to_vec(&ErrorBody { error: "no".into(), reason }).unwrap();
        for (reason, status, expected) in [
            (Refusal::BadToken, 401, "HostAgentUnauthorized"),
            (Refusal::ReplayedId, 401, "HostAgentUnauthorized"),
            (Refusal::LowerEpoch, 409, "StaleEpoch"),
            (Refusal::UnknownService, 404, "ServiceUnknown"),
            (Refusal::UnknownOperation, 404, "OperationUnknown"),
            (Refusal::Held, 409, "Held"),
            (Refusal::ContainerNotAllowed, 404, "ContainerNotAllowed"),
            (Refusal::UnknownContainer, 404, "ContainerUnknown"),
            (Refusal::EngineUnavailable, 503, "ContainerEngineUnavailable"),
            (Refusal::BodyTooLarge, 413, "HostAgentRefused"),
        ] {
            assert_eq!(host.refused(&ask, status, &body(reason)).reason(), expected, "{reason:?}");
        }
        assert_eq!(host.refused(&ask, 502, b"<html>").reason(), "HostAgentBadReply");
    }

    #[tokio::test]
    async fn an_agent_that_is_away_is_unreachable_and_says_why() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = host(&format!("http://127.0.0.1:{port}")).unwrap().report().await.unwrap_err();
        assert!(matches!(&error, HostError::Unreachable { cause, .. } if cause.contains("refused")), "{error}");
    }
}

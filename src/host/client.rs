//! The client of a host agent over HTTP.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, Url};
use serde::{Serialize, de::DeserializeOwned};

use crate::net::{Broken, HttpClient, TlsFault, json_fault, redirected, shown};

use super::{
    MAX_MESSAGE_CHARS, MAX_WAIT_SECONDS,
    container_work::{
        ContainerExecRequest, ContainerExecResult, ContainerLogs, ContainerLogsRequest, ContainerOperation,
        ContainerOperationRequest,
    },
    containers::{ContainerList, ContainerQuery},
    credentials::{Caller, Credentials},
    error::{AgentRefusal, ErrorBody, HostError},
    header,
    mask::one_line,
    messages::{CareRequest, LogPart, LogRequest, OperationRequest, OperationStatus},
    report::AgentReport,
    sign::{self, Bound},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// A list of ten thousand containers is below this.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// How much longer than the wait for a change the answer may take.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

/// A host agent over HTTP.
#[derive(Clone, Debug)]
pub struct HttpHost {
    http: HttpClient,
    base: Url,
    /// The agent's name in its own file.
    agent: String,
    credentials: Credentials,
}

impl HttpHost {
    /// `http` is the process's client, or one of its own that trusts this agent's CA.
    /// `agent` is its name in its own file.
    pub fn new(http: HttpClient, url: &str, agent: &str, credentials: Credentials) -> Result<Self, HostError> {
        let bad = |cause: String| HostError::BadUrl { url: shown(url), cause };
        let mut base = Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(bad(format!("scheme {}", base.scheme())));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(bad("it has a user".to_owned()));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { http, base, agent: agent.to_owned(), credentials })
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
        serde_json::from_slice(&bytes).map_err(|e| HostError::BadReply { url: self.url(), cause: json_fault(&e) })
    }

    async fn exchange(&self, ask: &Ask<'_>) -> Result<Vec<u8>, HostError> {
        let url = self.base.join(ask.path).map_err(|e| HostError::BadUrl { url: self.url(), cause: e.to_string() })?;
        let caller = ask.caller.map(|caller| (caller.installation.to_string(), caller.epoch.to_string()));
        let (installation, epoch) = caller.as_ref().map_or(("", ""), |(i, e)| (i.as_str(), e.as_str()));
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = self.http.request(ask.method.clone(), url).header(header::AGENT, &self.agent);
        if let Some(secret) = &self.credentials.signing_secret {
            let bound = Bound {
                agent: &self.agent,
                method: ask.method.as_str(),
                path: &path,
                installation,
                epoch,
                idempotency_key: ask.idempotency_key.unwrap_or_default(),
            };
            for (name, value) in sign::sign_request(secret, bound, &ask.body, Timestamp::now()).headers() {
                request = request.header(name, value);
            }
        } else if let Some(token) = &self.credentials.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(key) = ask.idempotency_key {
            request = request.header(header::IDEMPOTENCY_KEY, key);
        }
        if caller.is_some() {
            request = request.header(header::INSTALLATION, installation).header(header::EPOCH, epoch);
        }
        if !ask.body.is_empty() {
            request = request.header("content-type", "application/json").body(ask.body.clone());
        }
        let broken = |broken: Broken| of_transport(self.url(), broken, ask.timeout);
        let reply = self.http.send_within(request, ask.timeout).await.map_err(broken)?;
        let status = reply.status();
        if let Some(cause) = redirected(status, reply.headers()) {
            return Err(HostError::Misconfigured { url: self.url(), cause });
        }
        if status.is_success() {
            return reply.whole(MAX_ANSWER_BYTES).await.map_err(broken);
        }
        Err(self.refused(ask, status.as_u16(), &reply.refusal().await))
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
        let Ok(ErrorBody { error, reason }) = serde_json::from_slice(bytes) else {
            return HostError::BadReply { url, cause: format!("status {status} without a reason") };
        };
        let message = one_line(&error, MAX_MESSAGE_CHARS);
        match (reason, status) {
            (_, 401 | 403) => HostError::Unauthorized { url, reason, message },
            (AgentRefusal::LowerEpoch, _) => HostError::StaleEpoch { url, message },
            (AgentRefusal::ContainerNotAllowed, _) => {
                HostError::ContainerNotAllowed { url, container: ask.subject.to_owned(), message }
            }
            (AgentRefusal::UnknownContainer, _) => {
                HostError::UnknownContainer { url, container: ask.subject.to_owned(), message }
            }
            (AgentRefusal::EngineUnavailable, _) => HostError::EngineUnavailable { url, message },
            (AgentRefusal::UnknownService, _) => HostError::UnknownService { url, service: ask.subject.to_owned() },
            (AgentRefusal::UnknownOperation, _) => HostError::UnknownOperation { url, id: ask.subject.to_owned() },
            (AgentRefusal::Held, _) => HostError::Held { service: ask.subject.to_owned(), message },
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

impl HttpHost {
    pub async fn report(&self) -> Result<AgentReport, HostError> {
        self.send(Ask::get("v1/report", "")).await.map(AgentReport::bounded)
    }

    /// The report as soon as its revision is another one than `after`, or when `wait` (at most [`MAX_WAIT_SECONDS`]) is over. An
    /// agent without revisions answers at once.
    pub async fn report_after(&self, after: u64, wait: Duration) -> Result<AgentReport, HostError> {
        let seconds = wait.as_secs().clamp(1, MAX_WAIT_SECONDS.into());
        let path = format!("v1/report?after={after}&waitSeconds={seconds}");
        // An agent that is gone must not stay unnoticed for much longer than the wait.
        let timeout = TIMEOUT.max(Duration::from_secs(seconds) + WAIT_MARGIN);
        self.send(Ask { timeout, ..Ask::get(&path, "") }).await.map(AgentReport::bounded)
    }

    /// Returns at the agent's 202: follow the id with [`HttpHost::operation`]. The same key is the same operation.
    pub async fn operate(
        &self,
        request: &OperationRequest,
        idempotency_key: &str,
        caller: Caller,
    ) -> Result<OperationStatus, HostError> {
        let mut ask = Ask::post("v1/operations", request, caller, &request.service)?;
        ask.idempotency_key = Some(idempotency_key);
        self.send(ask).await.map(OperationStatus::bounded)
    }

    pub async fn operation(&self, id: &str) -> Result<OperationStatus, HostError> {
        self.follow("v1/operations", id).await.map(OperationStatus::bounded)
    }

    /// Says that the controller looks after these services, so that the agent's own loop leaves them to it.
    pub async fn care(&self, request: &CareRequest, caller: Caller) -> Result<(), HostError> {
        let subject = request.services.join(", ");
        self.exchange(&Ask::post("v1/care", request, caller, &subject)?).await.map(drop)
    }

    /// The containers that are meant, as they are now. With the engine away that is an error, never an empty list.
    pub async fn containers(&self, query: &ContainerQuery) -> Result<ContainerList, HostError> {
        self.send(Ask::question("v1/containers", query, &query.selector.shown())?).await
    }

    pub async fn container_logs(&self, request: &ContainerLogsRequest) -> Result<ContainerLogs, HostError> {
        self.send(Ask::question("v1/containers/logs", request, request.target.name())?).await
    }

    /// Runs a command in a container and waits for its end.
    pub async fn container_exec(
        &self,
        request: &ContainerExecRequest,
        caller: Caller,
    ) -> Result<ContainerExecResult, HostError> {
        self.send(Ask::post("v1/containers/exec", request, caller, request.target.name())?).await
    }

    /// Returns at the agent's 202: follow the id with [`HttpHost::container_operation`]. The same key is the same operation.
    pub async fn operate_container(
        &self,
        request: &ContainerOperationRequest,
        idempotency_key: &str,
        caller: Caller,
    ) -> Result<ContainerOperation, HostError> {
        let mut ask = Ask::post("v1/containers/operations", request, caller, request.target.name())?;
        ask.idempotency_key = Some(idempotency_key);
        self.send(ask).await.map(ContainerOperation::bounded)
    }

    pub async fn container_operation(&self, id: &str) -> Result<ContainerOperation, HostError> {
        self.follow("v1/containers/operations", id).await.map(ContainerOperation::bounded)
    }
}

fn of_transport(url: String, broken: Broken, timeout: Duration) -> HostError {
    match broken {
        Broken::Timeout => HostError::Unreachable { url, cause: format!("no answer within {} s", timeout.as_secs()) },
        Broken::Tls(fault @ TlsFault::Certificate(_)) => HostError::Untrusted { url, cause: fault.to_string() },
        Broken::Tls(_) | Broken::NotHttp(_) | Broken::Invalid(_) => {
            HostError::Misconfigured { url, cause: broken.to_string() }
        }
        Broken::TooLong(_) => HostError::BadReply { url, cause: broken.to_string() },
        Broken::Refused | Broken::Reset | Broken::Unreachable(_) => {
            HostError::Unreachable { url, cause: broken.to_string() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing;

    fn host(url: &str) -> Result<HttpHost, HostError> {
        crate::net::install_crypto();
        HttpHost::new(HttpClient::direct().unwrap(), url, "host", Credentials::default())
    }

    #[test]
    fn a_url_must_be_http() {
        assert!(host("http://127.0.0.1:9099").is_ok());
        assert!(matches!(host("ftp://host/"), Err(HostError::BadUrl { .. })));
        assert!(matches!(host("127.0.0.1:9099"), Err(HostError::BadUrl { .. })));
        let error = host("http://ada:hunter2@host:9099").unwrap_err();
        assert!(matches!(error, HostError::BadUrl { .. }) && !error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_refusal_becomes_the_error_that_its_word_names() {
        let host = host("http://agent:9099").unwrap();
        let ask = Ask::get("v1/report", "ollama");
        let body = |reason: AgentRefusal| serde_json::to_vec(&ErrorBody { error: "no".into(), reason }).unwrap();
        for (reason, status, expected) in [
            (AgentRefusal::BadToken, 401, "HostAgentUnauthorized"),
            (AgentRefusal::ReplayedId, 401, "HostAgentUnauthorized"),
            (AgentRefusal::LowerEpoch, 409, "StaleEpoch"),
            (AgentRefusal::UnknownService, 404, "ServiceUnknown"),
            (AgentRefusal::UnknownOperation, 404, "OperationUnknown"),
            (AgentRefusal::Held, 409, "Held"),
            (AgentRefusal::ContainerNotAllowed, 404, "ContainerNotAllowed"),
            (AgentRefusal::UnknownContainer, 404, "ContainerUnknown"),
            (AgentRefusal::EngineUnavailable, 503, "ContainerEngineUnavailable"),
            (AgentRefusal::BodyTooLarge, 413, "HostAgentRefused"),
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

    async fn answering(head: &str, piece: &'static [u8], endless: bool) -> HttpHost {
        host(&format!("http://127.0.0.1:{}", testing::answering(head, piece, endless).await)).unwrap()
    }

    #[tokio::test]
    async fn whoever_answers_fills_no_memory_and_no_status() {
        let elsewhere = answering(
            "HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/x?key=y\r\nContent-Length: 0\r\n\r\n",
            b"",
            false,
        );
        let error = elsewhere.await.report().await.unwrap_err();
        assert!(
            matches!(&error, HostError::Misconfigured { cause, .. } if cause.ends_with("(http://10.0.0.1/x)")),
            "{error}"
        );
        let flood = answering("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &[b' '; 65_536], true).await;
        let error = flood.report().await.unwrap_err();
        assert!(matches!(&error, HostError::BadReply { cause, .. } if cause.contains("longer than")), "{error}");
        let secret = answering("HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n", br#""the crown jewels""#, false).await;
        let error = secret.report().await.unwrap_err();
        assert!(matches!(&error, HostError::BadReply { .. }) && !error.to_string().contains("jewels"), "{error}");
    }
}

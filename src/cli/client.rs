//! The client of the REST API.

use std::time::Duration;

use axum::body::Bytes;
use jiff::{Timestamp, fmt::rfc2822};
use parking_lot::Mutex;
use reqwest::{
    Method, StatusCode, Url,
    header::{DATE, HeaderMap},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{CliError, DataDir};
use crate::{
    http::ErrorReply,
    net::{Broken, HttpClient, json_fault, redirected, shown},
};

const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read: lists come in pages.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A way to one Ostler.
pub struct ApiClient {
    http: HttpClient,
    door: Mutex<Door>,
    /// Where to read address and token again when they do not hold any more: an `ostler up` that was restarted has new ones.
    renewed_by: Option<DataDir>,
    /// What to do when nobody answers.
    hint: String,
    /// When the last answer was made, by the server's clock.
    answered_at: Mutex<Option<Timestamp>>,
}

/// Its `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq)]
struct Door {
    base: Url,
    token: String,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").field("base", &self.shown()).finish_non_exhaustive()
    }
}

/// A request that can be made again.
struct Call<'a> {
    method: Method,
    /// What follows `/api/v1`, in segments: a name can't leave its place.
    path: &'a [&'a str],
    query: &'a [(&'a str, String)],
    /// Content type and bytes.
    body: Option<(&'static str, Bytes)>,
    within: Duration,
}

impl Door {
    fn new(address: &str, token: &str) -> Result<Self, CliError> {
        let base = Url::parse(address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                let shown = shown(address);
                CliError::misused(format!("{shown:?} is no address: write http:// or https://, host and port"))
            })?;
        Ok(Self { base, token: token.trim().to_owned() })
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Result<Url, CliError> {
        let mut url = self.base.clone();
        // "." and ".." are taken as steps even when they are pushed as segments.
        if let Some(bad) = path.iter().find(|s| matches!(**s, "" | "." | "..")) {
            return Err(CliError::misused(format!("{bad:?} is no name")));
        }
        url.path_segments_mut()
            .map_err(|()| CliError::misused(format!("{} is no address", shown(self.base.as_str()))))?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

impl ApiClient {
    pub fn new(address: &str, token: &str, hint: &str) -> Result<Self, CliError> {
        let door = Mutex::new(Door::new(address, token)?);
        Ok(Self {
            http: HttpClient::new()?,
            door,
            renewed_by: None,
            hint: hint.to_owned(),
            answered_at: Mutex::default(),
        })
    }

    /// Reads address and token from there again when the server went away or refuses the token.
    #[must_use]
    pub fn renewed_by(self, dir: DataDir) -> Self {
        Self { renewed_by: Some(dir), ..self }
    }

    /// The server's time at its last answer, for ages: this machine's clock may be another one.
    pub fn now(&self) -> Timestamp {
        self.answered_at.lock().unwrap_or_else(Timestamp::now)
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T, CliError> {
        self.answer(&Call { method: Method::GET, path, query, body: None, within: TIMEOUT }).await
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&impl Serialize>,
    ) -> Result<T, CliError> {
        self.post_within(path, query, body, TIMEOUT).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, CliError> {
        self.delete_within(path, &[], TIMEOUT).await
    }

    /// As `post`, for what may take longer.
    pub async fn post_within<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&impl Serialize>,
        within: Duration,
    ) -> Result<T, CliError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(CliError::failed)?;
        let body = body.map(|bytes| ("application/json", Bytes::from(bytes)));
        self.answer(&Call { method: Method::POST, path, query, body, within }).await
    }

    /// As `delete`, for what may take longer.
    pub async fn delete_within<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        within: Duration,
    ) -> Result<T, CliError> {
        self.answer(&Call { method: Method::DELETE, path, query, body: None, within }).await
    }

    /// Sends JSON lines; what the server says against them is for the caller to tell.
    pub async fn post_lines<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        lines: String,
        within: Duration,
    ) -> Result<Result<T, ErrorReply>, CliError> {
        let body = Some(("application/x-ndjson", Bytes::from(lines)));
        let (status, bytes) = self.sent(&Call { method: Method::POST, path, query, body, within }).await?;
        match serde_json::from_slice::<ErrorReply>(&bytes) {
            Ok(reply) if !status.is_success() => Ok(Err(reply)),
            _ => self.understood(status, &bytes).map(Ok),
        }
    }

    async fn answer<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, CliError> {
        let (status, bytes) = self.sent(call).await?;
        self.understood(status, &bytes)
    }

    /// Sends it, and once more where nothing can have come of it and another door is known since.
    async fn sent(&self, call: &Call<'_>) -> Result<(StatusCode, Vec<u8>), CliError> {
        let door = self.door();
        let first = self.sent_to(&door, call).await;
        let may_repeat = match &first {
            Ok((status, _)) => *status == StatusCode::UNAUTHORIZED,
            Err(Refusal::Sent(broken)) => matches!(broken, Broken::Refused | Broken::Unreachable(_) | Broken::Tls(_)),
            Err(Refusal::Misused(_) | Refusal::Redirected(_)) => false,
        };
        let again = match self.renew(&door) {
            Some(renewed) if may_repeat => self.sent_to(&renewed, call).await,
            _ => first,
        };
        again.map_err(|refusal| match refusal {
            Refusal::Misused(error) => error,
            Refusal::Sent(broken) => self.unreachable(&broken),
            Refusal::Redirected(where_to) => {
                CliError::failed(format!("{}: {where_to}, as no Ostler does: {}", self.shown(), self.hint))
            }
        })
    }

    async fn sent_to(&self, door: &Door, call: &Call<'_>) -> Result<(StatusCode, Vec<u8>), Refusal> {
        let url = door.url(call.path, call.query).map_err(Refusal::Misused)?;
        let mut request = self.http.request(call.method.clone(), url).bearer_auth(&door.token);
        if let Some((content_type, bytes)) = &call.body {
            request = request.header("content-type", *content_type).body(bytes.clone());
        }
        let reply = self.http.send_within(request, call.within).await.map_err(Refusal::Sent)?;
        let status = reply.status();
        if let Some(where_to) = redirected(status, reply.headers()) {
            return Err(Refusal::Redirected(where_to));
        }
        *self.answered_at.lock() = date(reply.headers());
        Ok((status, reply.whole(MAX_ANSWER_BYTES).await.map_err(Refusal::Sent)?))
    }

    /// The address, without what may be a secret.
    fn shown(&self) -> String {
        shown(self.door().base.as_str())
    }

    /// The address, where it is one of this machine.
    pub fn loopback(&self) -> Option<String> {
        let base = self.door().base;
        let host = base.host_str()?.trim_matches(['[', ']']);
        let is_loopback = host.parse().map_or(host == "localhost", |ip: std::net::IpAddr| ip.is_loopback());
        is_loopback.then(|| base.origin().ascii_serialization())
    }

    fn door(&self) -> Door {
        self.door.lock().clone()
    }

    /// The door as it is written down now, if that is another one.
    fn renew(&self, old: &Door) -> Option<Door> {
        let endpoint = self.renewed_by.as_ref()?.read_endpoint().ok()??;
        let door = Door::new(&endpoint.address, &endpoint.token).ok().filter(|door| door != old)?;
        door.clone_into(&mut self.door.lock());
        Some(door)
    }

    fn understood<T: DeserializeOwned>(&self, status: StatusCode, bytes: &[u8]) -> Result<T, CliError> {
        if !status.is_success() {
            return Err(self.refused(status, bytes));
        }
        serde_json::from_slice(bytes).map_err(|e| {
            CliError::failed(format!(
                "{} answered what this release does not understand ({}): use the same release on both sides",
                self.shown(),
                json_fault(&e)
            ))
        })
    }

    fn unreachable(&self, broken: &Broken) -> CliError {
        CliError::failed(format!("{} does not answer ({broken}): {}", self.shown(), self.hint))
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> CliError {
        match serde_json::from_slice::<ErrorReply>(bytes) {
            Ok(reply) if reply.hint.is_empty() => CliError::failed(reply.error),
            Ok(reply) => CliError::failed(format!("{}; {}", reply.error, reply.hint)),
            Err(_) => {
                let base = self.shown();
                CliError::failed(format!("{base} answered {status}, as no Ostler does: {}", self.hint))
            }
        }
    }
}

/// `Date: Sun, 01 Mar 2026 12:00:00 GMT`
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(headers.get(DATE)?.as_bytes()).ok()
}

/// Why there is no answer.
enum Refusal {
    Misused(CliError),
    Sent(Broken),
    Redirected(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Result<ApiClient, CliError> {
        crate::net::install_crypto();
        ApiClient::new(address, " t\n", "start one")
    }

    #[test]
    fn a_name_stays_in_its_segment() {
        let client = client("http://127.0.0.1:9180").unwrap();
        let url = |path: &[&str]| client.door().url(path, &[("namespace", "a b".to_owned())]).map(|u| u.to_string());
        assert_eq!(
            url(&["llmbackends", "default", "a/../b?c"]).unwrap(),
            "http://127.0.0.1:9180/api/v1/llmbackends/default/a%2F..%2Fb%3Fc?namespace=a+b"
        );
        for bad in ["", ".", ".."] {
            assert!(url(&["llmbackends", bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_needs_scheme_and_host() {
        for (address, good) in [("http://h:1", true), ("https://h/prefix/", true), ("h:1", false), ("ftp://h", false)] {
            assert_eq!(client(address).is_ok(), good, "{address}");
        }
    }

    #[test]
    fn only_an_address_of_this_machine_is_loopback() {
        for (address, loopback) in [
            ("http://127.0.0.1:9180", Some("http://127.0.0.1:9180")),
            ("http://[::1]:9180/", Some("http://[::1]:9180")),
            ("http://localhost:9180", Some("http://localhost:9180")),
            ("https://ostler.example", None),
            ("http://10.0.0.7:9180", None),
        ] {
            assert_eq!(client(address).unwrap().loopback().as_deref(), loopback, "{address}");
        }
    }

    #[test]
    fn the_servers_clock_is_read_from_its_answers() {
        let headers = HeaderMap::from_iter([(DATE, "Sun, 01 Mar 2026 12:00:00 GMT".parse().unwrap())]);
        assert_eq!(date(&headers).unwrap().to_string(), "2026-03-01T12:00:00Z");
        assert_eq!(date(&HeaderMap::new()), None);
    }

    #[test]
    fn a_refusal_is_told_with_its_mend() {
        let client = client("http://127.0.0.1:9180").unwrap();
        let body = br#"{"error": "no such thing", "reason": "NotFound", "hint": "look elsewhere"}"#;
        let told = client.refused(StatusCode::NOT_FOUND, body).to_string();
        assert_eq!(told, "no such thing; look elsewhere");
        assert!(client.refused(StatusCode::BAD_GATEWAY, b"<html>").to_string().contains("502"));
    }
}

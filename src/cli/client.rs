//! The client of the REST API.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::{Serialize, de::DeserializeOwned};

use super::{CliError, http_client::http_client};
use crate::{host::root_cause, http::ErrorReply};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A way to one Ostler. Its `Debug` does not show the token.
pub struct ApiClient {
    http: reqwest::Client,
    base: Url,
    token: String,
    /// What to do when nobody answers.
    hint: String,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl ApiClient {
    pub fn new(address: &str, token: &str, hint: &str) -> Result<Self, CliError> {
        let base = Url::parse(address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                CliError::misused(format!("{address:?} is no address: write http:// or https://, host and port"))
            })?;
        Ok(Self { http: http_client()?, base, token: token.trim().to_owned(), hint: hint.to_owned() })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T, CliError> {
        self.send(Method::GET, path, query, None::<&()>).await
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&impl Serialize>,
    ) -> Result<T, CliError> {
        self.send(Method::POST, path, query, body).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, CliError> {
        self.send(Method::DELETE, path, &[], None::<&()>).await
    }

    /// As `post`, for what may take longer.
    pub async fn post_within<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&impl Serialize>,
        within: Duration,
    ) -> Result<T, CliError> {
        let request = self.request(Method::POST, path, query)?.timeout(within);
        self.answer(if let Some(body) = body { request.json(body) } else { request }).await
    }

    /// As `delete`, for what may take longer.
    pub async fn delete_within<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        within: Duration,
    ) -> Result<T, CliError> {
        self.answer(self.request(Method::DELETE, path, query)?.timeout(within)).await
    }

    /// Sends JSON lines; what the server says against them is for the caller to tell.
    pub async fn post_lines<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        lines: String,
        within: Duration,
    ) -> Result<Result<T, ErrorReply>, CliError> {
        let request = self.request(Method::POST, path, query)?.timeout(within);
        let (status, bytes) = self.sent(request.header("content-type", "application/x-ndjson").body(lines)).await?;
        match serde_json::from_slice::<ErrorReply>(&bytes) {
            Ok(reply) if !status.is_success() => Ok(Err(reply)),
            _ => self.understood(status, &bytes).map(Ok),
        }
    }

    /// `path` is what follows `/api/v1`, in segments: a name can't leave its place.
    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&impl Serialize>,
    ) -> Result<T, CliError> {
        let request = self.request(method, path, query)?;
        self.answer(if let Some(body) = body { request.json(body) } else { request }).await
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> Result<RequestBuilder, CliError> {
        Ok(self.http.request(method, self.url(path, query)?).timeout(TIMEOUT).bearer_auth(&self.token))
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CliError> {
        let (status, bytes) = self.sent(request).await?;
        self.understood(status, &bytes)
    }

    async fn sent(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), CliError> {
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        Ok((status, bytes.to_vec()))
    }

    fn understood<T: DeserializeOwned>(&self, status: StatusCode, bytes: &[u8]) -> Result<T, CliError> {
        if !status.is_success() {
            return Err(self.refused(status, bytes));
        }
        serde_json::from_slice(bytes).map_err(|e| {
            CliError::failed(format!(
                "{} answered what this release does not understand ({e}): use the same release on both sides",
                self.base
            ))
        })
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Result<Url, CliError> {
        let mut url = self.base.clone();
        // "." and ".." are taken as steps even when they are pushed as segments.
        if let Some(bad) = path.iter().find(|s| matches!(**s, "" | "." | "..")) {
            return Err(CliError::misused(format!("{bad:?} is no name")));
        }
        url.path_segments_mut()
            .map_err(|()| CliError::misused(format!("{} is no address", self.base)))?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let cause = root_cause(error);
        CliError::failed(format!("{} does not answer ({cause}): {}", self.base, self.hint))
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> CliError {
        match serde_json::from_slice::<ErrorReply>(bytes) {
            Ok(reply) if reply.hint.is_empty() => CliError::failed(reply.error),
            Ok(reply) => CliError::failed(format!("{}; {}", reply.error, reply.hint)),
            Err(_) => CliError::failed(format!("{} answered {status}, as no Ostler does: {}", self.base, self.hint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Result<ApiClient, CliError> {
        crate::telemetry::install_crypto();
        ApiClient::new(address, " t\n", "start one")
    }

    #[test]
    fn a_name_stays_in_its_segment() {
        let client = client("http://127.0.0.1:9180").unwrap();
        let url = |path: &[&str]| client.url(path, &[("namespace", "a b".to_owned())]).map(|u| u.to_string());
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
    fn a_refusal_is_told_with_its_mend() {
        let client = client("http://127.0.0.1:9180").unwrap();
        let body = br#"{"error": "no such thing", "reason": "NotFound", "hint": "look elsewhere"}"#;
        let told = client.refused(StatusCode::NOT_FOUND, body).to_string();
        assert_eq!(told, "no such thing; look elsewhere");
        assert!(client.refused(StatusCode::BAD_GATEWAY, b"<html>").to_string().contains("502"));
    }
}

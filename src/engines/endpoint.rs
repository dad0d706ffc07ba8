use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url, header::HeaderMap};
use tokio::time::Instant;

use crate::net::{Broken, HttpClient, HttpReply};

/// A credential. Its `Debug` shows nothing; read it with `expose` where it goes on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Where a server is and how to speak to it. The client is the process's one; time limits are set per call.
#[derive(Debug, Clone)]
pub struct Endpoint {
    client: HttpClient,
    base: Url,
    bearer: Option<Secret>,
}

/// By where it is and the credential; clients can't be compared.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        (&self.base, &self.bearer) == (&other.base, &other.bearer)
    }
}

impl Endpoint {
    pub fn new(client: HttpClient, base: Url, bearer: Option<Secret>) -> Self {
        Self { client, base, bearer }
    }

    /// The base URL, without user info: it goes into messages.
    pub fn base(&self) -> Url {
        let mut shown = self.base.clone();
        // Both fail only for URLs that can't have a host, which have no user info either.
        let _ = shown.set_password(None);
        let _ = shown.set_username("");
        shown
    }

    /// The URL of an absolute path. A base of `https://host/v1` is taken as people mean it: `/v1/models` is not doubled.
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let rest = match path.strip_prefix("/v1") {
            Some(rest) if prefix.ends_with("/v1") && (rest.is_empty() || rest.starts_with('/')) => rest,
            _ => &path,
        };
        url.set_path(&format!("{prefix}{rest}"));
        url.set_query(query);
        url
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let builder = self.client.request(method, self.url(path));
        match &self.bearer {
            Some(secret) => builder.bearer_auth(secret.expose()),
            None => builder,
        }
    }

    pub(super) async fn send(&self, request: RequestBuilder, within: Duration) -> Result<HttpReply, Broken> {
        self.client.send_within(request, within).await
    }

    pub(super) async fn send_until(&self, request: RequestBuilder, until: Instant) -> Result<HttpReply, Broken> {
        self.client.send(request, until).await
    }

    /// Passes somebody else's request on, with this endpoint's credentials. The answer's head is awaited until then; its body has as
    /// long as [`HttpReply::prolonged`] gives it.
    pub async fn pass(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
        until: Instant,
    ) -> Result<HttpReply, Broken> {
        self.send_until(self.request(method, path).headers(headers).body(body), until).await
    }

    pub(super) fn describe(&self, method: &Method, path: &str) -> String {
        format!("{method} {}{path}", self.base().as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: &str) -> Endpoint {
        crate::net::install_crypto();
        Endpoint::new(HttpClient::direct().unwrap(), Url::parse(base).unwrap(), Some(Secret::new("hunter2")))
    }

    #[test]
    fn a_path_is_joined_to_the_base_without_doubling_v1() {
        let cases = [
            ("http://h:1", "/v1/models", "http://h:1/v1/models"),
            ("http://h:1/", "/api/tags", "http://h:1/api/tags"),
            ("http://h:1/", "api/tags?x=1", "http://h:1/api/tags?x=1"),
            ("https://h/v1", "/v1/models", "https://h/v1/models"),
            ("https://h/v1/", "/v1/chat/completions", "https://h/v1/chat/completions"),
            ("https://h/openai", "/v1/models", "https://h/openai/v1/models"),
            ("https://h/v1", "/v10/models", "https://h/v1/v10/models"),
        ];
        for (base, path, url) in cases {
            assert_eq!(at(base).url(path).as_str(), url, "{base} + {path}");
        }
    }

    #[test]
    fn a_secret_is_in_no_debug_output_and_no_message() {
        let endpoint = at("http://ada:hunter2@h:1");
        assert!(!format!("{:?}", Secret::new("hunter2")).contains("hunter2"));
        assert!(!endpoint.describe(&Method::GET, "/x").contains("hunter2"));
    }
}

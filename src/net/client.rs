//! The client, and its proxies.

#![allow(clippy::disallowed_methods, reason = "what others use instead is made here")]

use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Method, NoProxy, Proxy, RequestBuilder, Url, redirect};
use tokio::time::{Instant, timeout_at};

use super::{Broken, HttpReply, is_local, names::Names};

/// For a name, a connection and a TLS handshake together.
const CONNECT: Duration = Duration::from_secs(10);

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{variable} can't be used as a proxy: {source}; correct or unset it")]
    Proxy { variable: &'static str, source: reqwest::Error },
    #[error("{0}")]
    Certificates(String),
    #[error("can't build an HTTP client: {0}")]
    Build(#[from] reqwest::Error),
}

/// A client without time limits of its own: whoever asks says until when they wait. It follows no redirect: prompts and keys would
/// go to whatever answers there.
#[derive(Clone, Debug)]
pub struct HttpClient {
    direct: Client,
    /// For public hosts, where the environment names a proxy.
    proxied: Option<Client>,
    names: Names,
}

impl HttpClient {
    /// The process's client. The proxies of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) are honored for public
    /// addresses and names.
    pub fn new() -> Result<Self, ClientError> {
        Self::assemble(Names::default(), proxies(environment)?, |builder| builder)
    }

    /// A client that uses no proxy: for what is on this machine.
    pub fn direct() -> Result<Self, ClientError> {
        Self::assemble(Names::default(), Vec::new(), |builder| builder)
    }

    /// As the process's client, but it trusts these certificates (PEM) alone.
    pub fn trusting(pem: &str) -> Result<Self, ClientError> {
        let bad = |cause: String| ClientError::Certificates(cause);
        let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        if certificates.is_empty() {
            return Err(bad("it holds no certificate in PEM".to_owned()));
        }
        Self::assemble(Names::default(), proxies(environment)?, |builder| builder.tls_certs_only(certificates.clone()))
    }

    fn assemble(
        names: Names,
        proxies: Vec<Proxy>,
        configure: impl Fn(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, ClientError> {
        let plain = || {
            let bare = Client::builder().connect_timeout(CONNECT).redirect(redirect::Policy::none()).referer(false);
            configure(bare.no_proxy().dns_resolver(names.clone()))
        };
        let proxied = match proxies.is_empty() {
            true => None,
            false => Some(proxies.into_iter().fold(plain(), ClientBuilder::proxy).build()?),
        };
        Ok(Self { direct: plain().build()?, proxied, names })
    }

    /// A request, to be sent by [`HttpClient::send`].
    pub fn request(&self, method: Method, url: impl AsRef<str>) -> RequestBuilder {
        match Url::parse(url.as_ref()) {
            Ok(url) => self.of(&url).request(method, url),
            // It fails again when it is sent, and is told then.
            Err(_) => self.direct.request(method, url.as_ref()),
        }
    }

    pub fn get(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    pub fn post(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::POST, url)
    }

    fn of(&self, url: &Url) -> &Client {
        self.proxied.as_ref().filter(|_| !is_local(url)).unwrap_or(&self.direct)
    }

    /// Sends a request. The answer's body, too, is read until then at most.
    pub async fn send(&self, request: RequestBuilder, until: Instant) -> Result<HttpReply, Broken> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| Broken::of(&error))?;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        match timeout_at(until, client.execute(request)).await {
            Ok(Ok(response)) => Ok(HttpReply::new(response, until)),
            Ok(Err(error)) => Err(Broken::of(&error)),
            Err(_elapsed) => Err(self.names.unresolved(&host).map_or(Broken::Timeout, Broken::Unreachable)),
        }
    }

    /// The same, within a time from now.
    pub async fn send_within(&self, request: RequestBuilder, within: Duration) -> Result<HttpReply, Broken> {
        self.send(request, Instant::now() + within).await
    }
}

/// A client for the exporter of spans to this URL; it bounds what it reads itself.
pub fn exporting(url: &str, timeout: Duration) -> Result<Client, ClientError> {
    let plain = Client::builder().timeout(timeout).redirect(redirect::Policy::none()).referer(false).no_proxy();
    let local = Url::parse(url).is_ok_and(|url| is_local(&url));
    let proxies = if local { Vec::new() } else { proxies(environment)? };
    Ok(proxies.into_iter().fold(plain, ClientBuilder::proxy).build()?)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// As curl: HTTP_PROXY in capitals could be a request's header in CGI, and is taken all the same, as most programs do.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Proxy>, ClientError> {
    let set = |name: &str| {
        [name.to_ascii_lowercase(), name.to_owned()].iter().find_map(|n| variable(n).filter(|v| !v.is_empty()))
    };
    let without = NoProxy::from_string(&set("NO_PROXY").unwrap_or_default());
    let mut proxies = Vec::new();
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let Some(url) = set(variable) else { continue };
        let proxy = match variable {
            "HTTP_PROXY" => Proxy::http(url),
            "HTTPS_PROXY" => Proxy::https(url),
            _ => Proxy::all(url),
        };
        let proxy = proxy.map_err(|source| ClientError::Proxy { variable, source })?;
        proxies.push(proxy.no_proxy(without.clone()));
    }
    Ok(proxies)
}

#[cfg(test)]
mod tests;

//! Who may ask at all. The rules for hosts and origins are Ollama's own, which clients and their users know; no web page from elsewhere
//! asks a server of this machine.

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use axum::http::{HeaderMap, Method, header};
use reqwest::Url;

use super::asker::Presented;
use crate::{
    calls::fits,
    protocols::{Refusal, RefusalReason},
};

/// Schemes of apps whose pages have no host.
const APPS: [&str; 5] = ["app", "file", "tauri", "vscode-webview", "vscode-file"];
/// Hosts whose pages are of this machine.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];
/// Ends of names that mean this machine or its network.
const LOCAL_ENDS: [&str; 3] = [".localhost", ".local", ".internal"];

/// Web pages and apps that may ask beside those that always may.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Origins with `*` for any text: `https://*.example.com`, `moz-extension://*`, `*`.
    pub fn new(patterns: impl IntoIterator<Item = String>) -> Self {
        let each = patterns.into_iter().map(|pattern| pattern.trim().trim_end_matches('/').to_ascii_lowercase());
        Self(each.filter(|pattern| !pattern.is_empty()).collect())
    }

    fn admits(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        is_usual(&origin) || self.0.iter().any(|pattern| fits(pattern, &origin))
    }
}

fn is_usual(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    if APPS.contains(&scheme) {
        return true;
    }
    let (host, port) = rest.split_once(':').unwrap_or((rest, "80"));
    matches!(scheme, "http" | "https") && HOSTS.contains(&host) && port.parse::<u16>().is_ok()
}

/// Somebody at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Visitor {
    /// The page or app that asks.
    pub origin: Option<String>,
    /// A program of this machine, which needs no key.
    pub is_beside: bool,
    pub presented: Presented,
}

/// Admits a request, or says why not. `peer` is whoever opened the connection.
pub(super) fn admit(
    peer: SocketAddr,
    method: &Method,
    headers: &HeaderMap,
    origins: &Origins,
) -> Result<Visitor, Refusal> {
    let refused = |why: String| Err(Refusal::new(RefusalReason::Forbidden, why));
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // What a proxy of this machine passes on may come from anywhere.
    let is_passed_on = headers.contains_key(header::FORWARDED) || headers.contains_key("x-forwarded-for");
    let is_beside = peer.ip().to_canonical().is_loopback() && !is_passed_on;
    let presented = Presented::of(headers);
    let host = text(header::HOST).unwrap_or_default();
    // A page whose name was made to resolve to this machine has no key.
    if is_beside && presented == Presented::Nothing && !is_own_host(host) {
        return refused(format!(
            "host {host:?} is not of this machine or its network: call it by localhost or an address, or send a key"
        ));
    }
    if let Some(origin) = text(header::ORIGIN) {
        if !origins.admits(origin) {
            let why = format!("pages of {origin:?} may not ask: allow them with --origins, or OLLAMA_ORIGINS");
            return refused(why);
        }
        return Ok(Visitor { origin: Some(origin.to_owned()), is_beside, presented });
    }
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    if site == Some("cross-site") && *method != Method::OPTIONS {
        return refused("a page from elsewhere may not ask".to_owned());
    }
    Ok(Visitor { origin: None, is_beside, presented })
}

/// As Ollama's `allowedHostsMiddleware`: a page whose name was made to resolve to this machine is told by its host.
fn is_own_host(host: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{host}/")) else { return false };
    let Some(host) = url.host_str() else { return host.is_empty() };
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    if let Ok(address) = host.parse::<IpAddr>() {
        return match address.to_canonical() {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unspecified(),
        };
    }
    static OWN: OnceLock<Option<String>> = OnceLock::new();
    let own = OWN.get_or_init(|| sysinfo::System::host_name().ok().map(|name| name.to_ascii_lowercase()));
    host == "localhost" || own.as_deref() == Some(&host) || LOCAL_ENDS.iter().any(|end| host.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(peer: &str, headers: &[(&'static str, &str)], origins: &[&str]) -> Result<Visitor, Refusal> {
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_str(value).unwrap())
        });
        let origins = Origins::new(origins.iter().map(|origin| (*origin).to_owned()));
        admit(peer.parse().unwrap(), &Method::POST, &headers.collect(), &origins)
    }

    fn admitted(peer: &str, headers: &[(&'static str, &str)], origins: &[&str]) -> bool {
        visitor(peer, headers, origins).is_ok()
    }

    #[test]
    fn programs_of_this_machine_are_admitted() {
        for (peer, host, admits) in [
            ("127.0.0.1:5", "127.0.0.1:9181", true),
            ("[::1]:5", "[::1]:9181", true),
            ("[::ffff:127.0.0.1]:5", "localhost:9181", true),
            ("127.0.0.1:5", "LOCALHOST", true),
            ("127.0.0.1:5", "192.168.1.7:9181", true),
            ("127.0.0.1:5", "host.docker.internal:9181", true),
            ("127.0.0.1:5", "mac.local", true),
            ("127.0.0.1:5", "rebound.example.com:9181", false),
            ("127.0.0.1:5", "8.8.8.8", false),
            ("127.0.0.1:5", "localhost.example.com", false),
            ("127.0.0.1:5", "a b", false),
        ] {
            assert_eq!(admitted(peer, &[("host", host)], &[]), admits, "{peer} {host}");
        }
    }

    #[test]
    fn who_is_not_beside_needs_a_key_and_with_one_may_come_by_any_name() {
        let key = crate::calls::CallerKey::generate();
        let (own, other) = (("host", "localhost"), ("host", "llm.example.com"));
        for (peer, headers, is_beside) in [
            ("127.0.0.1:5", vec![own], true),
            ("192.168.1.7:5", vec![own], false),
            ("[::ffff:10.0.0.1]:5", vec![other], false),
            ("127.0.0.1:5", vec![own, ("x-forwarded-for", "203.0.113.7")], false),
            ("127.0.0.1:5", vec![other, ("forwarded", "for=203.0.113.7")], false),
            ("127.0.0.1:5", vec![other, ("x-api-key", key.text())], true),
        ] {
            let visitor = visitor(peer, &headers, &[]).map(|visitor| visitor.is_beside);
            assert_eq!(visitor, Ok(is_beside), "{peer} {headers:?}");
        }
        let page = [other, ("x-api-key", key.text()), ("origin", "https://evil.example")];
        assert!(!admitted("192.168.1.7:5", &page, &[]), "a key opens nothing to pages of elsewhere");
    }

    #[test]
    fn pages_are_admitted_by_their_origin() {
        for (origin, admits) in [
            ("http://localhost", true),
            ("http://localhost:3000", true),
            ("https://127.0.0.1:8443", true),
            ("http://localhost.evil.example", false),
            ("http://localhost:3000.evil.example", false),
            ("app://obsidian.md", true),
            ("vscode-webview://0a1b", true),
            ("tauri://localhost", true),
            ("chrome-extension://abc", false),
            ("null", false),
            ("https://chat.example.com", true),
            ("https://example.com.evil.example", false),
        ] {
            let headers = [("host", "localhost:9181"), ("origin", origin)];
            assert_eq!(admitted("127.0.0.1:5", &headers, &["https://*.example.com/"]), admits, "{origin}");
        }
        let cross = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert!(!admitted("127.0.0.1:5", &cross, &["*"]), "a form or an image of another page");
        assert!(admitted("127.0.0.1:5", &[("host", "localhost"), ("origin", "https://any.example")], &["*"]));
        assert!(admitted("127.0.0.1:5", &[("host", "localhost"), ("sec-fetch-site", "none")], &[]));
    }
}

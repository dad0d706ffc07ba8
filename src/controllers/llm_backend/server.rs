//! Servers by URL: one server, one set of slots, one backend.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use kube::ResourceExt;
use reqwest::Url;

use crate::api::LLMBackend;

use super::super::shared::Key;

/// The key of a server: scheme, host and port, and a path that is more than `/v1`. `None` when it is no URL.
pub fn server_url(url: &str) -> Option<String> {
    let parsed = Url::parse(url).ok()?;
    let host = match parsed.host_str()?.to_ascii_lowercase().as_str() {
        "localhost" | "[::1]" => "127.0.0.1".to_owned(),
        host => host.to_owned(),
    };
    let port = parsed.port_or_known_default()?;
    let path = parsed.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    Some(format!("{}://{host}:{port}{path}", parsed.scheme()))
}

/// Whether a URL means the machine that asks.
pub fn is_loopback(url: &str) -> bool {
    let Some(parsed) = Url::parse(url).ok() else { return false };
    let Some(host) = parsed.host_str() else { return false };
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.ends_with(".localhost"),
    }
}

/// For each backend that declares a server which an older one declares already: that older one. The older wins, then the
/// name.
pub fn duplicates(backends: &[Arc<LLMBackend>]) -> HashMap<Key, Key> {
    let mut by_server: HashMap<String, Vec<&LLMBackend>> = HashMap::new();
    for backend in backends {
        if let Some(server) = server_url(&backend.spec.url) {
            by_server.entry(server).or_default().push(backend);
        }
    }
    let mut found = HashMap::new();
    for mut same in by_server.into_values().filter(|same| same.len() > 1) {
        same.sort_by_key(|b| (b.creation_timestamp().map(|t| t.0), b.namespace(), b.name_any()));
        let first = Key::of(same[0]);
        found.extend(same[1..].iter().map(|b| (Key::of(*b), first.clone())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_server_have_one_key() {
        for (url, key) in [
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
            ("http://LOCALHOST:11434/", "http://127.0.0.1:11434"),
            ("http://[::1]:11434/v1/", "http://127.0.0.1:11434"),
            ("https://api.example.com/v1", "https://api.example.com:443"),
            ("https://api.example.com/team/v1", "https://api.example.com:443/team"),
            ("http://user:secret@host:80", "http://host:80"),
        ] {
            assert_eq!(server_url(url).as_deref(), Some(key), "{url}");
        }
        assert_eq!(server_url("no url"), None);
    }

    #[test]
    fn loopback_is_told_by_name_and_address() {
        for (url, loopback) in [
            ("http://localhost:1", true),
            ("http://127.3.4.5:1", true),
            ("http://[::1]:1", true),
            ("http://0.0.0.0:1", true),
            ("http://10.0.0.1:1", false),
            ("http://localhost.example:1", false),
        ] {
            assert_eq!(is_loopback(url), loopback, "{url}");
        }
    }
}

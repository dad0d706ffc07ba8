//! Servers by URL: one server, one set of slots, one backend.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use kube::ResourceExt;
use reqwest::Url;

use crate::api::LLMBackend;

use super::super::shared::NamespacedName;

/// The key of a server: scheme, host and port, and a path that is more than `/v1`. `None` when it is no URL. All addresses of
/// this machine's loopback are one host: a server that listens on one of them answers, in practice, on all.
pub fn server_url(url: &str) -> Option<String> {
    let parsed = Url::parse(url).ok()?;
    let host = host_of(&parsed)?;
    let port = parsed.port_or_known_default()?;
    let path = decoded(parsed.path());
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/');
    Some(format!("{}://{host}:{port}{path}", parsed.scheme()))
}

/// Whether a URL means the machine that asks.
pub fn is_loopback(url: &str) -> bool {
    Url::parse(url).ok().and_then(|parsed| host_of(&parsed)).is_some_and(|host| host == LOOPBACK)
}

/// What every spelling of this machine's loopback becomes.
const LOOPBACK: &str = "127.0.0.1";

/// The host in one spelling. The parser has lowered its case, decoded its percent signs and read the numbers of an IPv4 address.
fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() else {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let own = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"].contains(&name.as_str());
        return Some(if own || name.ends_with(".localhost") { LOOPBACK.to_owned() } else { name });
    };
    Some(match address.to_canonical() {
        ip if ip.is_loopback() || ip.is_unspecified() => LOOPBACK.to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    })
}

/// A path in which letters, digits and `-._~` are written plainly: their percent signs change nothing (RFC 3986, 6.2.2.2).
fn decoded(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => plain.push(byte.into()),
            Some(byte) => plain.push_str(&format!("%{byte:02X}")),
            None => plain.push('%'),
        }
        rest = &rest[at + if code.is_some() { 3 } else { 1 }..];
    }
    plain + rest
}

/// For each backend that declares a server which an older one declares already: that older one, of its own namespace if there is
/// one there. The older wins, then the name.
pub fn duplicates(backends: &[Arc<LLMBackend>]) -> HashMap<NamespacedName, NamespacedName> {
    let mut by_server: HashMap<String, Vec<&LLMBackend>> = HashMap::new();
    for backend in backends {
        if let Some(server) = server_url(&backend.spec.url) {
            by_server.entry(server).or_default().push(backend);
        }
    }
    let mut found = HashMap::new();
    for mut same in by_server.into_values().filter(|same| same.len() > 1) {
        same.sort_by_key(|b| (b.creation_timestamp().map(|t| t.0), b.namespace(), b.name_any()));
        for (at, backend) in same.iter().enumerate().skip(1) {
            let older = same[..at].iter().find(|older| older.namespace() == backend.namespace()).unwrap_or(&same[0]);
            found.insert(NamespacedName::of(*backend), NamespacedName::of(*older));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_is_of_its_own_namespace_first() {
        let backend = |namespace: &str, name: &str, second: u32| {
            let object = serde_json::json!({
                "apiVersion": "ostler.dev/v1alpha1", "kind": "LLMBackend",
                "metadata": {"namespace": namespace, "name": name, "creationTimestamp": format!("2026-03-01T12:00:{second:02}Z")},
                "spec": {"engine": "Ollama", "url": "http://h:1"},
            });
            Arc::new(serde_json::from_value::<LLMBackend>(object).unwrap())
        };
        let all = [backend("b", "z", 3), backend("a", "x", 1), backend("b", "y", 2), backend("c", "w", 4)];
        let found = duplicates(&all);
        let of =
            |namespace: &str, name: &str| found.get(&NamespacedName::new(namespace, name)).map(ToString::to_string);
        assert_eq!(of("a", "x"), None);
        assert_eq!(of("b", "y").as_deref(), Some("a/x"));
        assert_eq!(of("b", "z").as_deref(), Some("b/y"));
        assert_eq!(of("c", "w").as_deref(), Some("a/x"));
    }

    #[test]
    fn spellings_of_one_server_have_one_key() {
        for host in [
            "127.0.0.1",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "a.LocalHost.",
            "%6cocalhost",
            "localhost.localdomain",
            "ip6-localhost",
            "127.0.0.2",
            "127.255.255.254",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0.0.0.0",
            "0",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:2]",
            "[::ffff:0.0.0.0]",
        ] {
            for path in ["", "/", "/v1", "/v1/", "/%76%31", "/v1//"] {
                let url = format!("http://{host}:11434{path}");
                assert_eq!(server_url(&url).as_deref(), Some("http://127.0.0.1:11434"), "{url}");
                assert!(is_loopback(&url), "{url}");
            }
        }
        for (url, key) in [
            ("https://api.example.com/v1", "https://api.example.com:443"),
            ("https://API.example.com.:443", "https://api.example.com:443"),
            ("https://api.example.com/team/v1", "https://api.example.com:443/team"),
            ("https://api.example.com/%74eam/v1/", "https://api.example.com:443/team"),
            ("https://api.example.com/a%2fb", "https://api.example.com:443/a%2Fb"),
            ("https://api.example.com/100%", "https://api.example.com:443/100%"),
            ("http://user:secret@host:80", "http://host:80"),
            ("http://[::ffff:10.0.0.1]:1", "http://10.0.0.1:1"),
            ("http://[2001:DB8::0:1]:1", "http://[2001:db8::1]:1"),
        ] {
            assert_eq!(server_url(url).as_deref(), Some(key), "{url}");
            assert!(!is_loopback(url), "{url}");
        }
        for url in ["no url", "http://h:99999", "http://h:abc"] {
            assert_eq!(server_url(url), None, "{url}");
        }
        assert!(!is_loopback("http://localhost.example:1"));
        assert_ne!(server_url("http://127.0.0.1:1"), server_url("http://127.0.0.1:2"));
    }
}

//! The one address beside loopback by which the dashboard is reached: of a tunnel, a proxy or an ingress.

use std::str::FromStr;

use reqwest::Url;

/// `https://ostler.example:8443`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalUrl {
    origin: String,
}

impl ExternalUrl {
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether a request that names this host came by it.
    pub(super) fn is_host(&self, host: &str) -> bool {
        self.origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
    }

    pub(super) fn is_secure(&self) -> bool {
        self.origin.starts_with("https://")
    }
}

impl FromStr for ExternalUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
        });
        match url {
            Some(url) => Ok(Self { origin: url.origin().ascii_serialization() }),
            None => Err("write http(s)://HOST[:PORT], without a path: the dashboard is at /ui there".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port() {
        for (text, origin, secure) in [
            ("https://Ostler.example/", "https://ostler.example", true),
            ("https://ostler.example:443", "https://ostler.example", true),
            ("http://mac.tail1234.ts.net:8080", "http://mac.tail1234.ts.net:8080", false),
        ] {
            let url: ExternalUrl = text.parse().unwrap();
            assert_eq!((url.origin(), url.is_secure()), (origin, secure), "{text}");
        }
        for bad in ["", "ostler.example", "ftp://a", "https://a/b", "https://a/?b", "https://u:p@a/", "https://a/#b"] {
            assert!(bad.parse::<ExternalUrl>().is_err(), "{bad}");
        }
        let url: ExternalUrl = "https://ostler.example:8443".parse().unwrap();
        for (host, own) in [("OSTLER.example:8443", true), ("ostler.example", false), ("evil.example:8443", false)] {
            assert_eq!(url.is_host(host), own, "{host}");
        }
    }
}

//! What URLs say of where something is, and how they are shown.

use std::net::IpAddr;

use reqwest::Url;

/// Ends of names that only resolve within a machine, a cluster or a private network (RFC 6761, 6762, 8375, 9476; Kubernetes).
const LOCAL_ENDS: [&str; 8] =
    ["localhost", "localdomain", "local", "internal", "home.arpa", "lan", "svc", "cluster.local"];

/// Whether a URL's host is this machine or of a private network: never asked through a proxy, whatever NO_PROXY says.
pub fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return true };
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    match host.parse::<IpAddr>() {
        Ok(address) => is_private(address.to_canonical()),
        // A name of one part is of this network: of Docker, of a cluster's namespace, of a router.
        Err(_) => {
            let within = |end: &str| host.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            !host.contains('.') || LOCAL_ENDS.iter().any(|end| within(end))
        }
    }
}

/// RFC 1918, 3927, 4193, 4291, 6598, and the addresses that mean this machine.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || first == 0
                || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// A URL for people: without user, password, query and fragment, any of which may be a secret. What is no URL is not repeated.
pub fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "the URL".to_owned() };
    // Both fail only for URLs that can't have a host, which have no user info either.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_told_from_public_ones() {
        for host in [
            "127.0.0.1",
            "127.1",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[fe80::1]",
            "[fd00::1]",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "mac.local",
            "host.docker.internal",
            "ollama",
            "ollama.llm.svc",
            "ollama.llm.svc.cluster.local",
        ] {
            assert!(is_local(&Url::parse(&format!("http://{host}:1/")).unwrap()), "{host}");
        }
        for host in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "[2001:db8::1]",
            "api.example.com",
            "notlocal.com",
            "xlocalhost.com",
        ] {
            assert!(!is_local(&Url::parse(&format!("https://{host}/")).unwrap()), "{host}");
        }
    }

    #[test]
    fn a_shown_url_has_nothing_secret() {
        assert_eq!(shown("https://ada:hunter2@h.example:8443/hook?token=x#y"), "https://h.example:8443/hook");
        assert_eq!(
            shown("ada:hunter2@nowhere"),
            "ada:hunter2@nowhere".replace("ada:hunter2@nowhere", &shown("ada:hunter2@nowhere"))
        );
        assert!(!shown("//ada:hunter2@h").contains("hunter2"));
    }
}

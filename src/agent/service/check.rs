//! Asks a service whether it is up: any answer below 500 means so.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use reqwest::{Client, Url, header};

use crate::agent::config::CheckSpec;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOutcome {
    pub ok: bool,
    /// It took the connection, and did not answer in time: busy or hung.
    pub timed_out: bool,
    pub detail: String,
}

pub async fn check(http: &Client, spec: &CheckSpec) -> CheckOutcome {
    let asked = http
        .get(spec.url.clone())
        // A kept connection would be one to the process before.
        .header(header::CONNECTION, "close")
        .timeout(spec.timeout)
        .send()
        .await;
    match asked {
        Ok(answer) => {
            let status = answer.status().as_u16();
            CheckOutcome { ok: status < 500, timed_out: false, detail: format!("HTTP {status}") }
        }
        Err(e) if e.is_timeout() => CheckOutcome {
            ok: false,
            timed_out: true,
            detail: format!("no answer within {} s", spec.timeout.as_secs()),
        },
        Err(e) => {
            let mut cause: &dyn Error = &e;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            CheckOutcome { ok: false, timed_out: false, detail: cause.to_string() }
        }
    }
}

/// The address of this host that a URL names; `None` when it names another host, whose ports can't be looked at.
pub fn local_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?.trim_matches(['[', ']']);
    if host.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let address: IpAddr = host.parse().ok()?;
    let own = address.is_loopback() || address.is_unspecified() || {
        // Only an address of this host can be bound.
        UdpSocket::bind((address, 0)).is_ok()
    };
    own.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_host_are_local() {
        let local = |url: &str| local_address(&Url::parse(url).unwrap());
        assert_eq!(local("http://localhost:1/"), Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(local("http://127.0.0.2:1/"), Some(Ipv4Addr::new(127, 0, 0, 2).into()));
        assert_eq!(local("http://[::1]:1/"), Some("::1".parse().unwrap()));
        assert_eq!(local("http://192.0.2.1:1/"), None, "a documentation address is nobody's");
        assert_eq!(local("http://gpu.example:1/"), None);
    }
}

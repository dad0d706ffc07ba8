//! Why no HTTP answer came, or why it broke off.

use std::error::Error;
use std::io;

use super::names::Unresolved;

/// What went wrong between here and the peer, by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("connection refused: nothing listens there")]
    Refused,
    #[error("the connection broke")]
    Reset,
    #[error("no answer in time")]
    Timeout,
    /// No packet reaches the host: its name has no address, no route, the host is down.
    #[error("cannot reach the host: {0}")]
    Unreachable(String),
    /// The peer's certificate, or no TLS at all.
    #[error("{0}")]
    Tls(TlsFault),
    #[error("what answers does not speak HTTP; is it TLS (https), or another program? ({0})")]
    NotHttp(String),
    /// Nothing was sent: the URL or a header can't be.
    #[error("the request can't be made: {0}")]
    Invalid(String),
    #[error("an answer longer than {0} bytes")]
    TooLong(usize),
}

/// How TLS failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error("the certificate is not trusted ({0})")]
    Certificate(String),
    #[error("https to a port that does not speak TLS ({0})")]
    NotTls(String),
    #[error("the connection was closed within the TLS handshake; does this port speak TLS?")]
    Closed,
    #[error("TLS failed ({0})")]
    Other(String),
}

impl Broken {
    pub fn of(error: &reqwest::Error) -> Self {
        let causes = causes(error);
        if let Some(unresolved) = causes.iter().find_map(|cause| cause.downcast_ref::<Unresolved>()) {
            return Broken::Unreachable(unresolved.to_string());
        }
        if error.is_timeout() {
            return Broken::Timeout;
        }
        if error.is_builder() || error.is_redirect() {
            return Broken::Invalid(causes_text(error));
        }
        for cause in causes {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Broken::Tls(TlsFault::of(tls));
            }
            if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                return Broken::NotHttp(cause.to_string());
            }
            if let Some(broken) = cause.downcast_ref::<io::Error>().and_then(Broken::of_io) {
                let https = error.url().is_some_and(|url| url.scheme() == "https");
                // TCP stood: it is the handshake that was cut short.
                let within_handshake = broken == Broken::Reset && error.is_connect() && https;
                return if within_handshake { Broken::Tls(TlsFault::Closed) } else { broken };
            }
        }
        // Once connected, what is left is a peer that closed without a whole answer; before, a name without an address.
        if error.is_connect() { Broken::Unreachable(causes_text(error)) } else { Broken::Reset }
    }

    fn of_io(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Broken::Refused),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(Broken::Reset),
            io::ErrorKind::TimedOut => Some(Broken::Timeout),
            io::ErrorKind::HostUnreachable if cfg!(target_os = "macos") => {
                let allow = "on macOS, allow it under System Settings, Privacy & Security, Local Network";
                Some(Broken::Unreachable(format!("{error}; {allow}")))
            }
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied => Some(Broken::Unreachable(error.to_string())),
            _ => None,
        }
    }
}

impl TlsFault {
    fn of(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(_) => Self::NotTls(error.to_string()),
            rustls::Error::InvalidCertificate(_) => Self::Certificate(error.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}

/// The sources of an error, outermost first, and what `io::Error`s wrap, which their `source()` leaves out.
fn causes(error: &reqwest::Error) -> Vec<&(dyn Error + 'static)> {
    let mut all = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        all.push(cause);
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
    }
    all
}

fn causes_text(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = causes(error).into_iter().map(ToString::to_string).collect();
    texts.dedup();
    if texts.is_empty() { "it is malformed".to_owned() } else { texts.join(": ") }
}

/// The innermost cause says most ("connection refused"): the outer ones repeat what was attempted.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Why a body is not the JSON that is expected, without a word of the body: serde repeats the values that it did not expect.
pub fn json_fault(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "another form than expected",
        serde_json::error::Category::Eof => "cut short",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "no JSON",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_json_repeats_nothing_of_the_body() {
        let of = |text: &str| json_fault(&serde_json::from_str::<Vec<u32>>(text).unwrap_err());
        assert_eq!(of(r#"["the crown jewels"]"#), "another form than expected, at line 1 column 19");
        assert_eq!(of("the crown jewels"), "no JSON, at line 1 column 2");
        assert_eq!(of("[1"), "cut short, at line 1 column 2");
    }
}

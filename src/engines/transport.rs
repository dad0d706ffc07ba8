//! Why no HTTP answer came, or why it broke off.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::Failure;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    Refused,
    Reset,
    Timeout,
    Unreachable(String),
    Misconfigured(String),
}

impl Broken {
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Broken::Timeout;
        }
        if error.is_builder() || error.is_redirect() {
            return Broken::Misconfigured(chain(error));
        }
        for cause in causes(error) {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Broken::of_tls(tls);
            }
            if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                let words = "what answers does not speak HTTP; is it TLS (https), or another program?";
                return Broken::Misconfigured(format!("{words} ({cause})"));
            }
            if let Some(broken) = cause.downcast_ref::<io::Error>().and_then(Broken::of_io) {
                return broken;
            }
        }
        // Once connected, what is left is a peer that closed without a whole answer; before, a name without an address.
        if error.is_connect() { Broken::Unreachable(causes_text(error)) } else { Broken::Reset }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        Broken::Misconfigured(match error {
            rustls::Error::InvalidMessage(_) => format!("https to a port that does not speak TLS ({error})"),
            rustls::Error::InvalidCertificate(_) => format!("the certificate is not trusted ({error})"),
            other => format!("TLS failed ({other})"),
        })
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

    pub(super) fn failure(self, tokens_seen: u32, after: Duration) -> Failure {
        match self {
            Broken::Refused => Failure::Refused,
            Broken::Reset => Failure::Reset { tokens_seen },
            Broken::Timeout => Failure::Timeout { after, tokens_seen },
            Broken::Unreachable(why) => Failure::Unreachable(why),
            Broken::Misconfigured(why) => Failure::Misconfigured(why),
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
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// The messages of an error and its sources; reqwest's own says only "error sending request".
pub fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(current) = source {
        text.push_str(": ");
        text.push_str(&current.to_string());
        source = current.source();
    }
    text
}

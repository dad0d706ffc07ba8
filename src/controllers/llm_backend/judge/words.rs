//! Verdicts in words, for people and for metrics.

use crate::{api::number_of, engines::ProbeVerdict};

/// A verdict in words.
pub fn describe(verdict: &ProbeVerdict) -> String {
    match verdict {
        ProbeVerdict::Models(listing) => {
            format!("lists {}", number_of(listing.models.len(), "model"))
        }
        ProbeVerdict::NeedsInference { bad_body: true } => "answers 200 without a body that lists models".into(),
        ProbeVerdict::NeedsInference { bad_body: false } => "answers, but no path lists models".into(),
        ProbeVerdict::Unauthorized { status } => format!("HTTP {status}"),
        ProbeVerdict::RateLimited { .. } => "HTTP 429".into(),
        ProbeVerdict::Busy => "HTTP 503".into(),
        ProbeVerdict::ServerError { status } => format!("HTTP {status}"),
        ProbeVerdict::Refused => "connection refused".into(),
        ProbeVerdict::Reset => "connection reset".into(),
        ProbeVerdict::Timeout => "no answer to the probe in time".into(),
        ProbeVerdict::Loading => "HTTP 503: it loads its model".into(),
        ProbeVerdict::Unreachable(why) => format!("cannot reach the host: {why}"),
        ProbeVerdict::Misconfigured(why) => format!("no such API at this URL: {why}; check spec.url"),
    }
}

//! What gateways of this process do. Labels are declared names only: whatever is none of them is `other`.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{NewHistogram, durations, registered, registered_as};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallEnded {
    operation: &'static str,
    model: String,
    backend: String,
    status: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Served {
    operation: &'static str,
    model: String,
    backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tokens {
    model: String,
    backend: String,
    kind: &'static str,
}

/// Of all gateways of this process.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    calls: Family<CallEnded, Counter>,
    refusals: Family<Refused, Counter>,
    waiting: Gauge,
    in_flight: Gauge,
    wait: Histogram,
    duration: Family<Served, Histogram, NewHistogram>,
    first_token: Family<Served, Histogram, NewHistogram>,
    per_token: Family<Served, Histogram, NewHistogram>,
    tokens: Family<Tokens, Counter>,
}

/// A call that an engine was asked for.
#[derive(Clone, Copy, Debug)]
pub struct GatewayCallEnd<'a> {
    pub operation: &'static str,
    /// An alias.
    pub model: &'a str,
    pub backend: &'a str,
    /// `served`, `left`, or `failed`.
    pub status: &'static str,
    pub took: Duration,
    pub first_token: Option<Duration>,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
}

impl GatewayMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let times = || Family::new_with_constructor(durations as NewHistogram);
        Self {
            calls: registered(r, "gateway_calls", "Attempts that an engine was asked for, by how they ended"),
            refusals: registered(r, "gateway_refusals", "Calls that the gateway refused itself"),
            waiting: registered(r, "gateway_waiting_calls", "Calls that wait for a slot"),
            in_flight: registered(r, "gateway_calls_in_flight", "Calls that are under way, waiting ones too"),
            wait: registered_as(
                r,
                "gateway_wait_seconds",
                "How long calls waited for the slot that they got",
                Histogram::new(exponential_buckets(0.001, 4.0, 10)),
            ),
            duration: registered_as(
                r,
                "gateway_request_duration_seconds",
                "From sending a call to the end of its answer",
                times(),
            ),
            first_token: registered_as(
                r,
                "gateway_time_to_first_token_seconds",
                "From sending a streamed call to the first part of its answer",
                times(),
            ),
            per_token: registered_as(
                r,
                "gateway_time_per_output_token_seconds",
                "From the first part of a streamed answer to its end, by the tokens in between",
                times(),
            ),
            tokens: registered(r, "gateway_tokens", "Tokens as engines counted them"),
        }
    }

    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Refused { reason }).inc();
    }

    /// So many more wait, or fewer.
    pub fn waiting(&self, more: i64) {
        self.waiting.inc_by(more);
    }

    /// So many more are under way, or fewer.
    pub fn in_flight(&self, more: i64) {
        self.in_flight.inc_by(more);
    }

    pub fn waited(&self, wait: Duration) {
        self.wait.observe(wait.as_secs_f64());
    }

    pub fn ended(&self, end: &GatewayCallEnd<'_>) {
        let (model, backend) = (end.model.to_owned(), end.backend.to_owned());
        let served = Served { operation: end.operation, model: model.clone(), backend: backend.clone() };
        self.duration.get_or_create(&served).observe(end.took.as_secs_f64());
        if let Some(first) = end.first_token {
            self.first_token.get_or_create(&served).observe(first.as_secs_f64());
            let more = end.completion_tokens.unwrap_or(0).saturating_sub(1);
            if end.status == "served" && more > 0 {
                let each = end.took.saturating_sub(first).as_secs_f64() / more as f64;
                self.per_token.get_or_create(&served).observe(each);
            }
        }
        for (kind, tokens) in [("input", end.prompt_tokens), ("output", end.completion_tokens)] {
            if let Some(tokens) = tokens {
                self.tokens
                    .get_or_create(&Tokens { model: model.clone(), backend: backend.clone(), kind })
                    .inc_by(tokens);
            }
        }
        let status = end.status.to_owned();
        self.calls.get_or_create(&CallEnded { operation: end.operation, model, backend, status }).inc();
    }
}

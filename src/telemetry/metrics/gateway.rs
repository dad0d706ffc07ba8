//! What gateways of this process do. Durations and tokens are named as OpenTelemetry's semantic conventions for generative AI name those of
//! model servers, with their boundaries. Labels are declared names only: whatever is none of them is `other`.

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

use super::{NewHistogram, registered, registered_as};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallEnded {
    operation: &'static str,
    model: String,
    backend: String,
    status: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookedUp {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Served {
    gen_ai_operation_name: &'static str,
    gen_ai_provider_name: &'static str,
    gen_ai_request_model: String,
    ostler_backend: String,
}

/// The same, with how it went wrong; empty where it did not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    #[prometheus(flatten)]
    of: Served,
    error_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tokens {
    #[prometheus(flatten)]
    of: Served,
    gen_ai_token_type: &'static str,
}

/// Of all gateways of this process.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    calls: Family<CallEnded, Counter>,
    refusals: Family<Refused, Counter>,
    cache: Family<LookedUp, Counter>,
    waiting: Gauge,
    in_flight: Gauge,
    wait: Histogram,
    duration: Family<Ended, Histogram, NewHistogram>,
    first_token: Family<Served, Histogram, NewHistogram>,
    per_token: Family<Served, Histogram, NewHistogram>,
    tokens: Family<Tokens, Histogram, NewHistogram>,
}

/// A call that an engine was asked for.
#[derive(Clone, Copy, Debug)]
pub struct GatewayCallEnd<'a> {
    /// The path that was asked.
    pub path: &'static str,
    /// `chat`, `text_completion` or `embeddings`.
    pub operation: &'static str,
    /// The engine.
    pub provider: &'static str,
    /// An alias.
    pub model: &'a str,
    pub backend: &'a str,
    /// `served`, `cut`, `left`, or `failed`.
    pub status: &'static str,
    pub took: Duration,
    pub first_token: Option<Duration>,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
}

/// From ten milliseconds to 82 seconds.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 14))
}

/// The convention ends at ten seconds: an engine on a desk reads a long prompt for longer.
fn first_tokens() -> Histogram {
    const CONVENTION: [f64; 16] =
        [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
    Histogram::new(CONVENTION.into_iter().chain([20.0, 40.0, 80.0]))
}

fn per_tokens() -> Histogram {
    Histogram::new([0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5])
}

fn token_counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 14))
}

impl GatewayMetrics {
    /// `common` has names without a prefix.
    pub(super) fn register(r: &mut Registry, common: &mut Registry) -> Self {
        Self {
            calls: registered(r, "gateway_calls", "Attempts that an engine was asked for, by how they ended"),
            refusals: registered(r, "gateway_refusals", "Calls that the gateway refused itself"),
            cache: registered(r, "gateway_cache_lookups", "Calls for which a kept answer was looked for"),
            waiting: registered(r, "gateway_waiting_calls", "Calls that wait for a slot"),
            in_flight: registered(r, "gateway_calls_in_flight", "Calls that are under way, waiting ones too"),
            wait: registered_as(
                r,
                "gateway_wait_seconds",
                "How long calls waited for the slot that they got",
                Histogram::new(exponential_buckets(0.001, 4.0, 10)),
            ),
            duration: registered_as(
                common,
                "gen_ai_server_request_duration_seconds",
                "From sending a call to the end of its answer",
                Family::new_with_constructor(durations as NewHistogram),
            ),
            first_token: registered_as(
                common,
                "gen_ai_server_time_to_first_token_seconds",
                "From sending a streamed call to the first part of its answer",
                Family::new_with_constructor(first_tokens as NewHistogram),
            ),
            per_token: registered_as(
                common,
                "gen_ai_server_time_per_output_token_seconds",
                "From the first part of a streamed answer to its end, by the tokens in between",
                Family::new_with_constructor(per_tokens as NewHistogram),
            ),
            tokens: registered_as(
                common,
                "gen_ai_client_token_usage",
                "Tokens of a call as its engine counted them",
                Family::new_with_constructor(token_counts as NewHistogram),
            ),
        }
    }

    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Refused { reason }).inc();
    }

    /// A kept answer was looked for, and found or not.
    pub fn looked_up(&self, hit: bool) {
        self.cache.get_or_create(&LookedUp { result: if hit { "hit" } else { "miss" } }).inc();
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
        let is_served = end.status == "served";
        let of = Served {
            gen_ai_operation_name: end.operation,
            gen_ai_provider_name: end.provider,
            gen_ai_request_model: model.clone(),
            ostler_backend: backend.clone(),
        };
        let ended = Ended { of: of.clone(), error_type: if is_served { "" } else { end.status } };
        self.duration.get_or_create(&ended).observe(end.took.as_secs_f64());
        if let Some(first) = end.first_token.filter(|_| is_served) {
            self.first_token.get_or_create(&of).observe(first.as_secs_f64());
            let more = end.completion_tokens.unwrap_or(0).saturating_sub(1);
            if more > 0 {
                let each = end.took.saturating_sub(first).as_secs_f64() / more as f64;
                self.per_token.get_or_create(&of).observe(each);
            }
        }
        for (gen_ai_token_type, tokens) in [("input", end.prompt_tokens), ("output", end.completion_tokens)] {
            if let Some(tokens) = tokens {
                self.tokens.get_or_create(&Tokens { of: of.clone(), gen_ai_token_type }).observe(tokens as f64);
            }
        }
        let status = end.status.to_owned();
        self.calls.get_or_create(&CallEnded { operation: end.path, model, backend, status }).inc();
    }
}

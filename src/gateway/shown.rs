//! What an attempt showed: counted, told to the next call, and reported to the leader.

use jiff::Timestamp;

use super::exchange::Exchange;
use crate::{
    calls::{self, CallShown, Waited},
    engines::Failure,
    store::{FailedCall, ServedCall},
    telemetry::GatewayCallEnd,
};

impl Exchange<'_> {
    pub fn count(&self) {
        // What an engine refused cost nothing.
        if self.is_served || self.meter.parts > 0 || self.gone {
            let usage = self.meter.usage;
            let tokens = usage.prompt.unwrap_or_else(|| self.ask.prompt_estimate())
                + usage.completion.unwrap_or(self.meter.parts);
            let caller = self.client.asker.caller.id();
            self.core.uses.add(caller, 1, i64::try_from(tokens).unwrap_or(i64::MAX));
        }
        let status = match (self.is_served, self.gone) {
            (true, _) => "served",
            (false, true) => "left",
            (false, false) => "failed",
        };
        self.core.metrics.ended(&GatewayCallEnd {
            operation: self.client.operation.path(),
            model: &self.lent.alias,
            backend: &self.lent.target.backend,
            status,
            took: self.began.elapsed(),
            first_token: self.first_token,
            prompt_tokens: self.meter.usage.prompt,
            completion_tokens: self.meter.usage.completion,
        });
    }

    pub fn note_served(&self) {
        let target = &self.lent.target;
        target.contact.served();
        let call = ServedCall {
            model: self.lent.model.clone(),
            began_at: self.began_at,
            ended_at: Timestamp::now().max(self.began_at),
            request: format!("call {}", self.client.id),
        };
        self.core.evidence.served(&target.server_url, call);
    }

    /// The next call leaves a server alone that failed by its own fault; the leader hears of it.
    pub fn note_failure(&self, failure: &Failure) {
        let target = &self.lent.target;
        let waited = Waited {
            silent: self.last_byte.elapsed(),
            bytes: self.has_bytes(),
            tokens: false,
            others_served: target.contact.answered_since(self.began.into_std()),
            cut_short: !self.ask.streams,
            stall: target.stall(),
        };
        let cause = calls::cause(failure, waited);
        if cause.is_servers() && !matches!(failure, Failure::ModelMissing { .. }) {
            let after = if let Failure::RateLimited { retry_after } = failure { *retry_after } else { None };
            target.failed(after);
        }
        if let CallShown::Failed { fault, message } = calls::shown(cause, &failure.to_string()) {
            let call = FailedCall {
                model: self.lent.model.clone(),
                began_at: self.began_at,
                ended_at: Timestamp::now().max(self.began_at),
                request: format!("call {}", self.client.id),
                fault,
                message,
            };
            self.core.evidence.failed(&target.server_url, call);
        }
    }
}

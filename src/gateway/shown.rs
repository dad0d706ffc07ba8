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
        let status = match (self.is_served, self.is_cut, self.gone) {
            (true, ..) => "served",
            (_, true, _) => "cut",
            (_, _, true) => "left",
            (false, false, false) => "failed",
        };
        self.record(status);
        self.core.metrics.ended(&GatewayCallEnd {
            path: self.client.operation.path(),
            operation: self.client.operation.gen_ai_name(),
            provider: self.lent.target.kind.gen_ai_name(),
            model: &self.lent.alias,
            backend: &self.lent.target.backend,
            status,
            took: self.began.elapsed(),
            first_token: self.first_token,
            prompt_tokens: self.meter.usage.prompt,
            completion_tokens: self.meter.usage.completion,
        });
    }

    /// What the conventions want on the span of the attempt.
    fn record(&self, status: &'static str) {
        let span = tracing::Span::current();
        if let Some(tokens) = self.meter.usage.prompt {
            span.record("gen_ai.usage.input_tokens", tokens);
        }
        if let Some(tokens) = self.meter.usage.completion {
            span.record("gen_ai.usage.output_tokens", tokens);
        }
        if !self.is_served {
            span.record("error.type", status);
        }
    }

    /// A whole answer came. One to a part of the prompt is no success, and proves nothing.
    pub fn note_answered(&mut self) {
        let (target, model) = (&self.lent.target, &self.lent.model);
        let counted = self.meter.usage.prompt;
        if let Some(why) = self.ask.cut(counted) {
            tracing::warn!(
                reason = "PromptCut",
                call = self.client.id,
                caller = self.client.asker.caller.id(),
                backend = target.backend,
                model = self.lent.alias,
                why,
                "an engine cut a prompt: declare the model's contextTokens"
            );
            self.is_cut = true;
            return;
        }
        if let Some(counted) = counted.filter(|_| !self.ask.has_images()) {
            target.counted(model, self.ask.prompt_bytes(), counted);
        }
        target.took(self.began.elapsed());
        self.is_served = true;
        self.client.is_served();
        self.note_served();
    }

    fn note_served(&self) {
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

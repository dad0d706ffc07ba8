use async_trait::async_trait;

use super::chat::{self, ChatDialect};
use super::{
    CallActivity, EmbedOutcome, EmbedRequest, Endpoint, Engine, EngineError, EngineKind, Failure, InferOutcome,
    InferRequest, embed,
};

/// Whatever speaks OpenAI's protocol: vLLM, llama.cpp, LM Studio, a cloud.
pub(super) struct OpenAi;

#[async_trait]
impl Engine for OpenAi {
    fn kind(&self) -> EngineKind {
        EngineKind::OpenAi
    }

    async fn infer(
        &self,
        at: &Endpoint,
        request: &InferRequest,
        on_activity: &mut (dyn FnMut(CallActivity) + Send),
    ) -> Result<InferOutcome, EngineError> {
        let mut dialect = ChatDialect::of(self.kind(), request);
        loop {
            match chat::infer(self.kind(), at, request, &dialect, on_activity).await {
                Err(error) => match other_dialect(dialect, &error.failure) {
                    Some(other) => dialect = other,
                    None => return Err(error.of_call(at, chat::PATH, &request.model)),
                },
                Ok(answered) => return Ok(answered),
            }
        }
    }

    async fn embed(&self, at: &Endpoint, request: &EmbedRequest) -> Result<EmbedOutcome, EngineError> {
        embed::openai(at, request).await
    }

    fn enforces_schemas(&self) -> bool {
        true
    }
}

/// mlx_lm.server, which speaks the same protocol. One model at a time, loaded by name; nothing to list what is loaded, to unload or
/// to pull.
pub(super) struct Mlx;

#[async_trait]
impl Engine for Mlx {
    fn kind(&self) -> EngineKind {
        EngineKind::Mlx
    }

    async fn infer(
        &self,
        at: &Endpoint,
        request: &InferRequest,
        on_activity: &mut (dyn FnMut(CallActivity) + Send),
    ) -> Result<InferOutcome, EngineError> {
        let dialect = ChatDialect::of(self.kind(), request);
        chat::infer(self.kind(), at, request, &dialect, on_activity)
            .await
            .map_err(|error| error.of_call(at, chat::PATH, &request.model))
    }
}

/// What to try next with a server that refused a field by name. OpenAI's reasoning models refuse `max_tokens` and name the
/// field that they want; most others know only the old one.
fn other_dialect(tried: ChatDialect, failure: &Failure) -> Option<ChatDialect> {
    let Failure::Rejected { detail, .. } = failure else { return None };
    if detail.contains("max_completion_tokens") && tried.limit_field == "max_tokens" {
        return Some(ChatDialect { limit_field: "max_completion_tokens", ..tried });
    }
    (detail.contains("stream_options") && tried.ask_usage).then_some(ChatDialect { ask_usage: false, ..tried })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_is_left_out_or_renamed_once() {
        let usual = ChatDialect { limit_field: "max_tokens", ask_usage: true, takes_schema: true, stream: true };
        let refused = |detail: &str| Failure::Rejected { status: 400, detail: detail.to_owned() };
        let newer = ChatDialect { limit_field: "max_completion_tokens", ..usual };
        let uncounted = ChatDialect { ask_usage: false, ..usual };
        let limit = refused("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.");
        let usage = refused("extra inputs are not permitted: stream_options");
        assert_eq!(other_dialect(usual, &limit), Some(newer));
        assert_eq!(other_dialect(newer, &limit), None);
        assert_eq!(other_dialect(usual, &usage), Some(uncounted));
        assert_eq!(other_dialect(uncounted, &usage), None);
        assert_eq!(other_dialect(usual, &refused("no such thing")), None);
        assert_eq!(other_dialect(usual, &Failure::Refused), None);
    }
}

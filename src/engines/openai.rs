use async_trait::async_trait;

use super::chat::{self, Dialect};
use super::{Endpoint, Engine, EngineError, EngineKind, Failure, InferOutcome, InferRequest};

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
        on_token: &mut (dyn FnMut() + Send),
    ) -> Result<InferOutcome, EngineError> {
        let usual = Dialect { limit_field: "max_tokens", ask_usage: false };
        let newer = Dialect { limit_field: "max_completion_tokens", ask_usage: false };
        match chat::infer(at, request, &usual, on_token).await {
            Err(error) if wants_newer_field(&error.failure) => chat::infer(at, request, &newer, on_token).await,
            result => result,
        }
    }
}

/// OpenAI's reasoning models refuse `max_tokens` and name the field that they want; most others know only the old one.
fn wants_newer_field(failure: &Failure) -> bool {
    matches!(failure, Failure::Rejected { detail, .. } if detail.contains("max_completion_tokens"))
}

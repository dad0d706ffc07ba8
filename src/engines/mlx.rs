use async_trait::async_trait;

use super::chat::{self, Dialect};
use super::{CallActivity, Endpoint, Engine, EngineError, EngineKind, InferOutcome, InferRequest};

/// mlx_lm.server. One model at a time, loaded by name; nothing to list what is loaded, to unload or to pull.
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
        let dialect = Dialect::of(self.kind(), request);
        chat::infer(self.kind(), at, request, &dialect, on_activity)
            .await
            .map_err(|error| error.of_call(at, chat::PATH, &request.model))
    }
}

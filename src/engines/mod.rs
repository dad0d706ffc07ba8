//! What differs between Ollama, MLX and OpenAI-compatible servers, behind one trait.
//!
//! `listing` and `verdict` read probe replies, `decoder`, `said` and `thinking` read answers, `status` reads
//! refusals; none of them does I/O. `names` decides which model name may be sent. `ollama` and `openai` speak to the
//! servers through an `Endpoint`; `stream` holds a call to its time limits.

mod chat;
mod decoder;
mod embed;
mod endpoint;
mod error;
mod infer;
mod lines;
mod listing;
mod names;
mod ollama;
mod openai;
mod probe;
mod prove;
mod said;
mod status;
mod stream;
mod thinking;
mod verdict;
mod words;

use std::time::Duration;

use async_trait::async_trait;

pub use endpoint::{Endpoint, Secret};
pub use error::{Blame, EngineError, Failure, failure as failure_of};
pub use infer::{
    CallActivity, EmbedOutcome, EmbedRequest, InferOutcome, InferRequest, KeepAlive, ProofRequest, ProofShape, Proved,
    Sampling,
};
pub use listing::{Listing, PathReply, read_listing};
pub use names::{MLX_DEFAULT_MODEL, SendableModel, UnlistedModel, lists, model_to_send, normalize, same_model};
pub use ollama::{ContextName, LoadedModel, PULL_STALL, PullProgress};
pub use status::{detail as words_of, of_response as failure_of_response, retry_after};
pub use verdict::{ProbeVerdict, fold_paths};

pub use crate::api::EngineKind;

/// One inference server, as a client. Every call is bounded by a time that the caller names, and dropping its future
/// closes the connection, which ends the work on the server too (Ollama 0.17.4, mlx_lm 0.32).
#[async_trait]
pub trait Engine: Send + Sync {
    fn kind(&self) -> EngineKind;

    /// Asks one path and reads the reply. Never fails: what went wrong is the reply.
    async fn probe_path(&self, at: &Endpoint, path: &str, timeout: Duration) -> PathReply {
        probe::probe_path(self.kind(), at, path, timeout).await
    }

    /// Asks `paths` (the engine's own when empty) in order until one settles the matter; `timeout` is for each.
    async fn probe(&self, at: &Endpoint, paths: &[String], timeout: Duration) -> ProbeVerdict {
        probe::probe(self, at, paths, timeout).await
    }

    /// One streamed chat completion. `on_activity` is called for whatever arrives, as it arrives, so that a caller can tell a
    /// slow server from a hung one.
    async fn infer(
        &self,
        at: &Endpoint,
        request: &InferRequest,
        on_activity: &mut (dyn FnMut(CallActivity) + Send),
    ) -> Result<InferOutcome, EngineError>;

    /// Asks for one token (or a vector) as a proof that the server serves the model. The result says how it was proved, to be
    /// quoted, and to be given as the hint of the next one.
    async fn prove(
        &self,
        at: &Endpoint,
        request: &ProofRequest,
        on_activity: &mut (dyn FnMut(CallActivity) + Send),
    ) -> Result<Proved, EngineError> {
        prove::prove(self, at, request, on_activity).await
    }

    /// Vectors of texts; MLX can't.
    async fn embed(&self, at: &Endpoint, _request: &EmbedRequest) -> Result<EmbedOutcome, EngineError> {
        Err(unsupported(self.kind(), at, "embed texts"))
    }

    /// Whether an answer is made to match a schema while it is generated.
    fn enforces_schemas(&self) -> bool {
        false
    }

    /// What is in memory now, or `None` where the engine can't tell (all but Ollama).
    async fn loaded(&self, _at: &Endpoint, _timeout: Duration) -> Result<Option<Vec<LoadedModel>>, EngineError> {
        Ok(None)
    }

    /// Whether `unload`, `pull` and `preload` do anything here.
    fn manages_models(&self) -> bool {
        false
    }

    /// Frees the model's runner, also a hung one (Ollama: `keep_alive: 0`; it waits for open calls, so abort those first).
    async fn unload(&self, at: &Endpoint, _model: &str, _timeout: Duration) -> Result<(), EngineError> {
        Err(unsupported(self.kind(), at, "unload a model"))
    }

    /// Whether a name means a model with a context of its own (Ollama).
    async fn has_context(
        &self,
        at: &Endpoint,
        _wanted: ContextName<'_>,
        _timeout: Duration,
    ) -> Result<bool, EngineError> {
        Err(unsupported(self.kind(), at, "give a model a context"))
    }

    /// Makes such a name, of a model that the server has.
    async fn make_context(
        &self,
        at: &Endpoint,
        _wanted: ContextName<'_>,
        _timeout: Duration,
    ) -> Result<(), EngineError> {
        Err(unsupported(self.kind(), at, "give a model a context"))
    }

    /// Downloads a model. `stall` (see `PULL_STALL`) is the longest time without progress in bytes, not the whole time: downloads
    /// take hours.
    async fn pull(
        &self,
        at: &Endpoint,
        _model: &str,
        _stall: Duration,
        _on_progress: &mut (dyn FnMut(PullProgress) + Send),
    ) -> Result<(), EngineError> {
        Err(unsupported(self.kind(), at, "pull a model"))
    }

    /// Loads a model and keeps it loaded (Ollama: `keep_alive: -1`). It may evict another: ask `loaded` first.
    async fn preload(&self, at: &Endpoint, _model: &str, _timeout: Duration) -> Result<(), EngineError> {
        Err(unsupported(self.kind(), at, "preload a model"))
    }
}

/// The client for a kind of server. Stateless: what varies is in the `Endpoint`.
pub fn engine(kind: EngineKind) -> &'static dyn Engine {
    match kind {
        EngineKind::Ollama => &ollama::Ollama,
        EngineKind::Mlx => &openai::Mlx,
        EngineKind::OpenAi => &openai::OpenAi,
    }
}

fn unsupported(kind: EngineKind, at: &Endpoint, what: &str) -> EngineError {
    EngineError::new(format!("{what} on {}", at.base()), Failure::Unsupported { engine: kind })
}

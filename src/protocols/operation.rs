//! What may be asked: the paths that a call takes, and which engines answer them.

use super::Framing;
use crate::api::EngineKind;

/// Whose shapes requests, answers and errors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Protocol {
    /// By the path alone: errors about a path have its protocol's shape.
    pub fn of_path(path: &str) -> Self {
        let under =
            |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        if path == "/" || under("/api") {
            Self::Ollama
        } else if under("/v1/messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

/// An inference that takes a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    ChatCompletions,
    Completions,
    Embeddings,
    /// OpenAI's, without anything that is kept between calls.
    Responses,
    /// Anthropic's.
    Messages,
    OllamaChat,
    OllamaGenerate,
    OllamaEmbed,
    OllamaEmbeddings,
}

impl Operation {
    pub const ALL: [Self; 9] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::OllamaEmbed,
        Self::OllamaEmbeddings,
    ];

    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::OllamaChat => "/api/chat",
            Self::OllamaGenerate => "/api/generate",
            Self::OllamaEmbed => "/api/embed",
            Self::OllamaEmbeddings => "/api/embeddings",
        }
    }

    /// As OpenTelemetry's conventions for generative AI name it.
    pub const fn gen_ai_name(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Responses | Self::Messages | Self::OllamaChat => "chat",
            Self::Completions | Self::OllamaGenerate => "text_completion",
            Self::Embeddings | Self::OllamaEmbed | Self::OllamaEmbeddings => "embeddings",
        }
    }

    pub const fn protocol(self) -> Protocol {
        match self {
            Self::ChatCompletions | Self::Completions | Self::Embeddings | Self::Responses => Protocol::OpenAi,
            Self::Messages => Protocol::Anthropic,
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed | Self::OllamaEmbeddings => Protocol::Ollama,
        }
    }

    /// How a streamed answer is framed; `None`: it is never streamed.
    pub const fn framing(self) -> Option<Framing> {
        match self {
            Self::ChatCompletions | Self::Completions | Self::Responses | Self::Messages => Some(Framing::Sse),
            Self::OllamaChat | Self::OllamaGenerate => Some(Framing::Ndjson),
            Self::Embeddings | Self::OllamaEmbed | Self::OllamaEmbeddings => None,
        }
    }

    /// Whether an answer is streamed where the request does not say.
    pub const fn streams_by_default(self) -> bool {
        matches!(self, Self::OllamaChat | Self::OllamaGenerate)
    }

    /// Whether an engine is asked for this: by itself, or put into a chat.
    pub const fn is_served_by(self, engine: EngineKind) -> bool {
        self.is_native(engine) || matches!(self, Self::Messages | Self::Responses)
    }

    /// Whether an engine answers this by itself (Ollama 0.17, mlx_lm 0.32).
    pub const fn is_native(self, engine: EngineKind) -> bool {
        match engine {
            EngineKind::Ollama => true,
            EngineKind::Mlx => matches!(self, Self::ChatCompletions | Self::Completions),
            EngineKind::OpenAi => matches!(self, Self::ChatCompletions | Self::Completions | Self::Embeddings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_one_protocol() {
        for (path, protocol) in [
            ("/", Protocol::Ollama),
            ("/api/pull", Protocol::Ollama),
            ("/v1/messages", Protocol::Anthropic),
            ("/v1/messages/count_tokens", Protocol::Anthropic),
            ("/v1/models/a/b", Protocol::OpenAi),
            ("/v1/messagesque", Protocol::OpenAi),
            ("/apiary", Protocol::OpenAi),
        ] {
            assert_eq!(Protocol::of_path(path), protocol, "{path}");
        }
        for operation in Operation::ALL {
            assert_eq!(Protocol::of_path(operation.path()), operation.protocol());
            assert!(operation.is_native(EngineKind::Ollama));
        }
    }
}

//! A model of a backend: how it is asked for, and how its engine knows it.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EngineKind, common::LINE};

/// A model that is expected on the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The server's own name for it.
    #[schemars(length(min = 1, max = 253), regex(pattern = LINE))]
    pub name: String,
    /// What tasks ask for, so that one logical model can live on several servers under different names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = LINE))]
    pub alias: Option<String>,
    /// Tokens of a prompt and its answer together: a longer prompt is refused before it waits, and never cut. Ollama loads the model with
    /// this context, under the name `ostler/ALIAS` that Ostler makes there. Absent: as the server has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 16777216))]
    pub context_tokens: Option<i32>,
    /// Pull it when the server lacks it (Ollama).
    #[serde(default)]
    pub pull: bool,
    /// Keep it loaded (Ollama); it is loaded only when nothing else is, and evicts no other model.
    #[serde(default)]
    pub preload: bool,
}

impl Model {
    /// What tasks ask for: its alias, else its name.
    pub fn asked_as(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }

    /// What the server is asked for. Ollama has a context by name, so that calls of all its protocols load the same one: a model whose
    /// context is declared has a name of its own there.
    pub fn own_name(&self, engine: EngineKind) -> Cow<'_, str> {
        match self.context_tokens {
            Some(_) if engine == EngineKind::Ollama && !self.is_sent_on(engine) => {
                Cow::Owned(format!("ostler/{}", self.asked_as()))
            }
            _ => Cow::Borrowed(&self.name),
        }
    }

    /// Whether Ollama sends its calls on to a server of its maker.
    pub fn is_sent_on(&self, engine: EngineKind) -> bool {
        engine == EngineKind::Ollama && (self.name.ends_with("-cloud") || self.name.ends_with(":cloud"))
    }

    /// Whether a prompt of so many tokens, which is an estimate, is refused.
    pub fn is_too_long(&self, tokens: u64) -> bool {
        let most = self.context_tokens.and_then(|most| u64::try_from(most).ok());
        most.is_some_and(|most| tokens.saturating_mul(10) > most.saturating_mul(11))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_declared_context_has_a_name_of_its_own_on_ollama_alone() {
        for (engine, model, own) in [
            (EngineKind::Ollama, json!({"name": "llama3.2:3b", "alias": "small"}), "llama3.2:3b"),
            (
                EngineKind::Ollama,
                json!({"name": "llama3.2:3b", "alias": "small", "contextTokens": 4096}),
                "ostler/small",
            ),
            (EngineKind::Ollama, json!({"name": "llama3.2:3b", "contextTokens": 4096}), "ostler/llama3.2:3b"),
            (EngineKind::Ollama, json!({"name": "gpt-oss:120b-cloud", "contextTokens": 4096}), "gpt-oss:120b-cloud"),
            (EngineKind::Mlx, json!({"name": "mlx/small", "alias": "small", "contextTokens": 4096}), "mlx/small"),
        ] {
            let model: Model = serde_json::from_value(model).unwrap();
            assert_eq!(model.own_name(engine), own);
        }
    }

    #[test]
    fn an_estimate_has_a_tenth_to_spare() {
        let model = |tokens: Option<i32>| -> Model {
            serde_json::from_value(json!({"name": "m", "contextTokens": tokens})).unwrap()
        };
        for (context, tokens, refused) in
            [(None, u64::MAX, false), (Some(1000), 1100, false), (Some(1000), 1101, true), (Some(1000), u64::MAX, true)]
        {
            assert_eq!(model(context).is_too_long(tokens), refused, "{context:?} {tokens}");
        }
    }
}

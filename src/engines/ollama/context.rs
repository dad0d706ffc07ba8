//! A model under a name of its own with a context of its own: a manifest beside the model's, without a copy of its weights.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask;
use crate::engines::{Endpoint, Failure};
use crate::net::json_fault;

/// A parameter of a modelfile.
const CONTEXT: &str = "PARAMETER num_ctx ";

/// A name that means a model with a context of so many tokens.
#[derive(Clone, Copy, Debug)]
pub struct ContextName<'a> {
    pub name: &'a str,
    pub model: &'a str,
    pub tokens: u32,
}

/// Whether the name means that now: the model may have been pulled anew, or the context declared anew.
pub(super) async fn is_current(at: &Endpoint, wanted: ContextName<'_>, timeout: Duration) -> Result<bool, Failure> {
    let (model, named) = (modelfile(at, wanted.model, timeout).await?, modelfile(at, wanted.name, timeout).await?);
    Ok(is_derived(&model, &named, wanted.tokens))
}

/// Gives the name its meaning. A model that the server lacks is not made: Ollama would download it.
pub(super) async fn make(at: &Endpoint, wanted: ContextName<'_>, timeout: Duration) -> Result<(), Failure> {
    modelfile(at, wanted.model, timeout).await?;
    let body =
        json!({"model": wanted.name, "from": wanted.model, "parameters": {"num_ctx": wanted.tokens}, "stream": false});
    let answer = ask(at, at.request(Method::POST, "/api/create").json(&body), timeout).await?;
    match serde_json::from_slice::<Value>(&answer) {
        Ok(said) if said["status"] == "success" => Ok(()),
        Ok(said) => Err(Failure::BadBody { detail: format!("it said {said}") }),
        Err(error) => Err(Failure::BadBody { detail: json_fault(&error) }),
    }
}

async fn modelfile(at: &Endpoint, model: &str, timeout: Duration) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Shown {
        modelfile: String,
    }
    let shown = ask(at, at.request(Method::POST, "/api/show").json(&json!({"model": model})), timeout).await?;
    let shown: Shown =
        serde_json::from_slice(&shown).map_err(|error| Failure::BadBody { detail: json_fault(&error) })?;
    Ok(shown.modelfile)
}

/// Whether two modelfiles differ in the context alone, which is this one. Ollama heads each with comments that name it.
fn is_derived(model: &str, named: &str, tokens: u32) -> bool {
    let rest = |file: &str| {
        let lines = file.lines().filter(|line| !line.starts_with('#') && !line.starts_with(CONTEXT));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let context = named.lines().find_map(|line| line.strip_prefix(CONTEXT)?.trim().parse().ok());
    context == Some(tokens) && rest(model) == rest(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_current_while_its_model_and_its_context_are() {
        let model = "# FROM tiny:latest\n\nFROM /blobs/sha256-1\nTEMPLATE {{ .Prompt }}\nPARAMETER num_thread 1\n";
        let named = "# FROM ostler/tiny:latest\n\nFROM /blobs/sha256-1\nTEMPLATE {{ .Prompt }}\nPARAMETER num_ctx 4096\nPARAMETER num_thread 1\n";
        let has_one = model.replace("num_thread 1", "num_ctx 2048\nPARAMETER num_thread 1");
        for (model, named, current, why) in [
            (model, named, true, "as it was made"),
            (&has_one, named, true, "the model has another context itself"),
            (&model.replace("sha256-1", "sha256-2"), named, false, "the model was pulled anew"),
            (model, &named.replace("4096", "2048"), false, "the context was declared anew"),
            (model, model, false, "it has none"),
        ] {
            assert_eq!(is_derived(model, named, 4096), current, "{why}");
        }
    }
}

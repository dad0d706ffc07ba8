use super::EngineKind;

/// The name under which mlx_lm serves what its `--model` said; listed nowhere, and always safe to send.
pub const MLX_DEFAULT_MODEL: &str = "default_model";

/// A model name that may be sent. An unlisted one makes mlx_lm drop the model it has loaded and look on the model hub, so
/// `InferRequest` takes this type, and only `model_to_send` makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SendableModel(String);

impl SendableModel {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What mlx_lm was started with.
    pub fn mlx_default() -> Self {
        Self(MLX_DEFAULT_MODEL.to_owned())
    }
}

impl std::fmt::Display for SendableModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that an MLX server did not list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "model {model:?} is not sent: the MLX server does not list it, and a name that it does not list evicts the loaded model; \
     use one that /v1/models lists, or {MLX_DEFAULT_MODEL:?}"
)]
pub struct UnlistedModel {
    pub model: String,
}

/// The name to send for a `wanted` model, given what the server listed last (`None`: no listing proved anything).
/// MLX gets a listed name or `default_model`, nothing else; the others answer an unknown name with a harmless 404.
pub fn model_to_send(
    engine: EngineKind,
    wanted: &str,
    listed: Option<&[String]>,
) -> Result<SendableModel, UnlistedModel> {
    let found = listed.unwrap_or_default().iter().find(|name| same_model(engine, name, wanted));
    match (engine, found) {
        (_, Some(name)) => Ok(SendableModel(name.clone())),
        (EngineKind::Mlx, None) if wanted == MLX_DEFAULT_MODEL => Ok(SendableModel::mlx_default()),
        (EngineKind::Mlx, None) => Err(UnlistedModel { model: wanted.to_owned() }),
        (EngineKind::Ollama | EngineKind::OpenAi, None) => Ok(SendableModel(wanted.to_owned())),
    }
}

/// The name by which two spellings of one model are equal. Ollama adds `:latest` to a name without a tag, ignores case, and
/// leaves out its default registry and namespace.
pub fn normalize(engine: EngineKind, name: &str) -> String {
    match engine {
        EngineKind::Mlx | EngineKind::OpenAi => name.to_owned(),
        EngineKind::Ollama => {
            let name = name.trim().to_ascii_lowercase();
            let name = name.strip_prefix("registry.ollama.ai/").unwrap_or(&name);
            let name = name.strip_prefix("library/").unwrap_or(name);
            // A colon before the last slash is a registry's port, not a tag.
            let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
            if tagged { name.to_owned() } else { format!("{name}:latest") }
        }
    }
}

pub fn same_model(engine: EngineKind, a: &str, b: &str) -> bool {
    normalize(engine, a) == normalize(engine, b)
}

/// Whether a server that lists `listed` has `wanted`. mlx_lm serves its default model under a name that it never lists.
pub fn lists(engine: EngineKind, listed: &[String], wanted: &str) -> bool {
    (engine == EngineKind::Mlx && wanted == MLX_DEFAULT_MODEL)
        || listed.iter().any(|name| same_model(engine, name, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineKind::{Mlx, Ollama, OpenAi};

    #[test]
    fn ollama_names_are_equal_with_and_without_what_it_adds() {
        let cases = [
            ("llama3.2", "llama3.2:latest", true),
            ("llama3.2:3b", "llama3.2:latest", false),
            ("library/llama3.2", "llama3.2", true),
            ("registry.ollama.ai/library/llama3.2", "llama3.2", true),
            ("Llama3.2", "llama3.2", true),
            ("me/llama3.2", "llama3.2", false),
            ("hf.co/me/x:Q4", "hf.co/me/x:q4", true),
            ("host:5000/me/x", "host:5000/me/x:latest", true),
        ];
        for (a, b, same) in cases {
            assert_eq!(same_model(Ollama, a, b), same, "{a} {b}");
        }
        assert!(!same_model(OpenAi, "gpt-x", "gpt-x:latest"));
    }

    #[test]
    fn mlx_is_sent_listed_names_and_its_default_only() {
        let listed = ["mlx-community/a".to_owned()];
        let sent = |wanted, listed| model_to_send(Mlx, wanted, listed).map(|m| m.as_str().to_owned());
        assert_eq!(sent("mlx-community/a", Some(&listed[..])), Ok("mlx-community/a".into()));
        assert_eq!(sent("default_model", Some(&listed[..])), Ok("default_model".into()));
        assert_eq!(sent("default_model", None), Ok("default_model".into()));
        for (wanted, listed) in
            [("b", Some(&listed[..])), ("mlx-community/a", None), ("MLX-community/a", Some(&listed[..]))]
        {
            assert_eq!(sent(wanted, listed), Err(UnlistedModel { model: wanted.into() }));
        }
    }

    #[test]
    fn others_are_sent_the_listed_spelling_or_what_was_wanted() {
        let listed = ["a:latest".to_owned()];
        assert_eq!(model_to_send(Ollama, "a", Some(&listed)).unwrap().as_str(), "a:latest");
        assert_eq!(model_to_send(Ollama, "b", Some(&listed)).unwrap().as_str(), "b");
        assert_eq!(model_to_send(OpenAi, "gpt-x", None).unwrap().as_str(), "gpt-x");
    }

    #[test]
    fn mlx_has_its_default_model_whatever_it_lists() {
        let listed = ["a:latest".to_owned()];
        assert!(lists(Mlx, &[], MLX_DEFAULT_MODEL) && lists(Mlx, &listed, MLX_DEFAULT_MODEL));
        assert!(!lists(Mlx, &listed, "b") && !lists(OpenAi, &listed, MLX_DEFAULT_MODEL));
        assert!(lists(Ollama, &listed, "a") && !lists(OpenAi, &listed, "a"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_unlisted_ever_reaches_mlx(wanted in "[a-z_/:]{0,14}", listed in proptest::collection::vec("[a-z_/:]{0,14}", 0..4)) {
            if let Ok(sent) = model_to_send(Mlx, &wanted, Some(&listed)) {
                proptest::prop_assert!(sent.as_str() == MLX_DEFAULT_MODEL || listed.iter().any(|name| name == sent.as_str()));
            }
        }
    }
}

//! Listings of what may be asked for: aliases, with whether a server is ready for them, in shapes that several protocols' clients read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub alias: String,
    /// A server takes calls for it now.
    pub ready: bool,
    /// Backends that serve it, first to be asked first.
    pub backends: Vec<String>,
}

/// Whether a name means an alias: Ollama's clients add `:latest` to a name without a tag.
pub fn is_alias(alias: &str, asked: &str) -> bool {
    const LATEST: &str = ":latest";
    alias == asked || alias.strip_suffix(LATEST) == Some(asked) || asked.strip_suffix(LATEST) == Some(alias)
}

/// `GET /v1/models`, for clients of OpenAI and of Anthropic.
pub fn models(all: &[Listed]) -> Value {
    let data: Vec<Value> = all.iter().map(model).collect();
    let end = |one: Option<&Listed>| one.map(|one| one.alias.clone());
    json!({"object": "list", "data": data, "has_more": false, "first_id": end(all.first()), "last_id": end(all.last())})
}

/// One of them. No file is behind an alias, so it was never made.
pub fn model(one: &Listed) -> Value {
    json!({
        "id": one.alias, "object": "model", "type": "model", "display_name": one.alias, "created": 0,
        "created_at": Timestamp::UNIX_EPOCH.to_string(), "owned_by": "ostler", "ready": one.ready, "backends": one.backends,
    })
}

/// Of the model behind an alias; not its own name.
const TOLD: [&str; 4] = ["modified_at", "size", "digest", "details"];

/// `GET /api/tags`. `told` is what servers say of the models behind the aliases.
pub fn tags(all: &[Listed], told: &BTreeMap<String, Value>) -> Value {
    let tag = |one: &Listed| {
        let mut tag = tag(&one.alias);
        let told = told.get(&one.alias).and_then(Value::as_object);
        for (name, value) in told.into_iter().flatten().filter(|(name, _)| TOLD.contains(&name.as_str())) {
            tag[name] = value.clone();
        }
        tag
    };
    json!({"models": all.iter().map(tag).collect::<Vec<_>>()})
}

/// `GET /api/ps`: the aliases that are in a server's memory.
pub fn loaded_models(all: &[(String, u64, u64, Option<Timestamp>)]) -> Value {
    let loaded = |(alias, size, size_vram, expires_at): &(String, u64, u64, Option<Timestamp>)| {
        let mut model = tag(alias);
        model["size"] = (*size).into();
        model["size_vram"] = (*size_vram).into();
        model["expires_at"] = expires_at.map(|at| at.to_string()).into();
        model
    };
    json!({"models": all.iter().map(loaded).collect::<Vec<_>>()})
}

/// Of the alias, where nobody tells of its file. Ollama's command line shows the first twelve characters of a digest.
fn digest(alias: &str) -> String {
    Sha256::digest(alias).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Clients of Ollama read all of these fields.
fn tag(alias: &str) -> Value {
    json!({
        "name": alias, "model": alias, "modified_at": Timestamp::UNIX_EPOCH.to_string(), "size": 0, "digest": digest(alias),
        "details": {"parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "",
            "quantization_level": ""},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_may_be_left_out_and_added() {
        for (alias, asked, same) in [
            ("small", "small", true),
            ("small", "small:latest", true),
            ("small:latest", "small", true),
            ("small:latest", "small:latest", true),
            ("small:3b", "small", false),
            ("small", "small:3b", false),
            ("small", "smal", false),
        ] {
            assert_eq!(is_alias(alias, asked), same, "{alias} {asked}");
        }
    }

    #[test]
    fn listings_have_the_fields_that_clients_read() {
        let all = [Listed { alias: "team/small".into(), ready: true, backends: vec!["mlx".into()] }];
        let models = models(&all);
        assert_eq!(models["data"][0]["id"], "team/small");
        assert_eq!((&models["data"][0]["type"], &models["first_id"]), (&json!("model"), &json!("team/small")));
        let tell = json!({"name": "own", "size": 7, "remote_host": "https://x"});
        let told = tags(&all, &BTreeMap::from([("team/small".to_owned(), tell)]));
        assert_eq!((&told["models"][0]["name"], &told["models"][0]["size"]), (&json!("team/small"), &json!(7)));
        assert_eq!(told["models"][0].get("remote_host"), None);
        let tags = tags(&all, &BTreeMap::new());
        assert_eq!(tags["models"][0]["name"], "team/small");
        assert_eq!(tags["models"][0]["digest"].as_str().map(str::len), Some(64));
        let loaded = loaded_models(&[("team/small".into(), 7, 7, None)]);
        assert_eq!((&loaded["models"][0]["size"], &loaded["models"][0]["expires_at"]), (&json!(7), &Value::Null));
    }
}

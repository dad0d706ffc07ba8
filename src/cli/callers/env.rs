//! `ostler callers env NAME --for CLIENT`.

use std::time::Duration;

use clap::ValueEnum;
use reqwest::Url;
use serde_json::{Value, json};

use crate::{
    api::LOCAL_CALLER,
    cli::{CliError, gateway::USUAL_ADDRESS, output::print_ready},
    net::HttpClient,
};

/// Where the key is looked for: it is never written here.
const KEY: &str = "OSTLER_CALLER_KEY";
const WITHIN: Duration = Duration::from_secs(5);
const MAX_LISTING_BYTES: usize = 8 << 20;

/// Print what to set in a client, so that it calls through the gateway
///
/// The key is not printed: it is taken from the variable OSTLER_CALLER_KEY. `local` needs none on the gateway's own machine.
#[derive(Debug, clap::Args)]
pub struct CallersEnvArgs {
    /// Name of the Caller
    #[arg(default_value = LOCAL_CALLER)]
    name: String,
    /// The client
    #[arg(long = "for", value_enum)]
    client: Client,
    /// Where the gateway is
    #[arg(long, value_name = "URL", default_value_t = format!("http://{USUAL_ADDRESS}"))]
    gateway: String,
    /// The alias that it asks for; without it, the one that the gateway serves
    #[arg(long, value_name = "ALIAS")]
    model: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Client {
    Claude,
    Codex,
    Opencode,
    Ollama,
}

pub async fn run(args: CallersEnvArgs) -> Result<(), CliError> {
    let gateway =
        Url::parse(&args.gateway).ok().filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    if gateway.is_none() {
        return Err(CliError::misused(format!("--gateway {:?} is no URL: write http://HOST:PORT", args.gateway)));
    }
    let model = match &args.model {
        Some(model) => model.clone(),
        None => only_alias(&args.gateway).await?,
    };
    print_ready(&text(&args, &model))
}

/// The alias that the gateway serves, if that is one only: which of several is meant, nobody can tell.
async fn only_alias(gateway: &str) -> Result<String, CliError> {
    let mut aliases = aliases(gateway).await.map_err(|why| {
        CliError::failed(format!(
            "can't ask the gateway at {gateway} which models it serves: {why}; name one by --model"
        ))
    })?;
    match (aliases.pop(), aliases.is_empty()) {
        (Some(alias), true) => Ok(alias),
        (None, _) => {
            Err(CliError::failed(format!("the gateway at {gateway} serves no model yet; name one by --model")))
        }
        (Some(last), false) => {
            aliases.push(last);
            let all = aliases.join(", ");
            Err(CliError::misused(format!("the gateway serves several models: name one by --model: {all}")))
        }
    }
}

async fn aliases(gateway: &str) -> Result<Vec<String>, String> {
    let http = HttpClient::new().map_err(|error| error.to_string())?;
    let mut asked = http.get(format!("{}/v1/models", gateway.trim_end_matches('/')));
    if let Ok(key) = std::env::var(KEY) {
        asked = asked.bearer_auth(key);
    }
    let reply = http.send_within(asked, WITHIN).await.map_err(|error| error.to_string())?;
    if !reply.status().is_success() {
        return Err(format!("it answered {}", reply.status()));
    }
    let bytes = reply.whole(MAX_LISTING_BYTES).await.map_err(|error| error.to_string())?;
    let listing: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let models = listing["data"].as_array().into_iter().flatten();
    Ok(models.filter_map(|model| model["id"].as_str()).map(str::to_owned).collect())
}

fn text(args: &CallersEnvArgs, model: &str) -> String {
    let CallersEnvArgs { name, client, gateway, model: _ } = args;
    let gateway = gateway.trim_end_matches('/');
    let is_local = name == LOCAL_CALLER;
    let key = if is_local { "none".to_owned() } else { format!("\"${KEY}\"") };
    let about = match is_local {
        true => "# For programs on the gateway's own machine; no key is needed.\n".to_owned(),
        false => format!("# {KEY} is the key that `ostler callers create {name}` showed.\n"),
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let rest = match client {
        Client::Claude => format!(
            "export ANTHROPIC_BASE_URL={}\nexport ANTHROPIC_AUTH_TOKEN={key}\nexport ANTHROPIC_MODEL={}\n\
             export ANTHROPIC_SMALL_FAST_MODEL={}\nexport CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1\n",
            quoted(gateway),
            quoted(model),
            quoted(model)
        ),
        Client::Ollama => format!("export OLLAMA_HOST={}\nexport OLLAMA_API_KEY={key}\n", quoted(gateway)),
        Client::Codex => {
            let key = if is_local { String::new() } else { format!("env_key = {}\n", json!(KEY)) };
            format!(
                "# In ~/.codex/config.toml:\nmodel = {}\nmodel_provider = \"ostler\"\n\n[model_providers.ostler]\nname = \"Ostler\"\n\
                 base_url = {}\nwire_api = \"responses\"\n{key}",
                json!(model),
                json!(format!("{gateway}/v1"))
            )
        }
        Client::Opencode => {
            let key = if is_local { "none".to_owned() } else { format!("{{env:{KEY}}}") };
            let provider = json!({
                "npm": "@ai-sdk/openai-compatible",
                "name": "Ostler",
                "options": {"baseURL": format!("{gateway}/v1"), "apiKey": key},
                "models": {model: {"name": model}},
            });
            let config = json!({
                "$schema": "https://opencode.ai/config.json",
                "model": format!("ostler/{model}"),
                "provider": {"ostler": provider},
            });
            // Its file is JSON with comments.
            return format!("{}// In opencode.json:\n{config:#}\n", about.replacen('#', "//", 1));
        }
    };
    format!("{about}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, client: Client) -> String {
        let gateway = "http://127.0.0.1:9181/".to_owned();
        text(&CallersEnvArgs { name: name.to_owned(), client, gateway, model: None }, "it's")
    }

    #[test]
    fn each_client_is_told_its_own_way() {
        let claude = of("editor", Client::Claude);
        assert!(claude.contains("ANTHROPIC_BASE_URL='http://127.0.0.1:9181'\n"), "{claude}");
        assert!(claude.contains("ANTHROPIC_AUTH_TOKEN=\"$OSTLER_CALLER_KEY\"\n"), "{claude}");
        assert!(claude.contains(r"ANTHROPIC_MODEL='it'\''s'"), "{claude}");
        let local = of("local", Client::Claude);
        assert!(local.contains("ANTHROPIC_AUTH_TOKEN=none\n") && !local.contains(KEY), "{local}");
        let codex = of("editor", Client::Codex);
        assert!(
            codex.contains("base_url = \"http://127.0.0.1:9181/v1\"")
                && codex.contains("env_key = \"OSTLER_CALLER_KEY\""),
            "{codex}"
        );
        assert!(!of("local", Client::Codex).contains("env_key"));
        let opencode = of("editor", Client::Opencode);
        let config: serde_json::Value = serde_json::from_str(&opencode[opencode.find('{').unwrap()..]).unwrap();
        assert_eq!(config["provider"]["ostler"]["options"]["apiKey"], "{env:OSTLER_CALLER_KEY}");
        assert!(of("editor", Client::Ollama).contains("OLLAMA_HOST='http://127.0.0.1:9181'"));
    }
}

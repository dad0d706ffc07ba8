//! From what was found to manifests. Values are written as JSON strings, which are YAML too: no name can break a file.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::json;

use super::{FoundServer, manager::ServerManager};
use crate::{
    api::{API_VERSION, EngineKind},
    host::mask,
};

/// The files that are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifests {
    /// Backends and the HostAgent's place: these may move to a cluster.
    pub backends: String,
    /// The AgentConfig: stays on this host. `None`: nothing here could be restarted.
    pub agent: Option<String>,
    /// An expert, a queue and a pool, so that tasks can be given in at once.
    pub work: String,
}

/// What experts call the models that talk: whichever server has one may do their tasks.
const ALIAS: &str = "chat";

/// `host` is the name of the agent.
pub fn manifests(found: &[FoundServer], host: &str) -> Manifests {
    let mut backends = String::from(
        "# Inference servers as `ostler init` found them. What is not said here has defaults: docs/resources.md.\n",
    );
    let mut services = String::new();
    for one in found {
        backends += &backend(one, host);
        if can_restart(&one.manager) {
            services += &service(one);
        }
    }
    let agent = (!services.is_empty()).then(|| {
        format!(
            "# What the agent on this host may start and stop, and nothing else. It stays on this host.\n\
             apiVersion: {API_VERSION}\nkind: AgentConfig\nmetadata: {{name: {}}}\nspec:\n  listen: 127.0.0.1:9099\n  services:\n{services}",
            json!(host)
        )
    });
    Manifests { backends, agent, work: work() }
}

/// Who does tasks, and by which rules.
fn work() -> String {
    format!(
        "# Who does tasks, and by which rules. To try it: ostler tasks add \"Say in one sentence what a queue is.\" --wait\n\
         apiVersion: {API_VERSION}\nkind: Expert\nmetadata: {{name: assistant}}\nspec:\n  model: {ALIAS}  # an alias of \
         backends.yaml\n---\n\
         apiVersion: {API_VERSION}\nkind: TaskQueue\nmetadata: {{name: default}}\nspec:\n  defaultExpertRef: {{name: assistant}}\n---\n\
         apiVersion: {API_VERSION}\nkind: WorkerPool\nmetadata: {{name: default}}\nspec:\n  queueRefs: [{{name: default}}]\n"
    )
}

/// The model of a server that talks: the one that it was started with, else the first; none that only embeds or ranks, and none
/// that is somewhere else.
pub fn talking(FoundServer { server, manager, .. }: &FoundServer) -> Option<&str> {
    const OTHERS: [&str; 8] = ["embed", "bge-", "minilm", "rerank", "whisper", "clip", "e5-", "gte-"];
    let talks = |model: &&str| {
        let name = model.to_ascii_lowercase();
        !OTHERS.iter().any(|word| name.contains(word)) && !name.ends_with("cloud")
    };
    let started_with = |model: &&str| match manager {
        ServerManager::Nobody { command, .. } => command.iter().any(|argument| argument == model),
        _ => false,
    };
    let mut models = server.models.iter().map(String::as_str).filter(talks);
    models.clone().find(started_with).or_else(|| models.next())
}

/// A container is its engine's to restart, and an app somebody's to open.
fn can_restart(manager: &ServerManager) -> bool {
    match manager {
        ServerManager::Systemd { .. } | ServerManager::Brew { .. } | ServerManager::Launchd { .. } => true,
        ServerManager::Nobody { command, .. } => !command.is_empty() && !mask::holds_secret(command),
        ServerManager::Container | ServerManager::App { .. } => false,
    }
}

fn backend(found: &FoundServer, host: &str) -> String {
    let (FoundServer { name, server, manager }, talking) = (found, talking(found));
    let mut text = format!(
        "---\napiVersion: {API_VERSION}\nkind: LLMBackend\nmetadata: {{name: {}}}\nspec:\n  engine: {}\n  url: {}\n",
        json!(name),
        server.engine,
        json!(server.url())
    );
    if !server.models.is_empty() {
        text += "  models:\n";
        for model in server.models.iter().take(64) {
            let alias = if talking == Some(model) { format!(", alias: {ALIAS}") } else { String::new() };
            let _ = writeln!(text, "  - {{name: {}{alias}}}", json!(model));
        }
    }
    if can_restart(manager) {
        let _ = writeln!(text, "  recovery: {{hostAgentRef: {{name: {}}}, service: {}}}", json!(host), json!(name));
    } else if matches!(manager, ServerManager::Nobody { command, .. } if mask::holds_secret(command)) {
        text += "  # The command that started it holds a key, which is not copied: write it into agent.yaml as a service by yourself\n  \
                 # (docs/agent.md), with the key in a file or a variable. Without `recovery` a human is told.\n";
    } else {
        text += "  # Nothing here can restart it: without `recovery` a human is told.\n";
    }
    text
}

fn service(FoundServer { name, server, manager }: &FoundServer) -> String {
    let mut text = format!("  - name: {}\n", json!(name));
    let mut command = |field: &str, argv: &[&str]| {
        let _ = writeln!(text, "    {field}: {{command: {}}}", json!(argv));
    };
    match manager {
        ServerManager::Systemd { unit, user, .. } => {
            let with = |rest: &[&str]| {
                let own: &[&str] = if *user { &["systemctl", "--user"] } else { &["systemctl"] };
                [own, rest, &[unit.as_str()]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
            };
            for (field, rest) in [
                ("start", &["start"][..]),
                ("stop", &["stop"]),
                ("restartCommand", &["restart"]),
                ("status", &["is-active", "--quiet"]),
            ] {
                command(field, &with(rest).iter().map(String::as_str).collect::<Vec<_>>());
            }
            text += "    manager: Command\n";
        }
        ServerManager::Brew { formula } => {
            command("start", &["brew", "services", "start", formula]);
            command("stop", &["brew", "services", "stop", formula]);
            command("restartCommand", &["brew", "services", "restart", formula]);
            text += "    manager: Command\n";
        }
        ServerManager::Launchd { label } => {
            command("start", &["launchctl", "start", label]);
            command("stop", &["launchctl", "stop", label]);
            text += "    manager: Command\n";
        }
        ServerManager::Nobody { command: argv, folder, environment } => {
            text += &process(argv, folder.as_deref(), environment, server.owner.as_ref())
        }
        ServerManager::Container | ServerManager::App { .. } => {}
    }
    let path = if server.engine == EngineKind::Ollama { "/api/tags" } else { "/v1/models" };
    let _ = writeln!(text, "    check: {{url: {}}}", json!(format!("{}{path}", server.url())));
    text
}

fn process(
    argv: &[String],
    folder: Option<&str>,
    environment: &BTreeMap<String, String>,
    owner: Option<&super::PortHolder>,
) -> String {
    let mut start = json!({"command": argv});
    if let Some(folder) = folder {
        start["workingDirectory"] = json!(folder);
    }
    if !environment.is_empty() {
        start["environment"] = json!(environment);
    }
    if let Some(user) = owner.and_then(|o| o.user.as_deref()) {
        start["user"] = json!(user);
    }
    format!(
        "    manager: Process\n    start: {start}\n    # It runs already, and the agent did not start it: it is left alone until it ends, and is the agent's from \
         then on.\n    # With adopt: true the agent may also stop the one that runs now.\n    adopt: false\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::LLMBackendSpec, cli::init::probe::ProbedServer, cli::process::PortHolder};

    fn found(name: &str, engine: EngineKind, manager: ServerManager) -> FoundServer {
        let owner = PortHolder { pid: Some(7), user: Some("ada".into()), command: None };
        let server = ProbedServer {
            engine,
            address: "127.0.0.1:11434".parse().unwrap(),
            models: vec!["a: \"b\"\n".into()],
            owner: Some(owner),
        };
        FoundServer { name: name.into(), server, manager }
    }

    fn documents(text: &str) -> Vec<serde_json::Value> {
        text.split("---\n").skip(1).map(|d| serde_saphyr::from_str(d).unwrap()).collect()
    }

    #[test]
    fn each_server_becomes_a_backend_whatever_its_models_are_called() {
        let unit = ServerManager::Systemd { unit: "ollama.service".into(), user: false, restarts: None };
        let written = manifests(
            &[found("ollama", EngineKind::Ollama, unit), found("mlx", EngineKind::Mlx, ServerManager::Container)],
            "mac",
        );
        let [ollama, mlx] = documents(&written.backends).try_into().unwrap();
        let spec: LLMBackendSpec = serde_json::from_value(ollama["spec"].clone()).unwrap();
        assert_eq!((spec.models[0].name.as_str(), spec.engine), ("a: \"b\"\n", EngineKind::Ollama));
        assert_eq!(spec.recovery.unwrap().service.as_deref(), Some("ollama"));
        assert!(mlx["spec"].get("recovery").is_none(), "a container is not the agent's");
    }

    #[test]
    fn the_agent_restarts_by_whoever_started_it() {
        let service = |manager| {
            let text = manifests(&[found("x", EngineKind::Ollama, manager)], "mac").agent.unwrap();
            let config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            let service = config["spec"]["services"][0].clone();
            serde_json::from_value::<crate::api::AgentService>(service.clone()).unwrap();
            service
        };
        let user_unit = service(ServerManager::Systemd { unit: "x.service".into(), user: true, restarts: None });
        assert_eq!(user_unit["start"]["command"], json!(["systemctl", "--user", "start", "x.service"]));
        assert_eq!(user_unit["manager"], "Command");
        let brew = service(ServerManager::Brew { formula: "ollama".into() });
        assert_eq!(brew["stop"]["command"], json!(["brew", "services", "stop", "ollama"]));
        let process = service(ServerManager::Nobody {
            command: vec!["ollama".into(), "serve".into()],
            folder: Some("/srv".into()),
            environment: BTreeMap::from([("OLLAMA_HOST".into(), "127.0.0.1:11500".into())]),
        });
        assert_eq!(
            process["start"],
            json!({"command": ["ollama", "serve"], "user": "ada", "workingDirectory": "/srv",
                "environment": {"OLLAMA_HOST": "127.0.0.1:11500"}})
        );
        assert_eq!(process["adopt"], false);
    }

    #[test]
    fn the_model_that_talks_is_called_as_the_expert_calls_it() {
        let server = |models: &[&str], command: &[&str]| {
            let command = command.iter().map(ToString::to_string).collect();
            let nobody = ServerManager::Nobody { command, folder: None, environment: BTreeMap::new() };
            let mut found = found("x", EngineKind::Mlx, nobody);
            found.server.models = models.iter().map(ToString::to_string).collect();
            found
        };
        for (models, command, expected) in [
            (&["nomic-embed-text", "llama3.2:3b", "qwen"][..], &["ollama"][..], Some("llama3.2:3b")),
            (&["a", "b"], &["mlx_lm.server", "--model", "b"], Some("b")),
            (&["bge-m3", "gpt-oss:120b-cloud"], &["ollama"], None),
            (&[], &["ollama"], None),
        ] {
            assert_eq!(talking(&server(models, command)), expected, "{models:?}");
        }
        let written = manifests(&[server(&["a", "b"], &["s", "b"])], "mac");
        let backend = &documents(&written.backends)[0];
        assert_eq!(backend["spec"]["models"], json!([{"name": "a"}, {"name": "b", "alias": "chat"}]));
        let work: Vec<serde_json::Value> =
            written.work.split("---\n").map(|d| serde_saphyr::from_str(d).unwrap()).collect();
        assert_eq!(work[0]["spec"]["model"], "chat");
        assert_eq!(work[1]["spec"]["defaultExpertRef"]["name"], work[0]["metadata"]["name"]);
        assert_eq!(work[2]["spec"]["queueRefs"][0]["name"], work[1]["metadata"]["name"]);
    }

    #[test]
    fn a_key_of_another_process_gets_into_no_file() {
        let command = ["vllm", "serve", "m", "--api-key", "hush-hush"].map(str::to_owned).to_vec();
        let nobody = ServerManager::Nobody { command, folder: None, environment: BTreeMap::new() };
        let written = manifests(&[found("x", EngineKind::OpenAi, nobody)], "mac");
        assert_eq!(written.agent, None);
        assert!(!written.backends.contains("hush") && written.backends.contains("holds a key"), "{}", written.backends);
    }

    #[test]
    fn without_anything_to_restart_there_is_no_agent() {
        assert_eq!(manifests(&[found("x", EngineKind::Mlx, ServerManager::Container)], "mac").agent, None);
    }
}

//! From what was found to manifests. Values are written as JSON strings, which are YAML too: no name can break a file.

use std::fmt::Write;

use serde_json::json;

use super::{Found, manager::Manager};
use crate::api::{API_VERSION, Engine};

/// The files that are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifests {
    /// Backends and the HostAgent's place: these may move to a cluster.
    pub backends: String,
    /// The AgentConfig: stays on this host. `None`: nothing here could be restarted.
    pub agent: Option<String>,
}

/// `host` is the name of the agent.
pub fn manifests(found: &[Found], host: &str) -> Manifests {
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
    Manifests { backends, agent }
}

/// A container is its engine's to restart, and an app somebody's to open.
fn can_restart(manager: &Manager) -> bool {
    match manager {
        Manager::Systemd { .. } | Manager::Brew { .. } | Manager::Launchd { .. } => true,
        Manager::Nobody { command, .. } => !command.is_empty(),
        Manager::Container | Manager::App { .. } => false,
    }
}

fn engine_word(engine: Engine) -> &'static str {
    match engine {
        Engine::Ollama => "Ollama",
        Engine::MLX => "MLX",
        Engine::OpenAI => "OpenAI",
    }
}

fn backend(Found { name, server, manager }: &Found, host: &str) -> String {
    let mut text = format!(
        "---\napiVersion: {API_VERSION}\nkind: LLMBackend\nmetadata: {{name: {}}}\nspec:\n  engine: {}\n  url: {}\n",
        json!(name),
        engine_word(server.engine),
        json!(server.url())
    );
    if !server.models.is_empty() {
        text += "  models:\n";
        for model in server.models.iter().take(64) {
            let _ = writeln!(text, "  - {{name: {}}}", json!(model));
        }
    }
    if can_restart(manager) {
        let _ = writeln!(text, "  recovery: {{hostAgentRef: {{name: {}}}, service: {}}}", json!(host), json!(name));
    } else {
        text += "  # Nothing here can restart it: without `recovery` a human is told.\n";
    }
    text
}

fn service(Found { name, server, manager }: &Found) -> String {
    let mut text = format!("  - name: {}\n", json!(name));
    let mut command = |field: &str, argv: &[&str]| {
        let _ = writeln!(text, "    {field}: {{command: {}}}", json!(argv));
    };
    match manager {
        Manager::Systemd { unit, user, .. } => {
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
        Manager::Brew { formula } => {
            command("start", &["brew", "services", "start", formula]);
            command("stop", &["brew", "services", "stop", formula]);
            command("restartCommand", &["brew", "services", "restart", formula]);
            text += "    manager: Command\n";
        }
        Manager::Launchd { label } => {
            command("start", &["launchctl", "start", label]);
            command("stop", &["launchctl", "stop", label]);
            text += "    manager: Command\n";
        }
        Manager::Nobody { command: argv, folder } => text += &process(argv, folder.as_deref(), server.owner.as_ref()),
        Manager::Container | Manager::App { .. } => {}
    }
    let path = if server.engine == Engine::Ollama { "/api/tags" } else { "/v1/models" };
    let _ = writeln!(text, "    check: {{url: {}}}", json!(format!("{}{path}", server.url())));
    text
}

fn process(argv: &[String], folder: Option<&str>, owner: Option<&super::Owner>) -> String {
    let mut start = json!({"command": argv});
    if let Some(folder) = folder {
        start["workingDirectory"] = json!(folder);
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
    use crate::{api::LLMBackendSpec, cli::init::probe::Server, cli::ports::Owner};

    fn found(name: &str, engine: Engine, manager: Manager) -> Found {
        let owner = Owner { pid: Some(7), user: Some("ada".into()), command: None };
        let server = Server {
            engine,
            address: "127.0.0.1:11434".parse().unwrap(),
            models: vec!["a: \"b\"\n".into()],
            owner: Some(owner),
        };
        Found { name: name.into(), server, manager }
    }

    fn documents(text: &str) -> Vec<serde_json::Value> {
        text.split("---\n").skip(1).map(|d| serde_saphyr::from_str(d).unwrap()).collect()
    }

    #[test]
    fn each_server_becomes_a_backend_whatever_its_models_are_called() {
        let unit = Manager::Systemd { unit: "ollama.service".into(), user: false, restarts: None };
        let written =
            manifests(&[found("ollama", Engine::Ollama, unit), found("mlx", Engine::MLX, Manager::Container)], "mac");
        let [ollama, mlx] = documents(&written.backends).try_into().unwrap();
        let spec: LLMBackendSpec = serde_json::from_value(ollama["spec"].clone()).unwrap();
        assert_eq!((spec.models[0].name.as_str(), spec.engine), ("a: \"b\"\n", Engine::Ollama));
        assert_eq!(spec.recovery.unwrap().service.as_deref(), Some("ollama"));
        assert!(mlx["spec"].get("recovery").is_none(), "a container is not the agent's");
    }

    #[test]
    fn the_agent_restarts_by_whoever_started_it() {
        let service = |manager| {
            let text = manifests(&[found("x", Engine::Ollama, manager)], "mac").agent.unwrap();
            let config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            let service = config["spec"]["services"][0].clone();
            serde_json::from_value::<crate::api::AgentService>(service.clone()).unwrap();
            service
        };
        let user_unit = service(Manager::Systemd { unit: "x.service".into(), user: true, restarts: None });
        assert_eq!(user_unit["start"]["command"], json!(["systemctl", "--user", "start", "x.service"]));
        assert_eq!(user_unit["manager"], "Command");
        let brew = service(Manager::Brew { formula: "ollama".into() });
        assert_eq!(brew["stop"]["command"], json!(["brew", "services", "stop", "ollama"]));
        let process =
            service(Manager::Nobody { command: vec!["ollama".into(), "serve".into()], folder: Some("/srv".into()) });
        assert_eq!(
            process["start"],
            json!({"command": ["ollama", "serve"], "user": "ada", "workingDirectory": "/srv"})
        );
        assert_eq!(process["adopt"], false);
    }

    #[test]
    fn without_anything_to_restart_there_is_no_agent() {
        assert_eq!(manifests(&[found("x", Engine::MLX, Manager::Container)], "mac").agent, None);
    }
}

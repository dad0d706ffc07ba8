//! `ostler init`: manifests of what runs here.

mod manager;
mod manifests;
mod probe;

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use super::{CliError, output::print, process::PortHolder};
use crate::{
    api::{EngineKind, number_of},
    net::HttpClient,
};
use manager::ServerManager;
use probe::ProbedServer;

/// Find inference servers on this machine, and write manifests of them
///
/// Asks the usual ports for Ollama, MLX and OpenAI-compatible servers, says who owns each and what else watches them, and
/// writes backends.yaml, work.yaml (an expert, a queue and a pool, so that `tasks add` works), and agent.yaml apart: that one stays on
/// this host. Nothing is overwritten, nothing is started.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Where the manifests are written
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

/// A server with a name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundServer {
    name: String,
    server: ProbedServer,
    manager: ServerManager,
}

pub async fn run(args: InitArgs) -> Result<(), CliError> {
    let InitArgs { folder } = args;
    let [backends, agent, work] = ["backends.yaml", "agent.yaml", "work.yaml"].map(|file| folder.join(file));
    for file in [&backends, &agent, &work] {
        refuse_to_overwrite(file)?;
    }
    let servers = probe::servers(&HttpClient::new()?).await;
    if servers.is_empty() {
        return Err(CliError::failed(
            "no Ollama, MLX or OpenAI-compatible server answers on the usual ports of this machine, nor where OLLAMA_HOST \
             says: start one and ask again, or begin with examples/quickstart, which brings simulated ones",
        ));
    }
    let found = named(servers);
    let mut text: String = found.iter().map(line).collect();
    text.extend(manager::watchers().into_iter().map(|w| format!("! {w}\n")));
    print(&text)?;
    let written = manifests::manifests(&found, &host_name());
    fs::create_dir_all(&folder).map_err(|e| CliError::failed(format!("can't make {}: {e}", folder.display())))?;
    write_new(&backends, &written.backends)?;
    if let Some(text) = &written.agent {
        write_new(&agent, text)?;
    }
    write_new(&work, &written.work)?;
    if found.iter().all(|found| manifests::talking(found).is_none()) {
        print("! no server lists a model that talks: name one in backends.yaml, with the alias that work.yaml has\n")?;
    }
    let folder = folder.display();
    print(&format!("next: read them, then `ostler validate -f {folder}` and `ostler up -f {folder}`\n"))
}

fn named(servers: Vec<ProbedServer>) -> Vec<FoundServer> {
    let mut count: HashMap<EngineKind, usize> = HashMap::new();
    let mut found = Vec::new();
    for server in servers {
        let base = server.engine.as_str().to_ascii_lowercase();
        let nth = count.entry(server.engine).or_default();
        *nth += 1;
        let name = if *nth == 1 { base } else { format!("{base}-{}", server.address.port()) };
        let pid = server.owner.as_ref().and_then(|o| o.pid);
        let manager = pid.map_or_else(ServerManager::unseen, manager::of);
        found.push(FoundServer { name, server, manager });
    }
    found
}

/// `ollama at http://127.0.0.1:11434: 3 models; process 7 (ollama serve) of user ada, by systemd unit ollama.service (Restart=always)`
fn line(FoundServer { name, server, manager }: &FoundServer) -> String {
    let owner = server.owner.as_ref().map_or_else(|| "owner unknown".to_owned(), ToString::to_string);
    let by = match manager {
        ServerManager::Systemd { unit, user, restarts } => {
            let whose = if *user { "the user's systemd" } else { "systemd" };
            let restarts = restarts.as_ref().map(|r| format!(" (Restart={r})")).unwrap_or_default();
            format!(", by {whose} unit {unit}{restarts}")
        }
        ServerManager::Brew { formula } => format!(", by brew services ({formula})"),
        ServerManager::Launchd { label } => format!(", by launchd ({label})"),
        ServerManager::Container => ", in a container".to_owned(),
        ServerManager::App { path } => format!(", by {path}"),
        ServerManager::Nobody { .. } => String::new(),
    };
    format!("{name} at {}: {}; {owner}{by}\n", server.url(), number_of(server.models.len(), "model"))
}

/// The agent's name: the host's, as far as a resource may be called that.
fn host_name() -> String {
    let name = sysinfo::System::host_name().unwrap_or_default().to_ascii_lowercase();
    let short = name.split('.').next().unwrap_or_default();
    let clean: String = short.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    match clean.trim_matches('-') {
        "" => "host".to_owned(),
        name => name.to_owned(),
    }
}

fn refuse_to_overwrite(file: &Path) -> Result<(), CliError> {
    if file.exists() {
        return Err(CliError::failed(format!(
            "{} is there already and is not overwritten: choose another folder, or move it away",
            file.display()
        )));
    }
    Ok(())
}

fn write_new(file: &Path, text: &str) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::failed(format!("can't write {}: {e}", file.display()));
    let mut out = fs::OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    out.write_all(text.as_bytes()).map_err(failed)?;
    print(&format!("wrote {}\n", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_one_engine_have_different_names() {
        let server = |port: u16| ProbedServer {
            engine: EngineKind::OpenAi,
            address: ([127, 0, 0, 1], port).into(),
            models: Vec::new(),
            owner: None,
        };
        let names: Vec<String> = named(vec![server(8000), server(1234)]).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["openai", "openai-1234"]);
    }

    #[test]
    fn a_server_is_told_with_its_owner_and_who_started_it() {
        let found = FoundServer {
            name: "ollama".into(),
            server: ProbedServer {
                engine: EngineKind::Ollama,
                address: ([127, 0, 0, 1], 11434).into(),
                models: vec!["a".into()],
                owner: Some(PortHolder {
                    pid: Some(7),
                    user: Some("ada".into()),
                    command: Some("ollama serve".into()),
                }),
            },
            manager: ServerManager::Systemd {
                unit: "ollama.service".into(),
                user: false,
                restarts: Some("always".into()),
            },
        };
        assert_eq!(
            line(&found),
            "ollama at http://127.0.0.1:11434: 1 model; process 7 (ollama serve) of user ada, by systemd unit \
             ollama.service (Restart=always)\n"
        );
    }
}

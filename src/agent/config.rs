//! The agent's file: read strictly, then resolved into what the rest of the agent works with.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;
use serde::Deserialize;

use crate::{
    api::{
        API_VERSION, AgentCommand, AgentConfigSpec, AgentContainer, AgentService, RestartPolicy, ServiceManager,
        agent_config_schema, quantity,
    },
    host::{ComposeService, ContainerTarget, mask::without_user},
    listener::TlsFiles,
    platform::local::{LocalKind, read_single},
};

/// What the file of `ostler agent --config` says.
#[derive(Clone, Debug)]
pub struct AgentFile {
    pub name: String,
    pub spec: AgentConfigSpec,
    /// The file's folder: relative paths start there.
    pub base_dir: PathBuf,
}

/// Why an agent's file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the agent's file {path}: {cause}")]
    Read { path: String, cause: std::io::Error },
    #[error("the agent's configuration can't be used:\n  {}", .0.join("\n  "))]
    Invalid(Vec<String>),
}

/// AgentConfig as a kind of a folder of manifests.
pub fn local_kind() -> LocalKind {
    LocalKind {
        api_version: API_VERSION.to_owned(),
        kind: "AgentConfig".to_owned(),
        schema: serde_json::to_value(agent_config_schema()).unwrap_or_default(),
    }
}

/// Reads a file with one AgentConfig. Errors name file, line and field.
pub fn load(path: &Path) -> Result<AgentFile, ConfigError> {
    let shown = path.display().to_string();
    let read = |cause| ConfigError::Read { path: shown.clone(), cause };
    let text = std::fs::read_to_string(path).map_err(read)?;
    let full = std::path::absolute(path).map_err(read)?;
    let base_dir = full.parent().unwrap_or(Path::new("/")).to_owned();
    parse(&text, &shown, base_dir)
}

fn parse(text: &str, shown: &str, base_dir: PathBuf) -> Result<AgentFile, ConfigError> {
    let invalid = |problems: Vec<String>| ConfigError::Invalid(problems);
    let (key, object) = read_single(shown, text, local_kind())
        .map_err(|problems| invalid(problems.iter().map(ToString::to_string).collect()))?;
    let spec = AgentConfigSpec::deserialize(&object["spec"]).map_err(|e| invalid(vec![format!("{shown}: {e}")]))?;
    Ok(AgentFile { name: key.name, spec, base_dir })
}

/// The configuration with every text turned into what it means.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub listen: SocketAddr,
    pub tls: Option<TlsFiles>,
    pub signing_secret_file: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub self_check: Duration,
    pub services: Vec<ServiceSpec>,
}

#[derive(Clone, Debug)]
pub struct ServiceSpec {
    pub name: String,
    pub manager: ManagerSpec,
    pub check: Option<CheckSpec>,
    pub startup: Duration,
    pub restart: RestartPolicy,
    pub adopt: bool,
}

#[derive(Clone, Debug)]
pub enum ManagerSpec {
    Process(Box<ProcessSpec>),
    Command(Box<Commands>),
    Container(Box<ContainerTarget>),
}

/// A service whose parent is the agent.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    pub start: CommandSpec,
    pub stop_grace: Duration,
    pub log: LogSpec,
    pub out_of_memory_patterns: Vec<String>,
}

/// What starts, stops, restarts and asks a service whose parent is another program.
#[derive(Clone, Debug)]
pub struct Commands {
    pub start: CommandSpec,
    pub stop: CommandSpec,
    pub restart: Option<CommandSpec>,
    pub status: Option<CommandSpec>,
}

#[derive(Clone, Debug)]
pub struct CommandSpec {
    pub argv: Vec<String>,
    pub user: Option<String>,
    pub dir: PathBuf,
    pub environment: BTreeMap<String, String>,
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct CheckSpec {
    pub url: Url,
    pub timeout: Duration,
}

/// How long the engine may take over a container: compose may have to pull its image.
const LONGEST_CONTAINER_ACT: Duration = Duration::from_secs(1200);

impl ServiceSpec {
    /// The user that the agent's file wants it to run as.
    pub fn user(&self) -> Option<&String> {
        match &self.manager {
            ManagerSpec::Process(process) => process.start.user.as_ref(),
            ManagerSpec::Command(commands) => commands.start.user.as_ref(),
            ManagerSpec::Container(_) => None,
        }
    }

    /// How long one act on the service may take when everything goes wrong.
    pub fn longest_act(&self) -> Duration {
        let stop = match &self.manager {
            ManagerSpec::Process(process) => process.stop_grace,
            ManagerSpec::Command(commands) => {
                let also = commands.restart.iter().chain(&commands.status).map(|c| c.timeout);
                commands.stop.timeout + commands.start.timeout + also.sum::<Duration>()
            }
            ManagerSpec::Container(_) => LONGEST_CONTAINER_ACT,
        };
        stop + self.startup + self.check.as_ref().map_or(Duration::ZERO, |c| c.timeout)
    }
}

impl CheckSpec {
    /// The port that the URL means; the schema allows http and https only, which both have a default.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    /// The address of this host that the URL names; `None` when it names another host, whose ports can't be looked at.
    pub fn local_address(&self) -> Option<IpAddr> {
        let host = self.url.host_str()?.trim_matches(['[', ']']);
        if host.eq_ignore_ascii_case("localhost") {
            return Some(Ipv4Addr::LOCALHOST.into());
        }
        let address: IpAddr = host.parse().ok()?;
        // Only an address of this host can be bound.
        let own = address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok();
        own.then_some(address)
    }

    /// Whether it asks this host.
    pub fn is_here(&self) -> bool {
        self.local_address().is_some()
    }
}

#[derive(Clone, Debug)]
pub struct LogSpec {
    pub file: PathBuf,
    pub max_bytes: u64,
    pub files: u32,
}

/// Turns a spec into what the agent works with. Relative paths start at `base_dir`, logs without a file at `state_dir`.
/// Every problem is named, each with its field.
pub fn resolve(spec: &AgentConfigSpec, base_dir: &Path, state_dir: &Path) -> Result<Resolved, ConfigError> {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    for (i, service) in spec.services.iter().enumerate() {
        if !names.insert(&service.name) {
            problems
                .push(format!("spec.services[{i}]: there is a service {} already: name it otherwise", service.name));
        }
        if service.manager == ServiceManager::Container && spec.docker.is_none() {
            problems.push(format!(
                "spec.services[{i}]: manager: Container needs spec.docker: say there which containers are permitted"
            ));
        }
    }
    let listen = spec.listen.parse::<SocketAddr>();
    if let Err(e) = &listen {
        problems.push(format!("spec.listen: {}: {e}", spec.listen));
    }
    let (Ok(listen), true) = (listen, problems.is_empty()) else {
        return Err(ConfigError::Invalid(problems));
    };
    let at = |path: &String| base_dir.join(path);
    let services: Result<Vec<_>, _> = spec.services.iter().map(|s| resolve_service(s, base_dir, state_dir)).collect();
    Ok(Resolved {
        listen,
        tls: spec.tls.as_ref().map(|t| TlsFiles { cert: at(&t.cert_file), key: at(&t.key_file) }),
        signing_secret_file: spec.auth.signing_secret_file.as_ref().map(at),
        token_file: spec.auth.token_file.as_ref().map(at),
        self_check: seconds(spec.self_check_seconds),
        services: services.map_err(|p| ConfigError::Invalid(vec![p]))?,
    })
}

fn resolve_service(service: &AgentService, base_dir: &Path, state_dir: &Path) -> Result<ServiceSpec, String> {
    let name = &service.name;
    let check = match &service.check {
        None => None,
        Some(c) => Some(CheckSpec {
            url: Url::parse(&c.url).map_err(|e| format!("service {name}: check.url {}: {e}", without_user(&c.url)))?,
            timeout: seconds(c.timeout_seconds),
        }),
    };
    Ok(ServiceSpec {
        name: name.clone(),
        manager: resolve_manager(service, base_dir, state_dir)?,
        check,
        startup: seconds(service.startup_seconds),
        restart: service.restart,
        adopt: service.adopt,
    })
}

fn resolve_manager(service: &AgentService, base_dir: &Path, state_dir: &Path) -> Result<ManagerSpec, String> {
    let name = &service.name;
    let command = |c: &AgentCommand| CommandSpec {
        argv: c.command.clone(),
        user: c.user.clone(),
        dir: c.working_directory.as_ref().map_or_else(|| base_dir.to_owned(), |d| base_dir.join(d)),
        environment: c.environment.clone(),
        timeout: seconds(c.timeout_seconds),
    };
    let manager = match service.manager {
        ServiceManager::Process => "Process",
        ServiceManager::Command => "Command",
        ServiceManager::Container => "Container",
    };
    let needs = |what: &str| format!("service {name}: manager: {manager} needs {what}");
    let start = || service.start.as_ref().map(command).ok_or_else(|| needs("start"));
    Ok(match service.manager {
        ServiceManager::Command => ManagerSpec::Command(Box::new(Commands {
            start: start()?,
            stop: service.stop.as_ref().map(command).ok_or_else(|| needs("stop"))?,
            restart: service.restart_command.as_ref().map(command),
            status: service.status.as_ref().map(command),
        })),
        ServiceManager::Process => ManagerSpec::Process(Box::new(ProcessSpec {
            start: start()?,
            stop_grace: seconds(service.stop_grace_seconds),
            log: LogSpec {
                file: match &service.log.file {
                    Some(file) => base_dir.join(file),
                    None => state_dir.join(format!("{name}.log")),
                },
                max_bytes: quantity::bytes(&service.log.max_bytes).filter(|&n| n >= 1024).ok_or_else(|| {
                    format!("service {name}: log.maxBytes {} is no size of 1Ki or more", service.log.max_bytes)
                })?,
                files: u32::try_from(service.log.files).unwrap_or(0),
            },
            out_of_memory_patterns: service.out_of_memory_patterns.clone(),
        })),
        ServiceManager::Container => {
            let named = service.container.as_ref().and_then(|c| target(c, base_dir));
            ManagerSpec::Container(Box::new(named.ok_or_else(|| needs("container"))?))
        }
    })
}

fn target(container: &AgentContainer, base_dir: &Path) -> Option<ContainerTarget> {
    match (&container.name, &container.project_directory, &container.service) {
        (Some(name), None, None) => Some(ContainerTarget::Name(name.clone())),
        (None, Some(folder), Some(service)) => Some(ContainerTarget::Service(ComposeService {
            project_directory: base_dir.join(folder).display().to_string(),
            files: Vec::new(),
            service: service.clone(),
        })),
        _ => None,
    }
}

fn seconds(n: i32) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

#[cfg(test)]
mod tests;

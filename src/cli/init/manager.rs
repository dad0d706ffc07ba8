//! Who started a server, and would start it again: systemd, launchd, brew, a container engine, an app, or nobody. And what else on
//! this machine restarts servers: two healers of one server get into each other's way.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::{Command, Stdio},
};

use super::super::process::port_owner;
use crate::host::mask;

/// What stands behind a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerManager {
    /// A unit; `user` when the user's own systemd has it. `restarts` as its `Restart=` says.
    Systemd { unit: String, user: bool, restarts: Option<String> },
    /// `brew services`.
    Brew { formula: String },
    /// Another label of launchd.
    Launchd { label: String },
    /// Docker, containerd or Kubernetes.
    Container,
    /// An application of macOS, such as Ollama.app.
    App { path: String },
    /// Started by hand, or by something that leaves no trace.
    /// With what of its environment makes a start the same again.
    Nobody { command: Vec<String>, folder: Option<String>, environment: BTreeMap<String, String> },
}

impl ServerManager {
    /// Of a process that can't be seen.
    pub fn unseen() -> Self {
        Self::Nobody { command: Vec::new(), folder: None, environment: BTreeMap::new() }
    }
}

/// Finds out about a process of this machine.
pub fn of(pid: u32) -> ServerManager {
    let command = arguments(pid);
    if let Some(cgroup) = read(&format!("/proc/{pid}/cgroup")).as_deref().and_then(from_cgroup) {
        return match cgroup {
            ServerManager::Systemd { unit, user, .. } => {
                let restarts = restart_policy(&unit, user);
                ServerManager::Systemd { unit, user, restarts }
            }
            other => other,
        };
    }
    if cfg!(target_os = "macos")
        && let Some(found) = output("launchctl", &["list"]).as_deref().and_then(|list| from_launchctl(list, pid))
    {
        return found;
    }
    if let Some(app) = command.first().and_then(|c| c.split_once(".app/")).map(|(app, _)| format!("{app}.app")) {
        return ServerManager::App { path: app };
    }
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).ok().map(|p| p.display().to_string());
    ServerManager::Nobody { command, folder, environment: engine_environment(&variables(pid)) }
}

/// Lines such as `0::/system.slice/ollama.service` or `0::/user.slice/…/user@1000.service/app.slice/mlx.service`.
fn from_cgroup(text: &str) -> Option<ServerManager> {
    let paths: Vec<&str> = text.lines().filter_map(|line| line.rsplit_once(':').map(|(_, path)| path)).collect();
    let in_container =
        |p: &&str| ["/docker", "/kubepods", "containerd", "/libpod", "/lxc"].iter().any(|w| p.contains(w));
    if paths.iter().any(in_container) && !paths.iter().any(|p| p.ends_with("docker.service")) {
        return Some(ServerManager::Container);
    }
    paths.iter().find_map(|path| {
        let unit = path.rsplit('/').find(|part| part.ends_with(".service"))?;
        // A session of a person, or the manager of one, is not what runs a server.
        let of_a_session = unit.starts_with("user@") || path.contains(".scope");
        let user = path.contains("/user@");
        (!of_a_session).then(|| ServerManager::Systemd { unit: unit.to_owned(), user, restarts: None })
    })
}

/// Lines of `PID Status Label`.
fn from_launchctl(list: &str, pid: u32) -> Option<ServerManager> {
    let wanted = pid.to_string();
    let label = list.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        (columns.next() == Some(wanted.as_str())).then(|| columns.nth(1).map(str::to_owned)).flatten()
    })?;
    Some(match label.strip_prefix("homebrew.mxcl.") {
        Some(formula) => ServerManager::Brew { formula: formula.to_owned() },
        // The labels of apps that were opened by hand name the app.
        None if label.starts_with("application.") => return None,
        None => ServerManager::Launchd { label },
    })
}

fn restart_policy(unit: &str, user: bool) -> Option<String> {
    let mut arguments = if user { vec!["--user"] } else { Vec::new() };
    arguments.extend(["show", unit, "--property=Restart", "--value"]);
    output("systemctl", &arguments).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn arguments(pid: u32) -> Vec<String> {
    match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(bytes) => bytes
            .split(|b| *b == 0)
            .filter(|part| !part.is_empty())
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect(),
        Err(_) => output("ps", &["-o", "command=", "-p", &pid.to_string()])
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
    }
}

/// The variables of a process, written as `NAME=VALUE`; none of a process of another user.
fn variables(pid: u32) -> Vec<String> {
    match std::fs::read(format!("/proc/{pid}/environ")) {
        Ok(bytes) => {
            bytes.split(|b| *b == 0).filter_map(|part| std::str::from_utf8(part).ok()).map(str::to_owned).collect()
        }
        Err(_) if cfg!(target_os = "macos") => {
            let words = |options| output("ps", &["-ww", options, "command=", "-p", &pid.to_string()]);
            words("-Eo").zip(words("-o")).map(|(all, command)| after_command(&all, &command)).unwrap_or_default()
        }
        Err(_) => Vec::new(),
    }
}

/// `ps -E` writes the variables after the command line, with spaces between them; values may hold some, too.
fn after_command(all: &str, command: &str) -> Vec<String> {
    let mut variables: Vec<String> = Vec::new();
    for word in all.trim_end().strip_prefix(command.trim_end()).unwrap_or_default().trim_start().split(' ') {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(char::is_numeric)
        };
        match variables.last_mut() {
            Some(last) if !word.split_once('=').is_some_and(|(name, _)| is_name(name)) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => variables.push(word.to_owned()),
        }
    }
    variables
}

/// What engines go by, and no more: an environment holds keys, and much that is of a session.
fn engine_environment(variables: &[String]) -> BTreeMap<String, String> {
    const PREFIXES: [&str; 2] = ["OLLAMA_", "MLX_"];
    const NAMES: [&str; 2] = ["HF_HOME", "HF_HUB_OFFLINE"];
    const LONGEST: usize = 1024;
    const MOST: usize = 64;
    let is_known = |name: &str| PREFIXES.iter().any(|p| name.starts_with(p)) || NAMES.contains(&name);
    let is_plain = |value: &str| value.len() <= LONGEST && !value.chars().any(char::is_control);
    let variables = variables.iter().filter_map(|variable| variable.split_once('='));
    variables
        .filter(|(name, value)| is_known(name) && is_plain(value) && !mask::is_secret_variable(name, value))
        .take(MOST)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The output of a program that ended well.
pub(super) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Port of a host agent, this one's or another's.
const AGENT_PORT: u16 = 9099;
/// Words that make a line of a crontab worth a look.
const WORDS: [&str; 6] = ["ollama", "mlx", "vllm", "llama", "11434", "11435"];

/// One sentence for each.
pub fn watchers() -> Vec<String> {
    let mut all = Vec::new();
    if let Some(owner) = port_owner(SocketAddr::from(([127, 0, 0, 1], AGENT_PORT))) {
        all.push(format!("port {AGENT_PORT}, which host agents use, is held by {owner}"));
    }
    all.extend(output("crontab", &["-l"]).iter().flat_map(|table| cron(table)));
    all.extend(output("ps", &["-axo", "pid=,command="]).iter().flat_map(|list| autoheal(list)));
    all
}

fn cron(table: &str) -> Vec<String> {
    table
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#') && WORDS.iter().any(|word| line.contains(word)))
        .map(|line| format!("your crontab has: {}", mask::command_line(line)))
        .collect()
}

fn autoheal(list: &str) -> Vec<String> {
    list.lines()
        .filter(|line| line.contains("autoheal"))
        .map(|line| format!("a process restarts unhealthy containers: {}", mask::command_line(line.trim())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_tells_unit_or_container() {
        let unit = |unit: &str, user| Some(ServerManager::Systemd { unit: unit.into(), user, restarts: None });
        for (text, expected) in [
            ("0::/system.slice/ollama.service\n", unit("ollama.service", false)),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/mlx.service\n", unit("mlx.service", true)),
            (
                "12:cpu:/system.slice/ollama.service\n1:name=systemd:/system.slice/ollama.service\n",
                unit("ollama.service", false),
            ),
            ("0::/system.slice/docker-0a1b.scope\n", Some(ServerManager::Container)),
            ("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope\n", Some(ServerManager::Container)),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-terminal.scope\n", None),
            ("0::/\n", None),
        ] {
            assert_eq!(from_cgroup(text), expected, "{text}");
        }
    }

    #[test]
    fn a_start_gets_what_its_engine_goes_by_and_no_secret() {
        let variables = [
            "PATH=/bin",
            "HOME=/root",
            "OLLAMA_HOST=127.0.0.1:11500",
            "OLLAMA_MODELS=/srv/my models",
            "OLLAMA_API_KEY=abcdefgh",
            "OLLAMA_AUTH=Bearer abcdefghijkl",
            "OLLAMA_REMOTE=https://ada:hush-hush@host/",
            "OLLAMA_KEY=sk-abcdefghijklmnop",
            "OLLAMA_PRIVATE=a\nb",
            "MLX_METAL_DEBUG=0",
            "HF_HOME=/srv/hf",
            "HF_HUB_OFFLINE=1",
            "HF_TOKEN=hf_abcdefghijkl",
            "OPENAI_API_KEY=x",
            "no variable",
        ]
        .map(str::to_owned);
        let taken = engine_environment(&variables);
        let taken: Vec<(&str, &str)> = taken.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("HF_HOME", "/srv/hf"),
            ("HF_HUB_OFFLINE", "1"),
            ("MLX_METAL_DEBUG", "0"),
            ("OLLAMA_HOST", "127.0.0.1:11500"),
            ("OLLAMA_MODELS", "/srv/my models"),
        ];
        assert_eq!(taken, expected);
    }

    #[test]
    fn variables_after_a_command_line_keep_their_spaces() {
        let all = "/opt/ollama serve --x=1 HOME=/Users/ada OLLAMA_MODELS=/Volumes/My Disk/models TERM=x\n";
        let expected = ["HOME=/Users/ada", "OLLAMA_MODELS=/Volumes/My Disk/models", "TERM=x"];
        assert_eq!(after_command(all, "/opt/ollama serve --x=1\n"), expected);
        assert!(engine_environment(&after_command("sh", "another")).is_empty());
    }

    #[test]
    fn launchctl_tells_brew_from_others() {
        let list = "PID\tStatus\tLabel\n-\t0\tcom.apple.x\n77\t0\thomebrew.mxcl.ollama\n78\t0\tcom.me.mlx\n79\t0\tapplication.com.electron.ollama.1\n";
        assert_eq!(from_launchctl(list, 77), Some(ServerManager::Brew { formula: "ollama".into() }));
        assert_eq!(from_launchctl(list, 78), Some(ServerManager::Launchd { label: "com.me.mlx".into() }));
        assert_eq!(from_launchctl(list, 79), None);
        assert_eq!(from_launchctl(list, 80), None);
    }

    #[test]
    fn a_crontab_is_searched_for_what_restarts_engines() {
        let table = "# ollama\n0 3 * * * backup\n*/5 * * * * pgrep ollama || ollama serve\n";
        assert_eq!(cron(table), ["your crontab has: */5 * * * * pgrep ollama || ollama serve"]);
    }

    #[test]
    fn an_autoheal_container_is_seen_by_its_process() {
        let list = "    1 /sbin/init\n  314 {autoheal} /bin/sh /docker-entrypoint autoheal\n";
        assert_eq!(autoheal(list).len(), 1);
    }
}

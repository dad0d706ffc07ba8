//! What else on this machine looks after servers: two healers of one server get into each other's way.

use std::net::SocketAddr;

use super::{super::process::port_owner, manager::output};
use crate::host::mask;

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

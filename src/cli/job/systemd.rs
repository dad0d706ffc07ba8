//! A unit of systemd, of the machine or of a user.

use std::path::{Path, PathBuf};

use super::{JobProgram, JobState, JobSteps, MARK, ManagedJob, OPEN_FILES, RESTART_SECONDS};

pub fn unit(program: JobProgram) -> String {
    format!("ostler-{program}.service")
}

fn systemctl(job: &ManagedJob, arguments: &[&str]) -> Vec<String> {
    let manager = if job.system { "--system" } else { "--user" };
    ["systemctl", manager].iter().chain(arguments).map(|word| (*word).to_owned()).collect()
}

pub fn steps(job: &ManagedJob) -> JobSteps {
    let name = unit(job.program);
    let folder = if job.system { PathBuf::from("/etc/systemd/system") } else { job.home.join(".config/systemd/user") };
    JobSteps {
        file: folder.join(&name),
        text: text(job),
        before: Vec::new(),
        start: vec![
            systemctl(job, &["daemon-reload"]),
            systemctl(job, &["enable", &name]),
            systemctl(job, &["restart", &name]),
        ],
        stop: vec![systemctl(job, &["disable", "--now", &name])],
        forget: vec![systemctl(job, &["daemon-reload"])],
    }
}

fn text(job: &ManagedJob) -> String {
    let about = match job.program {
        JobProgram::Up => "Ostler: LLM servers, tasks and gateway of this machine",
        JobProgram::Agent => "Ostler agent: starts and heals the services of this host",
    };
    let command: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    let mut lines = vec![
        format!("# {MARK}; `ostler service uninstall {}` removes it.", job.program),
        "[Unit]".into(),
        format!("Description={about}"),
        "Wants=network-online.target".into(),
        "After=network-online.target".into(),
        "StartLimitIntervalSec=0".into(),
        String::new(),
        "[Service]".into(),
        "Type=exec".into(),
        format!("ExecStart={}", command.join(" ")),
        format!("Environment={}", quoted_value(&format!("PATH={}", job.path))),
    ];
    if let Some(user) = job.run_as.as_deref().filter(|_| job.system) {
        lines.push(format!("User={}", user.replace('%', "%%")));
    }
    if job.system && job.data_dir == Path::new("/var/lib/ostler") {
        lines.extend(["StateDirectory=ostler".into(), "StateDirectoryMode=0700".into()]);
    }
    lines.extend([
        "Restart=on-failure".into(),
        format!("RestartSec={RESTART_SECONDS}"),
        "TimeoutStopSec=60".into(),
        format!("LimitNOFILE={OPEN_FILES}"),
        "# Services that it started are processes of their own: they outlive it, and one that the kernel kills is its own affair.".into(),
        "KillMode=process".into(),
        "OOMPolicy=continue".into(),
        String::new(),
        "[Install]".into(),
        format!("WantedBy={}", if job.system { "multi-user.target" } else { "default.target" }),
    ]);
    lines.join("\n") + "\n"
}

/// A word of a command line: neither variables nor specifiers are expanded in it.
fn quoted(word: &str) -> String {
    quoted_value(&word.replace('$', "$$"))
}

fn quoted_value(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

pub fn show(job: &ManagedJob) -> Vec<String> {
    let properties = "--property=ActiveState,SubState,NRestarts,ExecMainStatus,UnitFileState";
    systemctl(job, &["show", &unit(job.program), properties])
}

/// Of lines `ActiveState=active`.
pub fn state(text: &str) -> JobState {
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    JobState {
        installed: true,
        running: of("ActiveState") == "active",
        says: [of("ActiveState"), of("SubState"), of("UnitFileState")]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(", "),
        restarts: of("NRestarts").parse().ok(),
        last_exit_code: of("ExecMainStatus").parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::job::JobManager;

    fn job(program: JobProgram, system: bool) -> ManagedJob {
        ManagedJob {
            program,
            manager: JobManager::Systemd,
            system,
            run_as: system.then(|| "llm".to_owned()),
            command: ["/opt/my ostler/ostler", "up", "-f", "/srv/100%/$x/\"q\\"].map(str::to_owned).to_vec(),
            path: "/usr/bin:/bin".into(),
            home: "/home/ada".into(),
            uid: 1000,
            data_dir: if system { "/var/lib/ostler".into() } else { "/home/ada/.local/share/ostler".into() },
        }
    }

    #[test]
    fn a_unit_is_where_its_manager_looks_and_leaves_services_up() {
        for (system, file, wanted_by, manager) in [
            (false, "/home/ada/.config/systemd/user/ostler-up.service", "default.target", "--user"),
            (true, "/etc/systemd/system/ostler-up.service", "multi-user.target", "--system"),
        ] {
            let steps = steps(&job(JobProgram::Up, system));
            assert_eq!(steps.file, PathBuf::from(file));
            let has = |line: &str| assert!(steps.text.lines().any(|l| l == line), "{line}\n{}", steps.text);
            has("KillMode=process");
            has("OOMPolicy=continue");
            has("LimitNOFILE=8192");
            has("Restart=on-failure");
            has(&format!("WantedBy={wanted_by}"));
            assert_eq!(steps.text.contains("\nUser=llm\n"), system);
            assert_eq!(steps.text.contains("\nStateDirectory=ostler\n"), system);
            assert!(steps.start.iter().chain(&steps.stop).all(|command| command[1] == manager));
        }
        assert!(steps(&job(JobProgram::Agent, false)).file.ends_with("ostler-agent.service"));
    }

    #[test]
    fn nothing_in_a_command_line_is_expanded() {
        let text = text(&job(JobProgram::Up, false));
        let line = r#"ExecStart="/opt/my ostler/ostler" "up" "-f" "/srv/100%%/$$x/\"q\\""#;
        assert!(text.lines().any(|l| l == line), "{text}");
    }

    #[test]
    fn a_state_is_read_from_what_systemctl_shows() {
        let running =
            state("ActiveState=active\nSubState=running\nNRestarts=2\nExecMainStatus=0\nUnitFileState=enabled\n");
        assert!(running.running && running.restarts == Some(2), "{running:?}");
        assert_eq!(running.sentence(), "runs (active, running, enabled), restarted 2 times");
        let failed = state("ActiveState=failed\nSubState=failed\nNRestarts=0\nExecMainStatus=1\n");
        assert_eq!(failed.sentence(), "does not run (failed, failed), last exit code 1");
        assert!(!state("").running);
    }
}

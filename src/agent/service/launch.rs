//! Starts programs through `ostler agent-exec`, so that user, folder and record are settled in the new process.

use std::{
    env,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::unistd::User;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use super::error::ServiceError;
use crate::{
    agent::{config::CommandSpec, os},
    host::mask::one_line,
    listener,
};

/// How much of a command's output an error shows, in characters.
const SHOWN: usize = 400;

/// What another user's program gets of the agent's environment; the rest is that user's own, or declared.
const OF_A_LOGIN: [&str; 2] = ["PATH", "LANG"];

/// Starts programs as the agent's file says.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The `ostler` binary.
    pub exe: PathBuf,
}

impl Launcher {
    /// The command line of `agent-exec` with the environment that the program gets.
    pub fn command(&self, spec: &CommandSpec, record: Option<&Path>) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg("agent-exec").arg("--dir").arg(&spec.dir);
        if let Some(record) = record {
            command.arg("--record").arg(record);
        }
        if let Some(user) = &spec.user {
            command.arg("--user").arg(user);
        }
        // This process raised its own.
        if let Some(limit) = listener::open_files_at_start() {
            command.arg("--open-files").arg(limit.to_string());
        }
        command.arg("--").args(&spec.argv);
        // The agent's own settings and secrets are no business of what it starts; and where the file names the user, whatever else is
        // in the agent's environment is none of that user's.
        for (name, _) in env::vars_os() {
            let passed = match name.to_str() {
                Some("OSTLER_CRASH_POINT") => true,
                Some(name) if spec.user.is_some() => OF_A_LOGIN.contains(&name),
                name => !name.is_some_and(|name| name.starts_with("OSTLER_")),
            };
            if !passed {
                command.env_remove(name);
            }
        }
        command.envs(home_of(spec)).envs(&spec.environment);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, or kills it when its time is over.
    pub async fn run(&self, spec: &CommandSpec) -> Result<CommandOutcome, ServiceError> {
        let shown = spec.argv.join(" ");
        let mut child = self
            .command(spec, None)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| self.not_spawned(&e))?;
        let mut said = Said::default();
        let ended = timeout(spec.timeout, async {
            said.listen(&mut child).await;
            child.wait().await
        })
        .await;
        let Ok(status) = ended else {
            kill_tree(&child);
            return Err(ServiceError::CommandFailed {
                command: shown,
                how: format!("did not end within {} s and was killed", spec.timeout.as_secs()),
                output: said.shown(),
            });
        };
        let status = status.map_err(|e| ServiceError::Look(e.to_string()))?;
        Ok(CommandOutcome { command: shown, status, output: said.shown() })
    }

    pub fn not_spawned(&self, cause: &std::io::Error) -> ServiceError {
        ServiceError::Spawn { cause: format!("can't run {}: {cause}", self.exe.display()) }
    }
}

/// A command that ended.
#[derive(Debug)]
pub struct CommandOutcome {
    command: String,
    status: ExitStatus,
    /// Empty, or what it said after a colon.
    output: String,
}

impl CommandOutcome {
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    pub fn or_failed(self) -> Result<(), ServiceError> {
        if self.succeeded() {
            return Ok(());
        }
        Err(ServiceError::CommandFailed {
            command: self.command,
            how: format!("failed ({})", self.status),
            output: self.output,
        })
    }
}

/// What a login of the user would set, unless the file says otherwise.
fn home_of(spec: &CommandSpec) -> Vec<(&'static str, String)> {
    let Some(user) = spec.user.as_deref().and_then(|name| User::from_name(name).ok().flatten()) else {
        return Vec::new();
    };
    vec![("HOME", user.dir.display().to_string()), ("USER", user.name.clone()), ("LOGNAME", user.name)]
}

/// The end of what a command says on both streams. Kept outside of the reading, so that what was read is not lost when that
/// is cut short.
#[derive(Default)]
struct Said {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Said {
    /// Reads until both streams are closed. Something that the command left behind may keep them open, so this also ends a moment
    /// after the command does.
    async fn listen(&mut self, child: &mut Child) {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let both = async { tokio::join!(tail(out, &mut self.out), tail(err, &mut self.err)) };
        let ended = async {
            // How it ended is asked for again by the caller.
            let _ = child.wait().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        tokio::select! {
            _ = both => {}
            () = ended => {}
        }
    }

    /// For an error's end: empty, or after a colon.
    fn shown(&self) -> String {
        let text = format!("{} {}", String::from_utf8_lossy(&self.out), String::from_utf8_lossy(&self.err));
        let skip = text.trim_end().chars().count().saturating_sub(SHOWN);
        let text = one_line(&text.chars().skip(skip).collect::<String>(), SHOWN);
        if text.is_empty() { text } else { format!(": {text}") }
    }
}

async fn tail(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..n]);
        let extra = kept.len().saturating_sub(4 * SHOWN);
        kept.drain(..extra);
    }
}

/// Kills a command with all that it started; it leads a session.
fn kill_tree(child: &Child) {
    let Some(pid) = child.id() else { return };
    if let Ok(processes) = os::Processes::read() {
        for process in processes.tree(pid) {
            // It may have ended by itself meanwhile.
            let _ = os::signal(process.pid, os::Signal::SIGKILL);
        }
    }
}

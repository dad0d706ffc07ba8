//! The body of `ostler agent-exec`: the step between the agent and a service's own program.
//!
//! It runs in the new process, which keeps its pid: it writes down pid and start time, and becomes the program. An agent
//! that dies right after starting it finds the record; one that starts a second finds out here that the first one runs.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{Uid, User, setsid};
use serde::{Deserialize, Serialize};

use super::{
    keep::{self, StateError},
    os,
};
use crate::{host::Instance, listener, telemetry::crash_point};

/// What to become.
#[derive(Clone, Debug)]
pub struct ExecPlan {
    /// Where pid and start time are written down; absent for a command that ends soon.
    pub record: Option<PathBuf>,
    pub user: Option<String>,
    pub dir: PathBuf,
    /// The limit of open files that the program gets; absent: this process' own.
    pub open_files: Option<u64>,
    pub argv: Vec<String>,
}

/// The record of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub instance: Instance,
    /// Start times count from the boot, so another boot's mean nothing.
    pub boot: String,
    /// The agent found it running and took it over.
    #[serde(default)]
    pub adopted: bool,
}

impl Record {
    /// The recorded process, if it still runs.
    pub fn alive(&self) -> Option<&Instance> {
        (self.boot == os::boot_id() && os::is_alive(&self.instance)).then_some(&self.instance)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("it already runs as process {0}")]
    AlreadyRuns(u32),
    #[error("there is no user {0}: correct the service's user, or create it")]
    NoSuchUser(String),
    #[error(
        "the agent runs as {own}, and only root can start a process as {wanted}: run the agent as root, or as {wanted}"
    )]
    NotRoot { own: String, wanted: String },
    #[error("can't become user {user}: {cause}")]
    Become { user: String, cause: io::Error },
    #[error("can't run {program}: {why}")]
    Exec { program: String, why: String },
    #[error("no program to run")]
    NoProgram,
    #[error(transparent)]
    State(#[from] StateError),
}

/// Becomes the program. Returns only when that fails; the reason is then in `RECORD.error` too, where the agent reads it.
pub fn exec(plan: &ExecPlan) -> ExecError {
    // Without a session of its own, a terminal's Ctrl-C would end the service with the agent. It fails only where this
    // process leads a group already, and then nobody else is in that group.
    let _ = setsid();
    let mut complaint = plan.record.as_deref().and_then(open_complaint);
    let error = become_program(plan);
    if let Some(file) = &mut complaint {
        // The same text goes to standard error, which is the service's log.
        let _ = write!(file, "{error}");
    }
    error
}

fn become_program(plan: &ExecPlan) -> ExecError {
    let (mut command, user, _lock) = match prepare(plan) {
        Ok(ready) => ready,
        Err(e) => return e,
    };
    if let Some(user) = &user
        && let Err(cause) = os::become_user(user, &mut command)
    {
        return ExecError::Become { user: user.name.clone(), cause };
    }
    if let Some(limit) = plan.open_files {
        listener::limit_open_files(limit);
    }
    // The lock is closed by exec, as every file of this process is.
    let cause = command.exec();
    let program = plan.argv.first().cloned().unwrap_or_default();
    let why = why_not(&program, &plan.dir, &cause);
    ExecError::Exec { program, why }
}

/// The kernel says the same of a program and of a folder that is not there.
fn why_not(program: &str, dir: &Path, cause: &io::Error) -> String {
    let shown = dir.display();
    match cause.kind() {
        _ if !dir.exists() => format!("its folder {shown} is not there: correct workingDirectory, or make it"),
        _ if !dir.is_dir() => format!("its folder {shown} is no folder: correct workingDirectory"),
        io::ErrorKind::NotFound if program.contains('/') => {
            format!("no such file (from {shown}), or its interpreter is missing: install it, or correct the command")
        }
        io::ErrorKind::NotFound => {
            let path = std::env::var("PATH").unwrap_or_default();
            format!(
                "no such file in PATH: install it, write its whole path, or set PATH in the service's environment (it is {path})"
            )
        }
        io::ErrorKind::PermissionDenied => {
            let user = os::own_user();
            format!("permission denied to user {user}: let that user enter {shown} and execute the file (chmod +x)")
        }
        _ => format!("{cause} (in {shown})"),
    }
}

fn prepare(plan: &ExecPlan) -> Result<(Command, Option<User>, Option<File>), ExecError> {
    let (program, arguments) = plan.argv.split_first().ok_or(ExecError::NoProgram)?;
    let user = plan.user.as_deref().map(find_user).transpose()?.flatten();
    let mut command = Command::new(path_of(program));
    command.args(arguments).current_dir(&plan.dir).env_remove("OSTLER_CRASH_POINT");
    let lock = plan.record.as_deref().map(write_record).transpose()?;
    Ok((command, user, lock))
}

/// `ostler` is the program that runs the agent, wherever PATH leads: examples with simulated servers work without an
/// installation, and of several releases the same one is started.
fn path_of(program: &str) -> PathBuf {
    match std::env::current_exe() {
        Ok(own) if program == "ostler" => own,
        _ => PathBuf::from(program),
    }
}

/// The user to change to; `None` when this process is the user's already.
fn find_user(name: &str) -> Result<Option<User>, ExecError> {
    let user = User::from_name(name).ok().flatten().ok_or_else(|| ExecError::NoSuchUser(name.to_owned()))?;
    if user.uid == Uid::effective() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        return Err(ExecError::NotRoot { own: os::own_user(), wanted: name.to_owned() });
    }
    Ok(Some(user))
}

/// Writes this process down, under a lock that is held until it has become the program.
fn write_record(path: &Path) -> Result<File, ExecError> {
    let lock_path = lock_path(path);
    let state = |what, e| ExecError::State(StateError::io(what, &lock_path, e));
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|e| state("open", e))?;
    lock.lock().map_err(|e| state("lock", e))?;
    let earlier: Option<Record> = keep::read(path)?;
    if let Some(instance) = earlier.as_ref().and_then(Record::alive) {
        return Err(ExecError::AlreadyRuns(instance.pid));
    }
    crash_point("agent-exec.before-record");
    let pid = std::process::id();
    let instance = os::instance_of(pid)
        .ok_or_else(|| state("find the start time of this process for", io::ErrorKind::Unsupported.into()))?;
    let record = Record { instance, boot: os::boot_id(), adopted: false };
    keep::write(path, &record)?;
    crash_point("agent-exec.after-record");
    Ok(lock)
}

/// Whether a process that has written its record has become its program, or failed to: until then it holds a lock.
pub fn has_become(record: &Path) -> bool {
    match File::open(lock_path(record)) {
        Ok(lock) => lock.try_lock_shared().is_ok(),
        Err(_) => true,
    }
}

fn lock_path(record: &Path) -> PathBuf {
    record.with_extension("process-lock")
}

/// Where the agent reads why the program was not run.
pub fn complaint_path(record: &Path) -> PathBuf {
    record.with_extension("process-error")
}

fn open_complaint(record: &Path) -> Option<File> {
    // Opened now: as another user it could not be.
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(complaint_path(record)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_can_not_be_run_is_told_from_a_folder_that_is_not_there() {
        let (missing, denied) = (io::ErrorKind::NotFound.into(), io::ErrorKind::PermissionDenied.into());
        let why = |program: &str, dir: &str, cause: &io::Error| why_not(program, Path::new(dir), cause);
        assert!(why("mlx_lm.server", "/", &missing).starts_with("no such file in PATH: "));
        assert!(why("bin/serve", "/", &missing).starts_with("no such file (from /)"));
        assert!(why("mlx_lm.server", "/nowhere", &missing).starts_with("its folder /nowhere is not there"));
        assert!(why("serve", "/dev/null", &missing).contains("no folder"));
        assert!(why("serve", "/", &denied).starts_with("permission denied to user"));
    }

    #[test]
    fn ostler_is_the_program_that_runs_the_agent() {
        assert_eq!(path_of("ostler"), std::env::current_exe().unwrap());
        assert_eq!(path_of("ollama"), Path::new("ollama"));
        assert_eq!(path_of("/opt/ostler"), Path::new("/opt/ostler"));
    }
}

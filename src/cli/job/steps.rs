//! What installing and removing a job takes, and how a job is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Serialize;

use super::{super::CliError, JobManager, MARK, ManagedJob, launchd, systemd};

/// A file, and the commands that make its manager take it up or forget it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSteps {
    pub file: PathBuf,
    pub text: String,
    /// Run before the file is written, whatever they say: an older job is stopped.
    pub before: Vec<Vec<String>>,
    pub start: Vec<Vec<String>>,
    pub stop: Vec<Vec<String>>,
    pub forget: Vec<Vec<String>>,
}

/// How a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobState {
    pub installed: bool,
    pub running: bool,
    /// In the manager's own words.
    pub says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit_code: Option<i32>,
}

impl JobState {
    pub fn sentence(&self) -> String {
        if !self.installed {
            return "not installed; `ostler service install` does it".to_owned();
        }
        let mut said = if self.running { "runs".to_owned() } else { "does not run".to_owned() };
        if !self.says.is_empty() {
            said += &format!(" ({})", self.says);
        }
        if let Some(restarts) = self.restarts.filter(|restarts| *restarts > 0) {
            said += &format!(", restarted {restarts} times");
        }
        if let Some(code) = self.last_exit_code.filter(|code| *code != 0) {
            said += &format!(", last exit code {code}");
        }
        said
    }
}

impl ManagedJob {
    pub fn name(&self) -> String {
        match self.manager {
            JobManager::Systemd => systemd::unit(self.program),
            JobManager::Launchd => launchd::label(self.program),
        }
    }

    /// Pure: what to write, and what to run.
    pub fn steps(&self) -> JobSteps {
        match self.manager {
            JobManager::Systemd => systemd::steps(self),
            JobManager::Launchd => launchd::steps(self),
        }
    }

    /// Asks the manager, and changes nothing.
    pub fn observe(&self) -> JobState {
        let installed = is_ours(&self.steps().file).unwrap_or(false);
        let state = match self.manager {
            JobManager::Systemd => output(&systemd::show(self)).map(|text| systemd::state(&text)),
            JobManager::Launchd => output(&launchd::show(self)).map(|text| launchd::state(&text)),
        };
        let state = state.unwrap_or_else(|why| JobState { says: why, ..JobState::default() });
        JobState { installed, running: installed && state.running, ..state }
    }
}

impl JobSteps {
    pub fn install(&self, job: &ManagedJob) -> Result<(), CliError> {
        if is_ours(&self.file) == Some(false) {
            return Err(CliError::failed(format!(
                "{} is there and was not written by `ostler service install`: move it away, then try again",
                self.file.display()
            )));
        }
        if job.system && job.uid != 0 {
            return Err(CliError::failed(format!(
                "can't write {}: a job of the machine is root's to install; run this with sudo, or without --system",
                self.file.display()
            )));
        }
        self.prepare(job).map_err(|e| CliError::failed(format!("can't make the job's folders: {e}")))?;
        for command in &self.before {
            let _ = output(command);
        }
        // In one step: a manager may read it at any time.
        let new = self.file.with_extension("new");
        fs::write(&new, &self.text)
            .and_then(|()| fs::rename(&new, &self.file))
            .map_err(|e| CliError::failed(format!("can't write {}: {e}", self.file.display())))?;
        self.start.iter().try_for_each(|command| ask(command, &self.file))
    }

    fn prepare(&self, job: &ManagedJob) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        // Its log is there, and systemd's own log needs no folder.
        if job.manager == JobManager::Launchd {
            crate::store::own_folder(&job.data_dir)?;
            if let Some(user) = &job.run_as {
                let user = nix::unistd::User::from_name(user)?
                    .ok_or_else(|| io::Error::other(format!("there is no user {user}")))?;
                std::os::unix::fs::chown(&job.data_dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        Ok(())
    }

    /// Whether there was anything to remove.
    pub fn uninstall(&self) -> Result<bool, CliError> {
        match is_ours(&self.file) {
            None => return Ok(false),
            Some(true) => {}
            Some(false) => {
                return Err(CliError::failed(format!(
                    "{} was not written by `ostler service install`, and is left alone",
                    self.file.display()
                )));
            }
        }
        for command in &self.stop {
            let _ = output(command);
        }
        fs::remove_file(&self.file).map_err(|e| {
            CliError::failed(format!("can't remove {}: {e}; a job of the machine needs sudo", self.file.display()))
        })?;
        for command in &self.forget {
            let _ = output(command);
        }
        Ok(true)
    }
}

/// `None`: there is no such file.
fn is_ours(file: &Path) -> Option<bool> {
    match fs::read_to_string(file) {
        Ok(text) => Some(text.contains(MARK)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(false),
    }
}

fn ask(command: &[String], file: &Path) -> Result<(), CliError> {
    output(command).map(drop).map_err(|why| {
        CliError::failed(format!("{} is written, but `{}` failed: {why}", file.display(), command.join(" ")))
    })
}

/// Standard output of a program that ended well, else why it did not.
fn output(command: &[String]) -> Result<String, String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let done = done.map_err(|e| format!("can't run {program}: {e}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.trim();
    Err(if said.is_empty() { format!("{program}: {}", done.status) } else { said.to_owned() })
}

//! The data folder of an `ostler up`, and `endpoint.json` in it: where it listens, and the token that opens the door.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{CliError, Global};
use crate::store::{new_file, own_folder, seal};

const ENDPOINT: &str = "endpoint.json";
/// Names the folder of manifests that was served last.
const SERVED: &str = "served-folder";
/// What seals Secrets for workers beside an `ostler up`.
pub const KEY_FILE: &str = "worker.key";

/// A data folder. It may not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// How to reach an `ostler up` on this machine. Its `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpEndpoint {
    /// `http://127.0.0.1:9180`
    pub address: String,
    pub token: String,
    pub pid: u32,
}

impl std::fmt::Debug for UpEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// OSTLER_KEY, where it is set.
pub fn sealing_key_of_environment() -> Result<Option<seal::Key>, CliError> {
    let text = std::env::var("OSTLER_KEY").ok().filter(|text| !text.trim().is_empty());
    text.map(|text| seal::Key::parse(&text)).transpose().map_err(CliError::failed)
}

impl DataDir {
    /// `--data-dir`, else OSTLER_DATA_DIR, else the folder of the user: XDG's data folder, or Application Support.
    pub fn of(global: &Global) -> Result<Self, CliError> {
        // Services are started elsewhere, and files opened link by link: by the whole path.
        let whole = |given: &Path| {
            let failed = |e| CliError::failed(format!("can't use the data folder {}: {e}", given.display()));
            std::path::absolute(given).map(Self).map_err(failed)
        };
        if let Some(given) = &global.data_dir {
            return whole(given);
        }
        let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(given) = env("OSTLER_DATA_DIR") {
            return whole(&given);
        }
        default_folder(env("XDG_DATA_HOME"), env("HOME"), cfg!(target_os = "macos")).map(Self).ok_or_else(|| {
            CliError::failed("no folder for data: HOME is not set; say where with --data-dir DIR or OSTLER_DATA_DIR")
        })
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn endpoint_file(&self) -> PathBuf {
        self.0.join(ENDPOINT)
    }

    /// Makes the folder, for its owner only, with a `.gitignore` that keeps it out of any repository.
    pub fn create(&self) -> Result<(), CliError> {
        let failed = |what: &Path, e: io::Error| {
            CliError::failed(format!("can't write {}: {e}; choose another folder with --data-dir DIR", what.display()))
        };
        own_folder(&self.0).map_err(|e| {
            CliError::failed(format!(
                "can't use the data folder {}: {e}; or name another with --data-dir DIR",
                self.0.display()
            ))
        })?;
        let ignore = self.0.join(".gitignore");
        match new_file().open(&ignore).and_then(|mut file| file.write_all(b"*\n")) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed(&ignore, e)),
            _ => Ok(()),
        }
    }

    /// What seals Secrets for workers beside this `up`: OSTLER_KEY, else a key of the folder's own, made when it is first needed.
    pub fn sealing_key(&self) -> Result<seal::Key, CliError> {
        if let Some(key) = sealing_key_of_environment()? {
            return Ok(key);
        }
        let file = self.0.join(KEY_FILE);
        let failed = |e: io::Error| CliError::failed(format!("can't keep a key in {}: {e}", file.display()));
        let known = match fs::read_to_string(&file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(failed)?).filter(|text| !text.trim().is_empty()),
        };
        let text = match known {
            Some(text) => text,
            None => {
                let text = seal::Key::generate();
                // An empty one is of a start that was interrupted.
                let _ = fs::remove_file(&file);
                new_file().open(&file).and_then(|mut out| out.write_all(text.as_bytes())).map_err(failed)?;
                text
            }
        };
        seal::Key::parse(&text).map_err(|e| {
            CliError::failed(format!("{}: {e}; or delete the file, and a new one is made", file.display()))
        })
    }

    /// Whether what is kept here is of another folder of manifests than this one. Nothing is known of an older one: then not.
    pub fn served_another(&self, folder: &Path) -> bool {
        fs::read_to_string(self.0.join(SERVED)).is_ok_and(|last| Path::new(&last) != identity(folder))
    }

    /// The folder of manifests that was served last; none: nothing was.
    pub fn served_folder(&self) -> Option<PathBuf> {
        fs::read_to_string(self.0.join(SERVED)).ok().map(PathBuf::from)
    }

    /// Writes down which folder of manifests is served.
    pub fn serves(&self, folder: &Path) -> Result<(), CliError> {
        let file = self.0.join(SERVED);
        let Some(text) = identity(folder).to_str().map(str::to_owned) else { return Ok(()) };
        fs::write(&file, text).map_err(|e| CliError::failed(format!("can't write {}: {e}", file.display())))
    }

    /// Replaces `endpoint.json`, readable by its owner only, in one step.
    pub fn write_endpoint(&self, endpoint: &UpEndpoint) -> Result<(), CliError> {
        let file = self.endpoint_file();
        let failed = |e: io::Error| CliError::failed(format!("can't write {}: {e}", file.display()));
        let text = serde_json::to_string_pretty(endpoint).map_err(|e| failed(e.into()))?;
        let new = self.0.join(format!("{ENDPOINT}.{}", std::process::id()));
        // Of a process that had this id and died.
        let _ = fs::remove_file(&new);
        let mut out = new_file().open(&new).map_err(failed)?;
        out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(failed)?;
        fs::rename(&new, &file).map_err(failed)
    }

    /// `None`: no `up` has written one, or the last one ended well.
    pub fn read_endpoint(&self) -> Result<Option<UpEndpoint>, CliError> {
        let file = self.endpoint_file();
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| CliError::failed(format!("can't read {}: {e}; start `ostler up` again", file.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(CliError::failed(format!("can't read {}: {e}", file.display()))),
        }
    }

    /// Removes `endpoint.json` if it is still this process's.
    pub fn remove_endpoint(&self) {
        if let Ok(Some(endpoint)) = self.read_endpoint()
            && endpoint.pid == std::process::id()
        {
            // What is left behind names a pid that is gone: whoever reads it is told so.
            let _ = fs::remove_file(self.endpoint_file());
        }
    }
}

/// A folder under whatever name it is reached.
fn identity(folder: &Path) -> PathBuf {
    fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

/// The folder of this user for what must survive and is no data: XDG's state folder, or Application Support.
pub fn state_folder() -> Option<PathBuf> {
    let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    default_state(env("XDG_STATE_HOME"), env("HOME"), cfg!(target_os = "macos"))
}

fn default_state(xdg: Option<PathBuf>, home: Option<PathBuf>, macos: bool) -> Option<PathBuf> {
    within_home(xdg, home, if macos { "Library/Application Support/ostler/state" } else { ".local/state/ostler" })
}

fn default_folder(xdg: Option<PathBuf>, home: Option<PathBuf>, macos: bool) -> Option<PathBuf> {
    within_home(xdg, home, if macos { "Library/Application Support/ostler" } else { ".local/share/ostler" })
}

fn within_home(xdg: Option<PathBuf>, home: Option<PathBuf>, path: &str) -> Option<PathBuf> {
    // The XDG specification: a relative path is invalid, and ignored.
    let xdg = xdg.filter(|xdg| xdg.is_absolute()).map(|xdg| xdg.join("ostler"));
    xdg.or_else(|| home.map(|home| home.join(path)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_default_folder_is_where_each_system_keeps_data() {
        let path = |p: &str| Some(PathBuf::from(p));
        for (xdg, home, macos, expected) in [
            (None, path("/home/ada"), false, path("/home/ada/.local/share/ostler")),
            (path("/data"), path("/home/ada"), false, path("/data/ostler")),
            (path("relative"), path("/home/ada"), false, path("/home/ada/.local/share/ostler")),
            (None, path("/Users/ada"), true, path("/Users/ada/Library/Application Support/ostler")),
            (None, None, false, None),
        ] {
            assert_eq!(default_folder(xdg, home, macos), expected);
        }
    }

    #[test]
    fn results_wait_where_each_system_keeps_state_and_never_in_a_temporary_folder() {
        let path = |p: &str| Some(PathBuf::from(p));
        for (xdg, home, macos, expected) in [
            (None, path("/home/ada"), false, path("/home/ada/.local/state/ostler")),
            (path("/state"), path("/home/ada"), false, path("/state/ostler")),
            (path("relative"), path("/home/ada"), false, path("/home/ada/.local/state/ostler")),
            (None, path("/Users/ada"), true, path("/Users/ada/Library/Application Support/ostler/state")),
            (None, None, false, None),
        ] {
            assert_eq!(default_state(xdg, home, macos), expected);
        }
    }

    #[test]
    fn a_data_folder_that_is_not_ones_own_is_refused() {
        let root = std::env::temp_dir().join(format!("ostler-not-own-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/etc/hosts", root.join("ostler.db")).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        let error = DataDir(root.clone()).create().unwrap_err().to_string();
        assert!(error.contains("chmod 700") && error.contains("--data-dir"), "{error}");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        let link = root.join("link");
        std::os::unix::fs::symlink(std::env::temp_dir(), &link).unwrap();
        assert!(DataDir(link).create().unwrap_err().to_string().contains("symbolic link"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn an_endpoint_is_read_as_written_by_its_owner_only_and_never_shown() {
        let folder = std::env::temp_dir().join(format!("ostler-endpoint-{}", std::process::id()));
        let dir = DataDir(folder.clone());
        dir.create().unwrap();
        assert_eq!(dir.read_endpoint().unwrap(), None);
        let endpoint =
            UpEndpoint { address: "http://127.0.0.1:1".into(), token: "hush".into(), pid: std::process::id() };
        dir.write_endpoint(&endpoint).unwrap();
        assert_eq!(dir.read_endpoint().unwrap(), Some(endpoint.clone()));
        assert_eq!(fs::metadata(dir.endpoint_file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(folder.join(".gitignore")).unwrap(), "*\n");
        assert!(!format!("{endpoint:?}").contains("hush"));
        dir.remove_endpoint();
        assert_eq!(dir.read_endpoint().unwrap(), None);
        fs::remove_dir_all(folder).unwrap();
    }
}

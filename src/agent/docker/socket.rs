//! Where the engine's socket is, when the agent's file does not say: as the docker command finds it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

const DEFAULT: &str = "/var/run/docker.sock";

/// Where engines put their socket, below a user's home.
const BELOW_HOME: [&str; 4] =
    [".docker/run/docker.sock", ".colima/default/docker.sock", ".orbstack/run/docker.sock", ".rd/docker.sock"];

/// The path that a file or the environment gives, if it is one: only a socket on this host can be watched for long.
fn unix(host: &str) -> Option<PathBuf> {
    host.strip_prefix("unix://").filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// As the agent's file has it: a path, or as DOCKER_HOST would name it.
pub fn given(socket: &str) -> PathBuf {
    unix(socket).unwrap_or_else(|| PathBuf::from(socket))
}

/// DOCKER_HOST, else the docker context in use, else the first known path that exists, else Docker's own. What they name and
/// can't be used is an error: another engine than the one that somebody chose is not the next best.
pub fn find() -> Result<PathBuf, String> {
    let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let config = env::var_os("DOCKER_CONFIG").map_or_else(|| home.join(".docker"), PathBuf::from);
    if let Some(host) = text("DOCKER_HOST") {
        return unix(&host).ok_or_else(|| no_socket("DOCKER_HOST", &host));
    }
    Ok(of_context(&config, text("DOCKER_CONTEXT"))?.unwrap_or_else(|| known(&home)))
}

fn no_socket(what: &str, host: &str) -> String {
    format!(
        "{what} is {host:?}, and only a Unix socket of this host will do: set spec.docker.socket in the agent's file"
    )
}

/// `None`: the default one is in use.
fn of_context(config: &Path, name: Option<String>) -> Result<Option<PathBuf>, String> {
    let read = |path: PathBuf| serde_json::from_str::<Value>(&fs::read_to_string(path).ok()?).ok();
    let chosen = || Some(read(config.join("config.json"))?["currentContext"].as_str()?.to_owned());
    let Some(name) = name.or_else(chosen).filter(|n| !n.is_empty() && n != "default") else { return Ok(None) };
    let digest: String = Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    let meta = read(config.join("contexts/meta").join(digest).join("meta.json"));
    let host = meta.as_ref().and_then(|m| m["Endpoints"]["docker"]["Host"].as_str()).unwrap_or_default();
    unix(host).map(Some).ok_or_else(|| no_socket(&format!("the engine of docker context {name:?}"), host))
}

fn known(home: &Path) -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("docker.sock"));
    let all = std::iter::once(PathBuf::from(DEFAULT)).chain(BELOW_HOME.map(|p| home.join(p))).chain(runtime);
    all.into_iter().find(|p| p.exists()).unwrap_or_else(|| PathBuf::from(DEFAULT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_in_use_names_the_socket() {
        let config = std::env::temp_dir().join(format!("ostler-context-{}", uuid::Uuid::new_v4().simple()));
        // sha256 of `colima`, as `docker context create` names the folder.
        let digest: String = Sha256::digest(b"colima").iter().map(|b| format!("{b:02x}")).collect();
        let meta = config.join("contexts/meta").join(digest);
        fs::create_dir_all(&meta).unwrap();
        fs::write(config.join("config.json"), r#"{"currentContext": "colima"}"#).unwrap();
        let text = r#"{"Name": "colima", "Endpoints": {"docker": {"Host": "unix:///home/ada/.colima/docker.sock"}}}"#;
        fs::write(meta.join("meta.json"), text).unwrap();
        let socket = Ok(Some(PathBuf::from("/home/ada/.colima/docker.sock")));
        assert_eq!(of_context(&config, None), socket);
        assert_eq!(of_context(&config, Some("colima".to_owned())), socket);
        assert_eq!(of_context(&config, Some("default".to_owned())), Ok(None));
        let gone = of_context(&config, Some("gone".to_owned())).unwrap_err();
        assert!(gone.contains("\"gone\"") && gone.contains("spec.docker.socket"), "{gone}");
        fs::write(meta.join("meta.json"), text.replace("unix://", "ssh://ada@mac")).unwrap();
        let remote = of_context(&config, None).unwrap_err();
        assert!(remote.contains("ssh://ada@mac/home"), "{remote}");
        fs::remove_dir_all(config).unwrap();
    }

    #[test]
    fn a_socket_is_a_path_with_or_without_its_scheme() {
        for (text, path) in [("/run/d.sock", "/run/d.sock"), ("unix:///run/d.sock", "/run/d.sock")] {
            assert_eq!(given(text), Path::new(path));
        }
        assert_eq!(unix("tcp://10.0.0.1:2375"), None);
    }
}

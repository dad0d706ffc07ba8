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

/// DOCKER_HOST, else the docker context in use, else the first known path that exists, else Docker's own.
pub fn find() -> PathBuf {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let config = env::var_os("DOCKER_CONFIG").map_or_else(|| home.join(".docker"), PathBuf::from);
    let host = env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty());
    let context = env::var("DOCKER_CONTEXT").ok().filter(|c| !c.is_empty());
    host.as_deref().and_then(unix).or_else(|| of_context(&config, context)).unwrap_or_else(|| known(&home))
}

fn unix(host: &str) -> Option<PathBuf> {
    host.strip_prefix("unix://").map(PathBuf::from)
}

fn of_context(config: &Path, name: Option<String>) -> Option<PathBuf> {
    let read = |path: PathBuf| serde_json::from_str::<Value>(&fs::read_to_string(path).ok()?).ok();
    let chosen = || Some(read(config.join("config.json"))?["currentContext"].as_str()?.to_owned());
    let name = name.or_else(chosen).filter(|n| n != "default")?;
    let digest: String = Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    let meta = read(config.join("contexts/meta").join(digest).join("meta.json"))?;
    unix(meta["Endpoints"]["docker"]["Host"].as_str()?)
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
        let socket = Some(PathBuf::from("/home/ada/.colima/docker.sock"));
        assert_eq!(of_context(&config, None), socket);
        assert_eq!(of_context(&config, Some("colima".to_owned())), socket);
        assert_eq!(of_context(&config, Some("default".to_owned())), None);
        fs::remove_dir_all(config).unwrap();
    }
}

//! The HostAgent of an AgentConfig, where nobody wrote one: with the secret that the AgentConfig names, else with one that
//! only this process knows.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    api::{API_VERSION, AgentConfigSpec},
    host::SigningSecret,
};

/// What is made up for the agents of this process. It stays the same for as long as the process runs.
#[derive(Debug)]
pub struct Derived {
    /// Relative paths of an AgentConfig start here.
    base_dir: PathBuf,
    made: Mutex<HashMap<(String, String), Made>>,
}

/// For one agent.
#[derive(Clone, Debug)]
struct Made {
    secret: SigningSecret,
    /// Instead of port 0.
    free_port: Option<u16>,
}

impl Derived {
    pub fn new(base_dir: &Path) -> Self {
        Self { base_dir: base_dir.to_owned(), made: Mutex::default() }
    }

    pub fn base_dir(&self) -> &Path {
        &self.base_dir
    }

    /// Where the agent is to listen: as its file says, with the port that was chosen for port 0.
    pub fn listen(&self, namespace: &str, name: &str, spec: &AgentConfigSpec) -> String {
        let made = self.made(namespace, name, spec);
        match (spec.listen.parse::<SocketAddr>(), made.free_port) {
            (Ok(mut listen), Some(port)) if listen.port() == 0 => {
                listen.set_port(port);
                listen.to_string()
            }
            _ => spec.listen.clone(),
        }
    }

    /// What was made for an agent; made now at the first time.
    fn made(&self, namespace: &str, name: &str, spec: &AgentConfigSpec) -> Made {
        let mut made = self.made.lock();
        let entry = made
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(|| Made { secret: SigningSecret::generate(), free_port: None });
        let wants_free = spec.listen.parse().is_ok_and(|listen: SocketAddr| listen.port() == 0);
        if wants_free && entry.free_port.is_none() {
            entry.free_port = free_port();
        }
        entry.clone()
    }

    /// A HostAgent and its Secret for each AgentConfig among the documents.
    pub fn documents(&self, documents: &[&Value]) -> Vec<Value> {
        let configs = documents.iter().filter(|d| d["kind"] == "AgentConfig");
        configs.filter(|d| !has_written_agent(d, documents)).flat_map(|d| self.of(d)).collect()
    }

    fn of(&self, config: &Value) -> Vec<Value> {
        let text = |key: &str| config["metadata"][key].as_str().unwrap_or("default").to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let Ok(spec) = serde_json::from_value::<AgentConfigSpec>(config["spec"].clone()) else {
            return Vec::new();
        };
        let made = self.made(&namespace, &name, &spec);
        let Some(url) = url(&spec, &made) else { return Vec::new() };
        let secret_name = secret_name(&name);
        let mut agent = json!({"url": url, "secretRef": {"name": secret_name}});
        // An agent whose files can't be read does not start either, and says why.
        let Ok(mut data) = self.credentials(&spec, &made) else { return Vec::new() };
        if let Some(tls) = &spec.tls {
            let Ok(pem) = self.read(&tls.cert_file) else { return Vec::new() };
            data["ca.crt"] = json!(pem);
            agent["caSecretRef"] = json!({"name": secret_name});
        }
        let metadata = |name: &str| json!({"name": name, "namespace": namespace});
        vec![
            json!({"apiVersion": API_VERSION, "kind": "HostAgent", "metadata": metadata(&name), "spec": agent}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata(&secret_name), "stringData": data}),
        ]
    }

    /// What the agent will believe: the files that it names, else the secret that was made for it.
    fn credentials(&self, spec: &AgentConfigSpec, made: &Made) -> std::io::Result<Value> {
        let auth = &spec.auth;
        Ok(match (&auth.signing_secret_file, &auth.token_file) {
            (Some(file), _) => json!({"signingSecret": self.read(file)?.trim()}),
            (None, Some(file)) => json!({"token": self.read(file)?.trim()}),
            (None, None) => json!({"signingSecret": made.secret.expose()}),
        })
    }

    fn read(&self, file: &str) -> std::io::Result<String> {
        std::fs::read_to_string(self.base_dir.join(file))
    }
}

fn secret_name(agent: &str) -> String {
    format!("{agent}-ostler-up")
}

/// Whether somebody wrote the HostAgent of an AgentConfig. One with the Secret's name of here was made here.
fn has_written_agent(config: &Value, documents: &[&Value]) -> bool {
    let place = |d: &Value| {
        let text = |key: &str| d["metadata"][key].as_str().unwrap_or("default").to_owned();
        (text("namespace"), text("name"))
    };
    let (_, name) = place(config);
    let is_its_own = |d: &&&Value| d["kind"] == "HostAgent" && place(d) == place(config);
    documents.iter().filter(is_its_own).any(|d| d["spec"]["secretRef"]["name"] != secret_name(&name))
}

/// Where callers on this machine reach the agent.
fn url(spec: &AgentConfigSpec, made: &Made) -> Option<String> {
    let mut listen: SocketAddr = spec.listen.parse().ok()?;
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    if listen.port() == 0 {
        listen.set_port(made.free_port?);
    }
    Some(format!("{}://{listen}", if spec.tls.is_some() { "https" } else { "http" }))
}

fn free_port() -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    listener.local_addr().ok().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str) -> Value {
        json!({"apiVersion": API_VERSION, "kind": "AgentConfig", "metadata": {"name": "mac", "namespace": "team"},
            "spec": {"listen": listen}})
    }

    #[test]
    fn nothing_is_made_where_somebody_wrote_the_host_agent_and_what_was_made_is_made_again() {
        let derived = Derived::new(Path::new("/nowhere"));
        let config = config("127.0.0.1:9099");
        let made = derived.documents(&[&config]);
        let again = derived.documents(&[&config, &made[0]]);
        assert_eq!((made.len(), &again), (2, &made));
        let mut written = made[0].clone();
        written["spec"]["secretRef"] = json!({"name": "mine"});
        assert!(derived.documents(&[&config, &written]).is_empty());
        written["metadata"]["namespace"] = json!("other");
        assert_eq!(derived.documents(&[&config, &written]).len(), 2, "that one is another's");
    }

    #[test]
    fn each_agent_config_gets_a_host_agent_with_a_secret_that_stays() {
        let derived = Derived::new(Path::new("/nowhere"));
        let config = config("127.0.0.1:9099");
        let other = json!({"kind": "LLMBackend", "metadata": {"name": "x"}});
        let [agent, secret] = derived.documents(&[&config, &other]).try_into().unwrap();
        assert_eq!(agent["metadata"], json!({"name": "mac", "namespace": "team"}));
        assert_eq!(agent["spec"]["url"], "http://127.0.0.1:9099");
        assert_eq!(agent["spec"]["secretRef"]["name"], secret["metadata"]["name"]);
        let text = secret["stringData"]["signingSecret"].as_str().unwrap();
        assert!(SigningSecret::parse(text).is_ok(), "{text}");
        assert_eq!(derived.documents(&[&config]), [agent, secret]);
    }

    #[test]
    fn the_url_is_one_that_can_be_reached() {
        for (listen, expected) in
            [("0.0.0.0:9", "http://127.0.0.1:9"), ("[::]:9", "http://[::1]:9"), ("10.0.0.1:9", "http://10.0.0.1:9")]
        {
            let derived = Derived::new(Path::new("/nowhere"));
            assert_eq!(derived.documents(&[&config(listen)])[0]["spec"]["url"], expected, "{listen}");
        }
        let derived = Derived::new(Path::new("/nowhere"));
        let chosen = derived.documents(&[&config("127.0.0.1:0")]);
        assert!(!chosen[0]["spec"]["url"].as_str().unwrap().ends_with(":0"));
        assert_eq!(derived.documents(&[&config("127.0.0.1:0")]), chosen, "a port is chosen once");
        let spec = serde_json::from_value(config("127.0.0.1:0")["spec"].clone()).unwrap();
        assert_eq!(format!("http://{}", derived.listen("team", "mac", &spec)), chosen[0]["spec"]["url"]);
    }

    #[test]
    fn the_secret_of_the_agents_own_file_is_used_and_without_the_file_there_is_no_agent() {
        let folder = std::env::temp_dir().join(format!("ostler-derived-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut config = config("127.0.0.1:9099");
        config["spec"]["auth"] = json!({"signingSecretFile": "secret"});
        let derived = Derived::new(&folder);
        assert_eq!(derived.documents(&[&config]), Vec::<Value>::new());
        std::fs::write(folder.join("secret"), "whsec_abc\n").unwrap();
        assert_eq!(derived.documents(&[&config])[1]["stringData"], json!({"signingSecret": "whsec_abc"}));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

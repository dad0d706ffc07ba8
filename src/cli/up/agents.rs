//! The agents of this process: one for each AgentConfig of the folder, spoken to over loopback HTTP like any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Derived;
use crate::{
    agent::{self, AgentHandle, AgentSettings},
    api::{AgentConfigSpec, HostAgent, Kind},
    base::tick,
    host::{Manager, SigningSecret},
    http::Problem,
    net::HttpClient,
    platform::Platform,
    telemetry::{Beat, Metrics},
};

/// How often the folder's AgentConfigs are compared with the agents that run.
const PERIOD: Duration = Duration::from_secs(2);

/// Namespace and name.
type Key = (String, String);

/// What all agents of this process have in common.
pub struct AgentParts {
    pub platform: Arc<dyn Platform>,
    pub derived: Arc<Derived>,
    /// Each agent has a folder of its own in it.
    pub state_dir: PathBuf,
    pub observe: bool,
    pub exe: PathBuf,
    pub http: HttpClient,
    pub metrics: Metrics,
}

/// The running agents, and what keeps others from running.
pub struct UpAgents {
    common: AgentParts,
    running: BTreeMap<Key, Running>,
    problems: AgentProblems,
}

/// What a person should mend, by agent. Clones share it.
#[derive(Clone, Default)]
pub struct AgentProblems(Arc<Mutex<BTreeMap<Key, String>>>);

struct Running {
    spec: AgentConfigSpec,
    secret: Option<SigningSecret>,
    handle: AgentHandle,
    shutdown: CancellationToken,
}

impl UpAgents {
    pub fn new(common: AgentParts) -> Self {
        Self { common, running: BTreeMap::new(), problems: AgentProblems::default() }
    }

    pub fn problems(&self) -> AgentProblems {
        self.problems.clone()
    }

    /// Where each agent listens.
    pub fn urls(&self) -> impl Iterator<Item = (&str, String)> {
        self.running.iter().map(|((_, name), running)| (name.as_str(), running.handle.url()))
    }

    /// Follows the folder until `shutdown`.
    pub async fn follow(&mut self, beat: Beat, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tick(PERIOD)).await.is_some() {
            beat.beat();
            self.converge().await;
        }
    }

    /// Starts what is declared and does not run; starts anew what changed; ends what is declared no longer. Services outlive
    /// their agent.
    pub async fn converge(&mut self) {
        let Ok(objects) = self.common.platform.list("AgentConfig").await else { return };
        let (mut declared, mut known) = (BTreeMap::new(), BTreeSet::new());
        for object in objects {
            let key = (object.namespace().unwrap_or_default(), object.name_any());
            let spec = object.data.get("spec").cloned().unwrap_or_default();
            known.insert(key.clone());
            match serde_json::from_value::<AgentConfigSpec>(spec) {
                Ok(spec) => match (self.secret(&key, &spec).await, self.running.get(&key)) {
                    (Ok(secret), _) => _ = declared.insert(key, (spec, secret)),
                    // Until it is known again: the one that it has.
                    (Err(_), Some(running)) => _ = declared.insert(key, (spec, running.secret.clone())),
                    // Without one every program on this machine could start and stop services.
                    (Err(why), None) => self.not_started(&key, &why),
                },
                Err(error) => self.not_started(&key, &error.to_string()),
            }
        }
        let stale = |key: &Key, running: &Running| {
            declared.get(key).is_none_or(|(spec, secret)| (spec, secret) != (&running.spec, &running.secret))
        };
        let old: Vec<Key> = self.running.iter().filter(|(k, r)| stale(k, r)).map(|(k, _)| k.clone()).collect();
        for key in old {
            self.end(&key).await;
        }
        self.problems.keep(|key| known.contains(key));
        for (key, (spec, secret)) in declared {
            if !self.running.contains_key(&key) {
                self.start(key, spec, secret).await;
            }
        }
    }

    async fn start(&mut self, key: Key, spec: AgentConfigSpec, secret: Option<SigningSecret>) {
        let AgentParts { platform: _, derived, state_dir, observe, exe, http, metrics } = &self.common;
        let (namespace, name) = &key;
        let settings = AgentSettings {
            name: name.clone(),
            spec: AgentConfigSpec { listen: derived.listen(namespace, name, &spec), ..spec.clone() },
            base_dir: derived.base_dir().to_owned(),
            state_dir: state_dir.join(folder(&key)),
            observe: *observe,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exe: exe.clone(),
            http: http.clone(),
            signing_secret: secret.clone(),
            metrics: metrics.clone(),
        };
        let shutdown = CancellationToken::new();
        match agent::start(settings, shutdown.clone()).await {
            Ok(handle) => {
                self.problems.clear(&key);
                self.running.insert(key, Running { spec, secret, handle, shutdown });
            }
            Err(error) => self.not_started(&key, &error.to_string()),
        }
    }

    fn not_started(&self, key: &Key, why: &str) {
        if self.problems.set(key, why) {
            tracing::error!(agent = key.1, error = why, "agent not started; trying again");
        }
    }

    /// The secret that callers sign with: the files of the AgentConfig decide; without any, that of the HostAgent. `None`: its files
    /// have it, or somebody wrote a HostAgent without one.
    async fn secret(&self, (namespace, name): &Key, spec: &AgentConfigSpec) -> Result<Option<SigningSecret>, String> {
        if spec.auth.signing_secret_file.is_some() || spec.auth.token_file.is_some() {
            return Ok(None);
        }
        let platform = &self.common.platform;
        let objects = platform.list(Kind::HostAgent.as_str()).await.map_err(|e| e.to_string())?;
        let mine = |o: &kube::api::DynamicObject| o.name_any() == *name && o.namespace().as_ref() == Some(namespace);
        let agent = objects.into_iter().find(mine).map(|o| o.try_parse::<HostAgent>()).transpose();
        let agent = agent.map_err(|e| format!("HostAgent {namespace}/{name} can't be read: {e}"))?;
        let Some(reference) = secret_reference(agent.as_ref())? else { return Ok(None) };
        let data = platform.secret(namespace, reference).await.map_err(|e| e.to_string());
        signing_secret(data).map(Some).map_err(|why| {
            format!(
                "it would listen without a secret: HostAgent {namespace}/{name} names Secret {reference}, and {why}: mend the manifests"
            )
        })
    }

    async fn end(&mut self, key: &Key) {
        if let Some(Running { handle, shutdown, .. }) = self.running.remove(key) {
            shutdown.cancel();
            handle.join().await;
        }
    }

    /// Stops the services that these agents started, and leaves no hold. Returns what could not be stopped, and why.
    pub async fn stop_services(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for ((_, name), running) in &self.running {
            for (service, result) in running.handle.stop_services().await {
                if let Err(error) = result {
                    failed.push(format!("{name}/{service}: {error}"));
                }
            }
        }
        failed
    }

    /// Names of the services that run now, with the process of each.
    pub fn services_up(&self) -> Vec<String> {
        let reports = self.running.values().map(|running| running.handle.report());
        let services = reports.flat_map(|report| report.services);
        let shown = |name: &str, manager, pid| match manager {
            Manager::Container => format!("{name} (a container)"),
            _ => format!("{name} (pid {pid})"),
        };
        services.filter_map(|s| s.instance.map(|i| shown(&s.name, s.manager, i.pid))).collect()
    }

    /// Services that an agent of this data folder started, and that run on although no agent looks after them any more: in words.
    pub fn left_behind(&self) -> Vec<String> {
        let known: Vec<String> = self.running.keys().chain(self.problems.0.lock().keys()).map(folder).collect();
        let entries = std::fs::read_dir(&self.common.state_dir).into_iter().flatten().flatten();
        let mut left: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !known.contains(name))
            .filter_map(|name| {
                let services = agent::running_in(&self.common.state_dir.join(&name));
                let services: Vec<String> = services.iter().map(|(s, pid)| format!("{s} (pid {pid})")).collect();
                (!services.is_empty()).then(|| format!("{} of agent {name}", services.join(", ")))
            })
            .collect();
        left.sort();
        left
    }

    /// Ends all agents; their services stay up.
    pub async fn end_all(&mut self) {
        for key in self.running.keys().cloned().collect::<Vec<_>>() {
            self.end(&key).await;
        }
    }
}

/// The Secret that a HostAgent names. An agent without a HostAgent has none yet: it waits.
fn secret_reference(agent: Option<&HostAgent>) -> Result<Option<&str>, String> {
    let agent = agent.ok_or("it would listen without a secret, because it has no HostAgent: mend the manifests")?;
    Ok(agent.spec.secret_ref.as_ref().map(|reference| reference.name.as_str()))
}

fn signing_secret(data: Result<BTreeMap<String, Vec<u8>>, String>) -> Result<SigningSecret, String> {
    let data = data?;
    let secret = data.get("signingSecret").ok_or("it has no key signingSecret")?;
    let secret = std::str::from_utf8(secret).map_err(|_| "its signingSecret is no text".to_owned())?;
    SigningSecret::parse(secret).map_err(|e| e.to_string())
}

/// Where an agent keeps its state.
fn folder((namespace, name): &Key) -> String {
    if namespace == "default" { name.clone() } else { format!("{namespace}_{name}") }
}

impl AgentProblems {
    /// As the API shows them.
    pub fn list(&self) -> Vec<Problem> {
        let problem = |((namespace, name), message): (&Key, &String)| Problem {
            error: true,
            about: Some(format!("AgentConfig {namespace}/{name}")),
            message: message.clone(),
            ..Problem::default()
        };
        self.0.lock().iter().map(problem).collect()
    }

    /// Whether it is news.
    fn set(&self, key: &Key, message: &str) -> bool {
        self.0.lock().insert(key.clone(), message.to_owned()).as_deref() != Some(message)
    }

    fn clear(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    fn keep(&self, declared: impl Fn(&Key) -> bool) {
        self.0.lock().retain(|key, _| declared(key));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn without_the_secret_that_it_should_have_no_agent_listens() {
        let agent = |spec| -> HostAgent {
            let object = json!({"apiVersion": crate::api::API_VERSION, "kind": "HostAgent", "metadata": {"name": "here"}, "spec": spec});
            serde_json::from_value(object).unwrap()
        };
        let bare = agent(json!({"url": "http://127.0.0.1:9"}));
        let made = agent(json!({"url": "http://127.0.0.1:9", "secretRef": {"name": "here-ostler-up"}}));
        assert!(secret_reference(None).is_err(), "it has not been made yet");
        assert_eq!(secret_reference(Some(&bare)), Ok(None), "so somebody wrote it");
        assert_eq!(secret_reference(Some(&made)), Ok(Some("here-ostler-up")));

        let secret = SigningSecret::generate();
        let data = |key: &str, value: &[u8]| Ok(BTreeMap::from([(key.to_owned(), value.to_vec())]));
        assert!(signing_secret(Err("there is no Secret".into())).is_err());
        assert!(signing_secret(data("token", b"abc")).is_err());
        assert!(signing_secret(data("signingSecret", b"abc")).is_err());
        assert!(signing_secret(data("signingSecret", b"\xff")).is_err());
        assert!(signing_secret(data("signingSecret", secret.expose().as_bytes())) == Ok(secret));
    }
}

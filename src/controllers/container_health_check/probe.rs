//! The check's own probes: a request, or a command in the container.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;

use crate::{
    api::{ContainerHealthCheckSpec, ContainerProbe},
    host::{Caller, ContainerExecRequest, HttpHost},
    net::{Broken, HttpClient, shown},
};

use super::{
    super::{declared::Declares, shared::NamespacedName},
    ContainerChecks,
    container::{Container, ContainerLife, ProbeHealth},
    observe::ContainersFound,
};

/// Probes of all checks at once.
pub const AT_ONCE: usize = 16;

/// One question.
enum Question {
    Get { http: HttpClient, url: String },
    Exec { api: Arc<HttpHost>, request: ContainerExecRequest, caller: Caller },
    Impossible(String),
}

/// Whether its own probe passed lately.
#[derive(Clone, Debug, Default)]
pub struct ProbeState {
    pub instance: String,
    /// When it was asked last.
    pub at: Option<Timestamp>,
    /// Its answer is not there yet.
    pub asking: bool,
    pub failures: i32,
    pub passed: bool,
    pub said: String,
}

impl ProbeState {
    /// What it means for a running container.
    fn health(&self, threshold: i32) -> ProbeHealth {
        match (self.failures >= threshold, self.passed) {
            (true, _) => ProbeHealth::Failing(format!("its probe fails: {}", self.said)),
            (false, true) => ProbeHealth::Well,
            (false, false) => ProbeHealth::Starting,
        }
    }
}

/// The containers with what the last answers to the check's own probe mean. What its runtime finds wrong stays wrong.
pub fn with_health(
    probe: Option<&ContainerProbe>,
    containers: &[Container],
    known: &BTreeMap<String, ProbeState>,
) -> Vec<Container> {
    let mut all = containers.to_vec();
    let Some(probe) = probe else { return all };
    for one in all.iter_mut().filter(|one| one.life == ContainerLife::Running) {
        if !matches!(one.health, ProbeHealth::Failing(_)) {
            let known = known.get(&one.name).filter(|known| known.instance == of(one));
            one.health = known.map_or(ProbeHealth::Starting, |known| known.health(probe.failure_threshold));
        }
    }
    all
}

/// The running containers that are to be probed now.
pub fn due(
    probe: Option<&ContainerProbe>,
    containers: &[Container],
    known: &BTreeMap<String, ProbeState>,
    now: Timestamp,
) -> Vec<Container> {
    let Some(probe) = probe else { return Vec::new() };
    let period = SignedDuration::from_secs(probe.period_seconds.into());
    let is_due = |one: &&Container| {
        let known = known.get(&one.name).filter(|known| known.instance == of(one));
        one.life == ContainerLife::Running
            && known.is_none_or(|known| !known.asking && known.at.is_none_or(|at| now >= at + period))
    };
    containers.iter().filter(is_due).cloned().collect()
}

impl ContainerChecks {
    /// Asks containers. Answers are not waited for: the one that comes asks for the next pass.
    pub(super) fn probe(
        &self,
        spec: &ContainerHealthCheckSpec,
        key: &NamespacedName,
        found: &ContainersFound,
        containers: &[Container],
        now: Timestamp,
    ) {
        let Some(probe) = &spec.probe else { return };
        for one in containers {
            self.begin(key, one, now);
            let question = self.question(spec, probe, key, found, one);
            self.ask(probe.clone(), key.clone(), one.clone(), question);
        }
    }

    /// It counts as asked.
    fn begin(&self, key: &NamespacedName, one: &Container, now: Timestamp) {
        let mut state = self.state.lock();
        let known = state.probes.entry(key.clone()).or_default().entry(one.name.clone()).or_default();
        if known.instance != of(one) {
            *known = ProbeState { instance: of(one), ..ProbeState::default() };
        }
        (known.asking, known.at) = (true, Some(now));
    }

    fn question(
        &self,
        spec: &ContainerHealthCheckSpec,
        probe: &ContainerProbe,
        key: &NamespacedName,
        found: &ContainersFound,
        one: &Container,
    ) -> Option<Question> {
        if let Some(http) = &probe.http {
            let host = self.host_of(spec, key, found, one).unwrap_or_else(|| "127.0.0.1".into());
            return Some(Question::Get { http: self.world.parts.http.clone(), url: http.url.replace("HOST", &host) });
        }
        let (exec, docker) = (probe.exec.as_ref()?, spec.target.docker.as_ref()?);
        let agent = NamespacedName::new(&key.namespace, &docker.host_agent_ref.name);
        let (Some(api), Some(target)) = (self.world.shared.agents.api(&agent), found.docker.get(&one.name)) else {
            return Some(Question::Impossible(format!("host agent {} can't be asked", agent.name)));
        };
        let request = ContainerExecRequest {
            target: target.clone(),
            command: exec.command.clone(),
            timeout_seconds: u32::try_from(probe.timeout_seconds).unwrap_or(1),
        };
        Some(Question::Exec { api, request, caller: self.caller() })
    }

    fn ask(&self, probe: ContainerProbe, key: NamespacedName, one: Container, question: Option<Question>) {
        let (state, asking, world) = (Arc::clone(&self.state), Arc::clone(&self.asking), Arc::clone(&self.world));
        let ended = self.term.ended().clone();
        tokio::spawn(ended.run_until_cancelled_owned(async move {
            let _place = asking.acquire_owned().await;
            let answer = match question {
                Some(question) => answer(question, probe.timeout_seconds).await,
                None => Ok(()),
            };
            if let Some(known) = state.lock().probes.get_mut(&key).and_then(|of_check| of_check.get_mut(&one.name)) {
                take(&probe, known, &one, answer, Timestamp::now());
            }
            world.triggers.one(ContainerChecks::KIND, &key);
        }));
    }

    /// The pod's IP, or the host that the agent's url names.
    fn host_of(
        &self,
        spec: &ContainerHealthCheckSpec,
        key: &NamespacedName,
        found: &ContainersFound,
        one: &Container,
    ) -> Option<String> {
        if let Some(pod) = found.pods.get(&one.name) {
            return pod.pod_ip.clone();
        }
        let agent = NamespacedName::new(&key.namespace, &spec.target.docker.as_ref()?.host_agent_ref.name);
        let declared = self.world.feeds.agents.objects.get(&ObjectRef::new(&agent.name).within(&agent.namespace))?;
        reqwest::Url::parse(&declared.spec.url).ok()?.host_str().map(str::to_owned)
    }
}

/// Another start is another container to a probe.
fn of(one: &Container) -> String {
    format!("{} {:?}", one.instance, one.started_at)
}

async fn answer(question: Question, seconds: i32) -> Result<(), String> {
    let limit = Duration::from_secs(seconds.unsigned_abs().into());
    match question {
        Question::Impossible(why) => Err(why),
        // Nothing of the answer but its status: it may be anybody's. Where it redirects to is not asked.
        Question::Get { http, url } => match http.send_within(http.get(&url), limit).await {
            Ok(reply) if reply.status().as_u16() < 400 => Ok(()),
            Ok(reply) => Err(format!("{} answered {}", shown(&url), reply.status())),
            Err(Broken::Timeout) => Err(format!("{} did not answer within {seconds} s", shown(&url))),
            Err(broken) => Err(format!("{} was not reached: {broken}", shown(&url))),
        },
        Question::Exec { api, request, caller } => {
            let result = api.container_exec(&request, caller).await.map_err(|error| error.to_string())?;
            match result.exit_code {
                Some(0) => Ok(()),
                Some(code) => {
                    Err(format!("{} ended with exit code {code}: {}", request.command[0], result.output.trim()))
                }
                None => Err(format!("{} had not ended within {seconds} s", request.command[0])),
            }
        }
    }
}

/// An answer about a container that was started again meanwhile is about nothing.
fn take(probe: &ContainerProbe, known: &mut ProbeState, one: &Container, answer: Result<(), String>, now: Timestamp) {
    if known.instance != of(one) {
        return;
    }
    known.asking = false;
    match answer {
        Ok(()) => (known.failures, known.passed) = (0, true),
        Err(why) => {
            let grace = SignedDuration::from_secs(probe.startup_seconds.into());
            let starting = !known.passed && one.started_at.is_some_and(|at| now < at + grace);
            known.failures += i32::from(!starting);
            known.said = why;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_after_the_start_and_an_answer_forgets_them() {
        let probe: ContainerProbe = serde_json::from_value(serde_json::json!({
            "http": {"url": "http://HOST:1/"}, "failureThreshold": 2, "startupSeconds": 60
        }))
        .unwrap();
        let start: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |seconds: i64| start + SignedDuration::from_secs(seconds);
        let one = Container { life: ContainerLife::Running, started_at: Some(start), ..Container::missing("c") };
        let mut known = ProbeState { instance: of(&one), ..ProbeState::default() };
        for (second, answer, expected) in [
            (10, Err("no"), ProbeHealth::Starting),
            (59, Err("no"), ProbeHealth::Starting),
            (60, Err("no"), ProbeHealth::Starting),
            (70, Err("no"), ProbeHealth::Failing("its probe fails: no".into())),
            (80, Ok(()), ProbeHealth::Well),
            (90, Err("no"), ProbeHealth::Well),
            (100, Err("no"), ProbeHealth::Failing("its probe fails: no".into())),
        ] {
            take(&probe, &mut known, &one, answer.map_err(str::to_owned), at(second));
            assert_eq!(known.health(2), expected, "at {second} s");
        }
        let again = Container { started_at: Some(at(105)), ..one };
        let before = known.clone();
        take(&probe, &mut known, &again, Err("no".into()), at(110));
        assert_eq!(known.health(2), before.health(2), "it is about another start");
    }
}

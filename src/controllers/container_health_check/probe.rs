//! The check's own probes: a request, or a command in the container.

use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;

use crate::{
    api::{ContainerHealthCheckSpec, ContainerProbe},
    host::{ContainerExecRequest, root_cause},
};

use super::{
    super::shared::Key,
    Checks,
    observe::{Found, Probed},
    seen::{Container, Health, Life},
};

/// Probes at once.
const AT_ONCE: usize = 16;

impl Checks {
    /// Asks the running ones whose time has come, and tells of each what its last answers mean.
    pub(super) async fn probe(&self, spec: &ContainerHealthCheckSpec, key: &Key, found: &mut Found, now: Timestamp) {
        let Some(probe) = &spec.probe else { return };
        let due: Vec<Container> =
            found.containers.iter().filter(|one| self.is_due(probe, key, one, now)).cloned().collect();
        let seen = &*found;
        let answers: Vec<(Container, Result<(), String>)> = stream::iter(due)
            .map(|one| async move {
                let answer = self.ask(spec, probe, key, seen, &one).await;
                (one, answer)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut state = self.lock();
        for (one, answer) in answers {
            let known = state.probes.entry((key.clone(), one.name.clone())).or_default();
            take(probe, known, &one, answer, now);
        }
        for one in &mut found.containers {
            let known = state.probes.get(&(key.clone(), one.name.clone())).filter(|known| known.instance == of(one));
            // What its runtime finds wrong stays wrong.
            if one.life == Life::Running && !matches!(one.health, Health::Failing(_)) {
                one.health = known.map_or(Health::Starting, |known| known.health(probe.failure_threshold));
            }
        }
    }

    fn is_due(&self, probe: &ContainerProbe, key: &Key, one: &Container, now: Timestamp) -> bool {
        let state = self.lock();
        let known = state.probes.get(&(key.clone(), one.name.clone())).filter(|known| known.instance == of(one));
        let period = SignedDuration::from_secs(probe.period_seconds.into());
        one.life == Life::Running && known.and_then(|known| known.at).is_none_or(|at| now >= at + period)
    }

    async fn ask(
        &self,
        spec: &ContainerHealthCheckSpec,
        probe: &ContainerProbe,
        key: &Key,
        found: &Found,
        one: &Container,
    ) -> Result<(), String> {
        if let Some(http) = &probe.http {
            let host = self.host_of(spec, key, found, one).unwrap_or_else(|| "127.0.0.1".into());
            return self.get(&http.url.replace("HOST", &host), probe.timeout_seconds).await;
        }
        let (Some(exec), Some(docker)) = (&probe.exec, &spec.target.docker) else { return Ok(()) };
        let agent = Key::new(&key.namespace, &docker.host_agent_ref.name);
        let (Some(api), Some(target)) = (self.world.shared.agents.api(&agent), found.docker.get(&one.name)) else {
            return Err(format!("host agent {} can't be asked", agent.name));
        };
        let request = ContainerExecRequest {
            target: target.clone(),
            command: exec.command.clone(),
            timeout_seconds: u32::try_from(probe.timeout_seconds).unwrap_or(1),
        };
        let result = api.container_exec(&request, self.caller()).await.map_err(|error| error.to_string())?;
        match result.exit_code {
            Some(0) => Ok(()),
            Some(code) => Err(format!("{} ended with exit code {code}: {}", exec.command[0], result.output.trim())),
            None => Err(format!("{} had not ended within {} s", exec.command[0], probe.timeout_seconds)),
        }
    }

    async fn get(&self, url: &str, seconds: i32) -> Result<(), String> {
        let timeout = Duration::from_secs(seconds.unsigned_abs().into());
        match self.world.parts.http.get(url).timeout(timeout).send().await {
            Ok(answer) if answer.status().as_u16() < 400 => Ok(()),
            Ok(answer) => Err(format!("{url} answered {}", answer.status())),
            Err(error) if error.is_timeout() => Err(format!("{url} did not answer within {seconds} s")),
            Err(error) => Err(format!("{url} was not reached: {}", root_cause(&error))),
        }
    }

    /// The pod's IP, or the host that the agent's url names.
    fn host_of(&self, spec: &ContainerHealthCheckSpec, key: &Key, found: &Found, one: &Container) -> Option<String> {
        if let Some(pod) = found.pods.get(&one.name) {
            return pod.pod_ip.clone();
        }
        let agent = Key::new(&key.namespace, &spec.target.docker.as_ref()?.host_agent_ref.name);
        let declared = self.world.feeds.agents.objects.get(&ObjectRef::new(&agent.name).within(&agent.namespace))?;
        reqwest::Url::parse(&declared.spec.url).ok()?.host_str().map(str::to_owned)
    }
}

/// Another start is another container to a probe.
fn of(one: &Container) -> String {
    format!("{} {:?}", one.instance, one.started_at)
}

fn take(probe: &ContainerProbe, known: &mut Probed, one: &Container, answer: Result<(), String>, now: Timestamp) {
    if known.instance != of(one) {
        *known = Probed { instance: of(one), ..Probed::default() };
    }
    known.at = Some(now);
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
        let one = Container { life: Life::Running, started_at: Some(start), ..Container::missing("c") };
        let mut known = Probed::default();
        for (second, answer, expected) in [
            (10, Err("no"), Health::Starting),
            (59, Err("no"), Health::Starting),
            (60, Err("no"), Health::Starting),
            (70, Err("no"), Health::Failing("its probe fails: no".into())),
            (80, Ok(()), Health::Well),
            (90, Err("no"), Health::Well),
            (100, Err("no"), Health::Failing("its probe fails: no".into())),
        ] {
            take(&probe, &mut known, &one, answer.map_err(str::to_owned), at(second));
            assert_eq!(known.health(2), expected, "at {second} s");
        }
        let again = Container { started_at: Some(at(105)), ..one };
        take(&probe, &mut known, &again, Err("no".into()), at(110));
        assert_eq!(known.health(2), Health::Starting, "another start");
    }
}

//! The host agents as they were last heard: written by their pollers, read by everybody who heals through them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::host::{AgentReport, DiskSpace, HostError, HostErrorKind, HttpHost, Instance, LastExit, ServiceReport};

use super::NamespacedName;

/// A first failure may be a hiccup; the second in a row means unreachable.
const FAILURES: u32 = 2;

/// All agents of this term.
#[derive(Clone, Default)]
pub struct AgentRegistry {
    inner: Arc<Mutex<HashMap<NamespacedName, Entry>>>,
}

struct Entry {
    api: Arc<HttpHost>,
    heard: Option<AgentHeard>,
    failures: u32,
    failing_since: Option<Timestamp>,
    error: Option<(HostErrorKind, String)>,
    /// Why it refuses what this leader asks for, though it answers.
    refusal: Option<String>,
    /// By name of the service.
    tracked: HashMap<String, Tracked>,
}

/// When things happened to a service, by this process's clock: fixed when they are first heard of, so that they don't move
/// with the time that each report takes.
#[derive(Default)]
struct Tracked {
    /// The last instance, and when it started if that can be told.
    instance: Option<(Instance, Option<Timestamp>)>,
    exit: Option<(LastExit, Timestamp)>,
}

/// A report and when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentHeard {
    pub at: Timestamp,
    pub report: AgentReport,
}

/// Since when an agent has not answered, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentSilence {
    pub since: Timestamp,
    pub kind: HostErrorKind,
    pub why: String,
}

/// One service as a backend's controller needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceView {
    /// No such HostAgent, or it is not set up yet.
    NoAgent,
    Unheard,
    Unreachable {
        since: Timestamp,
        why: String,
    },
    NoService,
    Service {
        at: Timestamp,
        report: Box<ServiceReport>,
        /// When the running instance started, or the last one that ran.
        instance_since: Option<Timestamp>,
        /// When its last process ended, if the agent saw one end. Later than `instance_since`: that instance is dead. Whether
        /// the agent stopped it on request is in the report's `last_exit`.
        exited_at: Option<Timestamp>,
        disk: Option<DiskSpace>,
    },
}

impl AgentRegistry {
    /// Makes an agent known, or changes how it is spoken to.
    pub fn put(&self, key: NamespacedName, api: Arc<HttpHost>) {
        self.with(|agents| match agents.get_mut(&key) {
            Some(entry) => entry.api = api,
            None => {
                let entry = Entry {
                    api,
                    heard: None,
                    failures: 0,
                    failing_since: None,
                    error: None,
                    refusal: None,
                    tracked: HashMap::new(),
                };
                agents.insert(key, entry);
            }
        });
    }

    pub fn remove(&self, key: &NamespacedName) {
        self.with(|agents| agents.remove(key));
    }

    pub fn api(&self, key: &NamespacedName) -> Option<Arc<HttpHost>> {
        self.with(|agents| agents.get(key).map(|e| Arc::clone(&e.api)))
    }

    /// Takes in a poll's result. Returns whether something that others look at has changed.
    pub fn heard(&self, key: &NamespacedName, result: Result<AgentReport, HostError>, now: Timestamp) -> bool {
        self.with(|agents| {
            let Some(entry) = agents.get_mut(key) else { return false };
            match result {
                Ok(report) => entry.take(report, now),
                Err(error) => entry.fail(&error, now),
            }
        })
    }

    /// Takes in whether it did what it was asked for. Returns whether that has changed.
    pub fn obeyed(&self, key: &NamespacedName, result: &Result<(), HostError>) -> bool {
        let refusal = match result {
            Ok(()) => None,
            // Asked again later it may do it: silence is told by its reports.
            Err(error) if error.is_retryable() => return false,
            Err(error) => Some(error.to_string()),
        };
        self.with(|agents| {
            let Some(entry) = agents.get_mut(key) else { return false };
            let changed = entry.refusal.is_some() != refusal.is_some();
            entry.refusal = refusal;
            changed
        })
    }

    pub fn refusal(&self, key: &NamespacedName) -> Option<String> {
        self.with(|agents| agents.get(key).and_then(|entry| entry.refusal.clone()))
    }

    /// The last report, and since when the agent has not answered.
    pub fn state(&self, key: &NamespacedName) -> Option<(Option<AgentHeard>, Option<AgentSilence>)> {
        self.with(|agents| agents.get(key).map(|e| (e.heard.clone(), e.unreachable())))
    }

    pub fn service(&self, key: &NamespacedName, service: &str) -> ServiceView {
        self.with(|agents| {
            let Some(entry) = agents.get(key) else { return ServiceView::NoAgent };
            if let Some(AgentSilence { since, why, .. }) = entry.unreachable() {
                return ServiceView::Unreachable { since, why };
            }
            let Some(heard) = &entry.heard else { return ServiceView::Unheard };
            let Some(report) = heard.report.service(service) else { return ServiceView::NoService };
            let tracked = entry.tracked.get(service);
            ServiceView::Service {
                at: heard.at,
                report: Box::new(report.clone()),
                instance_since: tracked.and_then(|t| t.instance.as_ref()?.1),
                exited_at: tracked.and_then(|t| t.exit.as_ref()).map(|(_, at)| *at),
                disk: heard.report.disk,
            }
        })
    }

    /// The CPU time that the service's processes have used, asked now; `None` when nobody can tell within two seconds.
    pub async fn cpu_seconds(&self, key: &NamespacedName, service: &str) -> Option<(Instance, f64)> {
        let api = self.api(key)?;
        let report = tokio::time::timeout(Duration::from_secs(2), api.report()).await.ok()?.ok()?;
        let service = report.service(service)?;
        Some((service.instance.clone()?, service.cpu_seconds?))
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<NamespacedName, Entry>) -> T) -> T {
        f(&mut self.inner.lock())
    }
}

impl Entry {
    fn take(&mut self, report: AgentReport, now: Timestamp) -> bool {
        let was_unreachable = self.unreachable().is_some();
        (self.failures, self.failing_since, self.error) = (0, None, None);
        if self.heard.as_ref().is_some_and(|known| is_older(&report, &known.report)) {
            return was_unreachable;
        }
        self.tracked.retain(|name, _| report.service(name).is_some());
        for service in &report.services {
            let tracked = self.tracked.entry(service.name.clone()).or_default();
            tracked.take(service, report.time, now, self.heard.is_some());
        }
        let changed = self.heard.as_ref().is_none_or(|old| old.report.notable() != report.notable());
        self.heard = Some(AgentHeard { at: now, report });
        changed || was_unreachable
    }

    /// Another cause is a change too: what a person must mend is another thing then.
    fn fail(&mut self, error: &HostError, now: Timestamp) -> bool {
        let before = self.unreachable();
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        self.error = Some((error.kind(), error.to_string()));
        self.unreachable() != before
    }

    fn unreachable(&self) -> Option<AgentSilence> {
        let (kind, why) = self.error.clone().filter(|_| self.failures >= FAILURES || self.heard.is_none())?;
        Some(AgentSilence { since: self.failing_since?, kind, why })
    }
}

impl Tracked {
    /// `time` is the agent's clock at the report, `now` this process's. `before`: the agent was heard before.
    fn take(&mut self, service: &ServiceReport, time: Timestamp, now: Timestamp, before: bool) {
        if let Some(instance) = &service.instance
            && self.instance.as_ref().is_none_or(|(known, _)| known != instance)
        {
            let age = service.running_seconds.and_then(|seconds| SignedDuration::try_from_secs_f64(seconds).ok());
            let started = match age {
                Some(age) => now.checked_sub(age).ok(),
                // A service that is seen for the first time may have run for long.
                None => (before || self.instance.is_some()).then_some(now),
            };
            self.instance = Some((instance.clone(), started));
        }
        if self.exit.as_ref().map(|(known, _)| known) != service.last_exit.as_ref() {
            self.exit = service.last_exit.clone().map(|exit| {
                let ago = time.duration_since(exit.at).max(SignedDuration::ZERO);
                let at = now.checked_sub(ago).unwrap_or(exit.at);
                (exit, at)
            });
        }
    }
}

/// Whether a report was made before another one of the same run of the agent: answers may overtake each other.
fn is_older(report: &AgentReport, known: &AgentReport) -> bool {
    report.started_at == known.started_at && report.revision.is_some() && report.revision < known.revision
}

#[cfg(test)]
mod tests {
    use crate::{
        host::{Credentials, HttpHost},
        net::HttpClient,
    };

    use super::*;

    #[test]
    fn silence_is_told_when_it_begins_and_when_its_cause_is_another() {
        crate::net::install_crypto();
        let (agents, key, url) =
            (AgentRegistry::default(), NamespacedName::new("default", "host"), "https://host:9099");
        let host = HttpHost::new(HttpClient::direct().unwrap(), url, "host", Credentials::default()).unwrap();
        agents.put(key.clone(), Arc::new(host));
        let refused = || HostError::Unreachable { url: url.into(), cause: "Connection refused".into() };
        let untrusted = || HostError::Untrusted { url: url.into(), cause: "UnknownIssuer".into() };
        let begun: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let fails =
            |seconds: i64, error| agents.heard(&key, Err(error), begun + jiff::SignedDuration::from_secs(seconds));
        assert_eq!([fails(0, refused()), fails(2, refused()), fails(4, untrusted())], [true, false, true]);
        let (_, silence) = agents.state(&key).unwrap();
        let silence = silence.unwrap();
        assert!(silence.since == begun && silence.why.contains("UnknownIssuer"), "{silence:?}");
        assert_eq!(silence.kind, HostErrorKind::Untrusted);
    }

    #[test]
    fn a_refusal_is_told_once_and_until_it_obeys_again() {
        crate::net::install_crypto();
        let (agents, key) = (AgentRegistry::default(), NamespacedName::new("default", "host"));
        let url = "http://host:9099";
        let host = HttpHost::new(HttpClient::direct().unwrap(), url, "host", Credentials::default()).unwrap();
        agents.put(key.clone(), Arc::new(host));
        let stale = || Err(HostError::StaleEpoch { url: url.into(), message: "epoch 2 is over: 7 was seen".into() });
        let away = Err(HostError::Unreachable { url: url.into(), cause: "refused".into() });
        assert_eq!([agents.obeyed(&key, &stale()), agents.obeyed(&key, &stale())], [true, false]);
        assert!(!agents.obeyed(&key, &away) && agents.refusal(&key).unwrap().contains("7 was seen"));
        assert!(agents.obeyed(&key, &Ok(())) && agents.refusal(&key).is_none());
    }

    fn report(revision: u64, service: serde_json::Value) -> AgentReport {
        serde_json::from_value(serde_json::json!({
            "name": "host", "version": "1", "user": "ada", "startedAt": "2026-03-01T11:00:00Z",
            // Its clock is ten minutes ahead.
            "time": "2026-03-01T12:10:00Z", "revision": revision, "services": [service],
        }))
        .unwrap()
    }

    #[test]
    fn starts_and_ends_are_told_in_this_clocks_time_and_an_overtaken_report_changes_nothing() {
        crate::net::install_crypto();
        let (agents, key) = (AgentRegistry::default(), NamespacedName::new("default", "host"));
        let host =
            HttpHost::new(HttpClient::direct().unwrap(), "http://host:9099", "host", Credentials::default()).unwrap();
        agents.put(key.clone(), Arc::new(host));
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |seconds: i64| now + SignedDuration::from_secs(seconds);
        let seen = || match agents.service(&key, "llm") {
            ServiceView::Service { instance_since, exited_at, .. } => (instance_since, exited_at),
            other => panic!("{other:?}"),
        };
        let running = serde_json::json!({
            "name": "llm", "manager": "Process", "state": "Running", "instance": {"pid": 7, "startTime": 70}, "runningSeconds": 90.0,
        });
        let stopped = serde_json::json!({
            "name": "llm", "manager": "Process", "state": "Stopped", "lastExit": {"signal": 9, "at": "2026-03-01T12:09:58Z"},
        });
        assert!(agents.heard(&key, Ok(report(5, running.clone())), now));
        assert_eq!(seen(), (Some(at(-90)), None), "it has been running for long");
        assert!(agents.heard(&key, Ok(report(7, stopped)), at(10)));
        assert_eq!(seen(), (Some(at(-90)), Some(at(8))), "it ended two seconds before the report");
        assert!(!agents.heard(&key, Ok(report(6, running)), at(11)));
        assert_eq!(seen(), (Some(at(-90)), Some(at(8))), "made before it ended");
    }
}

//! The host agents as they were last heard: written by their pollers, read by everybody who heals through them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use crate::host::{AgentReport, HostApi, HostError, Instance, ServiceReport};

use super::Key;

/// A first failure may be a hiccup; the second in a row means unreachable.
const FAILURES: u32 = 2;

/// All agents of this term.
#[derive(Clone, Default)]
pub struct Agents {
    inner: Arc<Mutex<HashMap<Key, Entry>>>,
}

struct Entry {
    api: Arc<dyn HostApi>,
    heard: Option<Heard>,
    failures: u32,
    failing_since: Option<Timestamp>,
    error: Option<String>,
    /// The last instance of each service, and when it was seen to change.
    instances: HashMap<String, (Instance, Option<Timestamp>)>,
}

/// A report and when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub at: Timestamp,
    pub report: AgentReport,
}

/// Since when an agent has not answered, and why.
pub type Silence = (Timestamp, String);

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
        instance_since: Option<Timestamp>,
        disk_free_percent: Option<f64>,
    },
}

impl Agents {
    /// Makes an agent known, or changes how it is spoken to.
    pub fn put(&self, key: Key, api: Arc<dyn HostApi>) {
        self.with(|agents| match agents.get_mut(&key) {
            Some(entry) => entry.api = api,
            None => {
                let entry = Entry {
                    api,
                    heard: None,
                    failures: 0,
                    failing_since: None,
                    error: None,
                    instances: HashMap::new(),
                };
                agents.insert(key, entry);
            }
        });
    }

    pub fn remove(&self, key: &Key) {
        self.with(|agents| agents.remove(key));
    }

    pub fn api(&self, key: &Key) -> Option<Arc<dyn HostApi>> {
        self.with(|agents| agents.get(key).map(|e| Arc::clone(&e.api)))
    }

    /// Takes in a poll's result. Returns whether something that others look at has changed.
    pub fn heard(&self, key: &Key, result: Result<AgentReport, HostError>, now: Timestamp) -> bool {
        self.with(|agents| {
            let Some(entry) = agents.get_mut(key) else { return false };
            match result {
                Ok(report) => entry.take(report, now),
                Err(error) => entry.fail(&error, now),
            }
        })
    }

    /// The last report, and since when the agent has not answered.
    pub fn state(&self, key: &Key) -> Option<(Option<Heard>, Option<Silence>)> {
        self.with(|agents| agents.get(key).map(|e| (e.heard.clone(), e.unreachable())))
    }

    pub fn service(&self, key: &Key, service: &str) -> ServiceView {
        self.with(|agents| {
            let Some(entry) = agents.get(key) else { return ServiceView::NoAgent };
            if let Some((since, why)) = entry.unreachable() {
                return ServiceView::Unreachable { since, why };
            }
            let Some(heard) = &entry.heard else { return ServiceView::Unheard };
            let Some(report) = heard.report.service(service) else { return ServiceView::NoService };
            ServiceView::Service {
                at: heard.at,
                report: Box::new(report.clone()),
                instance_since: entry.instances.get(service).and_then(|(_, since)| *since),
                disk_free_percent: heard.report.disk_free_percent,
            }
        })
    }

    /// The CPU time that the service's processes have used, asked now; `None` when nobody can tell within two seconds.
    pub async fn cpu_seconds(&self, key: &Key, service: &str) -> Option<(Instance, f64)> {
        let api = self.api(key)?;
        let report = tokio::time::timeout(Duration::from_secs(2), api.report()).await.ok()?.ok()?;
        let service = report.service(service)?;
        Some((service.instance.clone()?, service.cpu_seconds?))
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Key, Entry>) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entry {
    fn take(&mut self, report: AgentReport, now: Timestamp) -> bool {
        let was_unreachable = self.unreachable().is_some();
        (self.failures, self.failing_since, self.error) = (0, None, None);
        for service in &report.services {
            let Some(instance) = &service.instance else { continue };
            match self.instances.get_mut(&service.name) {
                Some((known, _)) if known == instance => {}
                Some(known) => *known = (instance.clone(), Some(now)),
                None => {
                    // Whether it started just now can't be told; one that had been seen without a process did.
                    let started = self.heard.is_some().then_some(now);
                    self.instances.insert(service.name.clone(), (instance.clone(), started));
                }
            }
        }
        let changed = self.heard.as_ref().is_none_or(|old| notable(&old.report) != notable(&report));
        self.heard = Some(Heard { at: now, report });
        changed || was_unreachable
    }

    /// Another cause is a change too: what a person must mend is another thing then.
    fn fail(&mut self, error: &HostError, now: Timestamp) -> bool {
        let before = self.unreachable();
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        self.error = Some(error.to_string());
        self.unreachable() != before
    }

    fn unreachable(&self) -> Option<Silence> {
        let why = self.error.clone().filter(|_| self.failures >= FAILURES || self.heard.is_none())?;
        Some((self.failing_since?, why))
    }
}

/// What others react to: all but times, CPU and checks.
fn notable(report: &AgentReport) -> Vec<impl PartialEq + use<>> {
    report
        .services
        .iter()
        .map(|s| {
            (
                (s.name.clone(), s.state, s.instance.clone(), s.user.clone()),
                (s.holds.clone(), s.self_starts.count, s.gave_up, s.out_of_memory_at),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::host::{Credentials, HttpHost};

    use super::*;

    #[test]
    fn silence_is_told_when_it_begins_and_when_its_cause_is_another() {
        crate::telemetry::install_crypto();
        let (agents, key, url) = (Agents::default(), Key::new("default", "host"), "https://host:9099");
        let host = HttpHost::new(reqwest::Client::new(), url, Credentials::default()).unwrap();
        agents.put(key.clone(), Arc::new(host));
        let refused = || HostError::Unreachable { url: url.into(), cause: "Connection refused".into() };
        let untrusted = || HostError::Untrusted { url: url.into(), cause: "UnknownIssuer".into() };
        let begun: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let fails =
            |seconds: i64, error| agents.heard(&key, Err(error), begun + jiff::SignedDuration::from_secs(seconds));
        assert_eq!([fails(0, refused()), fails(2, refused()), fails(4, untrusted())], [true, false, true]);
        let (_, silence) = agents.state(&key).unwrap();
        let (since, why) = silence.unwrap();
        assert!(since == begun && why.contains("UnknownIssuer"), "{since} {why}");
    }
}

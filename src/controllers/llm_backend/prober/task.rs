//! The loop of one prober. Calls that take long (canary, pull) run beside it, so that probing never waits for them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::engines::{Endpoint, Failure, LoadedModel, ProbeVerdict, ProofShape, engine};

use super::{
    super::{
        super::shared::NamespacedName,
        facts::{Misdeclared, ProbeResult, Pull},
        plan::CanaryOrder,
        session::Session,
    },
    Findings, ProberOrder, ProberTools,
    calls::{self, CanaryOutcome},
    contexts::{self, ContextLooks},
    fingerprint, note_canary,
};

/// After a refusal the server is asked again this soon, until the threshold.
const AGAIN: Duration = Duration::from_secs(1);
/// Without a probe to come, canaries are thought about this often.
const LOOK: Duration = Duration::from_secs(5);
/// Pull percent is written at most this often.
const PULL_REPORT: Duration = Duration::from_secs(10);

pub struct ProberTask {
    key: NamespacedName,
    tools: ProberTools,
    wishes: watch::Receiver<ProberOrder>,
    findings: Arc<Mutex<Findings>>,
    poke: Arc<Notify>,
    session: Session,
    looked_at: Option<Timestamp>,
    cpu: calls::CpuSampler,
    preloading: bool,
    /// How the server was last asked with success.
    shape: Option<ProofShape>,
    contexts: ContextLooks,
    pulls_running: usize,
    last_pull_report: Option<Instant>,
    reports: mpsc::UnboundedSender<ProberReport>,
    done: mpsc::UnboundedReceiver<ProberReport>,
}

/// What a call that ran beside the loop brings back.
pub enum ProberReport {
    Canary(CanaryOutcome),
    PullProgress {
        model: String,
        percent: i32,
    },
    /// With the error, and whether another try can't help.
    Pulled {
        model: String,
        error: Option<(String, bool)>,
    },
    Preloaded {
        model: String,
    },
}

impl ProberTask {
    pub fn new(
        key: NamespacedName,
        tools: ProberTools,
        wishes: watch::Receiver<ProberOrder>,
        findings: Arc<Mutex<Findings>>,
        poke: Arc<Notify>,
    ) -> Self {
        let (reports, done) = mpsc::unbounded_channel();
        Self {
            key,
            tools,
            wishes,
            findings,
            poke,
            session: Session::default(),
            looked_at: None,
            cpu: calls::CpuSampler::default(),
            preloading: false,
            shape: None,
            contexts: ContextLooks::default(),
            pulls_running: 0,
            last_pull_report: None,
            reports,
            done,
        }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        // Spread out, so that a thousand probers don't ask in one instant.
        let spread = Duration::from_millis(rand::rng().random_range(0..300));
        let mut next = Instant::now() + spread;
        let mut generation = self.wishes.borrow().generation;
        loop {
            tokio::select! {
                // The next probe of a server slower than its period is always due: what calls brought back goes before it.
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.done.recv() => self.take(done).await,
                () = self.poke.notified() => next = Instant::now(),
                changed = self.wishes.changed() => {
                    if changed.is_err() { return }
                    let wish = self.wishes.borrow_and_update().clone();
                    if wish.generation != generation {
                        generation = wish.generation;
                        *self.findings.lock() = Findings::default();
                        self.session = Session::default();
                        self.contexts.again();
                        next = Instant::now();
                    }
                    if wish.hurry {
                        next = next.min(Instant::now() + AGAIN);
                    }
                    self.obey(&wish).await;
                }
                () = tokio::time::sleep_until(next) => next = Instant::now() + self.probe().await,
            }
        }
    }

    /// One probe over all paths, then whatever it makes sensible. Returns when to probe again.
    async fn probe(&mut self) -> Duration {
        let wish = self.wishes.borrow().clone();
        let period = Duration::from_secs(wish.spec.probe.period_seconds.unsigned_abs().into());
        let ours = wish.misdeclared.as_ref().is_none_or(Misdeclared::leaves_the_server);
        let Some(endpoint) = wish.endpoint.as_ref().filter(|_| ours) else { return LOOK };
        let timeout = Duration::from_secs(wish.spec.probe.timeout_seconds.unsigned_abs().into());
        let engine = engine(wish.spec.engine);
        let began = Instant::now();
        let verdict = engine.probe(endpoint, &wish.spec.probe.paths, timeout).await;
        let took = began.elapsed();
        self.tools.metrics.backends.probe(&self.key.namespace, &self.key.name, took);
        let loaded = match (&verdict, engine.manages_models()) {
            (ProbeVerdict::Models(_), true) => engine.loaded(endpoint, timeout).await.ok().flatten(),
            _ => None,
        };
        if let ProbeVerdict::Models(listing) = &verdict
            && let Some(outdated) = self.contexts.look(&wish.spec, endpoint, listing, timeout).await
        {
            self.findings.lock().outdated = outdated;
        }
        if wish.sample_cpu {
            self.sample_cpu(&wish).await;
        }
        let retry_after = match &verdict {
            ProbeVerdict::RateLimited { retry_after } => *retry_after,
            _ => None,
        };
        let again = self.note_probe(&wish, verdict, took, loaded, retry_after);
        self.obey(&wish).await;
        let jittered = period.mul_f64(rand::rng().random_range(0.9..=1.1));
        let wait = if again || wish.hurry { AGAIN.min(jittered) } else { jittered };
        wait.max(retry_after.unwrap_or_default())
    }

    /// A baseline must reach back to the probe, or to the begin of the canary, before.
    async fn sample_cpu(&mut self, wish: &ProberOrder) {
        let between = wish.spec.probe.period_seconds.max(wish.spec.canary.timeout_seconds).max(2);
        let oldest = Duration::from_secs(between.unsigned_abs().into()) * 3 / 2;
        let Some(sample) = self.cpu.sample(&self.tools.agents, wish.service.as_ref(), oldest).await else { return };
        let mut findings = self.findings.lock();
        findings.cpu.push(sample.instance, sample.advanced, sample.since, sample.until);
    }

    /// Folds a probe in; returns whether the server should be asked again at once.
    fn note_probe(
        &mut self,
        wish: &ProberOrder,
        verdict: ProbeVerdict,
        took: Duration,
        loaded: Option<Vec<LoadedModel>>,
        retry_after: Option<Duration>,
    ) -> bool {
        let now = Timestamp::now();
        let millis = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        let probe = &wish.spec.probe;
        let mut findings = self.findings.lock();
        let before = fingerprint(&findings);
        // Before the machine slept is another time: its failures don't count towards the threshold.
        let slept = self.tools.wake.woke_at().filter(|woke| findings.probes.failing_since.is_some_and(|at| at < *woke));
        if slept.is_some() && findings.probes.answering != Some(false) {
            findings.probes.failures_in_row = 0;
            findings.probes.failing_since = None;
        }
        findings.observation.probe_at = Some(now);
        findings.observation.probe_verdict = Some(<&str>::from(&verdict).to_owned());
        findings.observation.probe_millis = Some(millis);
        let not_before = retry_after.and_then(|wait| now.checked_add(wait).ok());
        findings.probes.push(
            ProbeResult { at: now, verdict, millis, not_before },
            probe.failure_threshold,
            probe.success_threshold,
        );
        if let Some(loaded) = loaded {
            // While a canary of ours is open, what it loads or moves is not yet told apart from others' calls.
            if findings.canary.running_since.is_none() && !self.preloading {
                let of_server = self.tools.slots.of(&wish.server_url);
                let ours_open = !of_server.calls.is_empty() || of_server.last_call_at >= self.looked_at;
                findings.used_by_others = self.session.look(&loaded, ours_open).clone();
                self.looked_at = Some(now);
            }
            findings.list_loaded(loaded, now);
        }
        let failing_below = findings.probes.failures_in_row > 0 && findings.probes.answering != Some(false);
        let refused = findings.probes.last.as_ref().is_some_and(|p| p.verdict.is_refusal());
        let rising = findings.probes.answering == Some(false) && findings.probes.successes_in_row > 0;
        let changed = fingerprint(&findings) != before;
        if findings.probes.down_since == Some(now) {
            let failures = findings.probes.failures_in_row;
            tracing::info!(backend = %self.key, failures, verdict = findings.observation.probe_verdict, "backend is down: consecutive probes failed");
        }
        drop(findings);
        if changed {
            self.tools.look_at(&self.key);
        }
        failing_below && refused || rising
    }

    /// Sends the canary, the pull or the preload that was ordered.
    async fn obey(&mut self, wish: &ProberOrder) {
        let Some(endpoint) = wish.endpoint.clone() else { return };
        self.start_pulls(wish, &endpoint);
        let busy = self.findings.lock().canary.running_since.is_some() || self.preloading;
        if busy {
            return;
        }
        if let Some(order) = &wish.canary {
            self.send_canary(wish, endpoint, order).await;
        } else if let Some(model) = wish.preload.clone() {
            self.preloading = true;
            let (kind, reports) = (wish.spec.engine, self.reports.clone());
            let patience = Duration::from_secs(wish.spec.probe.startup_seconds.unsigned_abs().into());
            tokio::spawn(async move {
                if let Err(error) = engine(kind).preload(&endpoint, &model, patience).await {
                    tracing::warn!(model, %error, "could not preload a model; will retry");
                }
                let _ = reports.send(ProberReport::Preloaded { model });
            });
        }
    }

    /// An order is carried out once: it names how many canaries had ended when it was given.
    async fn send_canary(&mut self, wish: &ProberOrder, endpoint: Endpoint, order: &CanaryOrder) {
        {
            let mut findings = self.findings.lock();
            if findings.canary.finished != order.after {
                return;
            }
            findings.canary.running_since = Some(Timestamp::now());
        }
        // So that its time shows whether the CPU advanced.
        self.sample_cpu(wish).await;
        let call = calls::CanaryCall {
            key: self.key.clone(),
            engine: wish.spec.engine,
            endpoint,
            server_url: wish.server_url.clone(),
            order: order.clone(),
            shape: self.shape,
        };
        let (tools, reports) = (self.tools.clone(), self.reports.clone());
        tokio::spawn(async move {
            let done = call.run(&tools).await;
            // Nobody listens any more: the prober was stopped.
            let _ = reports.send(ProberReport::Canary(done));
        });
    }

    fn start_pulls(&mut self, wish: &ProberOrder, endpoint: &Endpoint) {
        if self.pulls_running > 0 {
            return;
        }
        let Some(model) = wish.pull.first().cloned() else { return };
        self.pulls_running += 1;
        self.findings.lock().pulls.entry(model.clone()).or_default().percent = Some(0);
        let (kind, endpoint, reports) = (wish.spec.engine, endpoint.clone(), self.reports.clone());
        match contexts::declared(&wish.spec, &model) {
            Some((of, tokens)) => {
                tokio::spawn(contexts::make(kind, endpoint, (model, of.name.clone(), tokens), reports));
            }
            None => drop(tokio::spawn(calls::pull(kind, endpoint, model, reports))),
        }
    }

    /// Takes in what a call brought back.
    async fn take(&mut self, done: ProberReport) {
        let before = fingerprint(&self.findings.lock());
        match done {
            ProberReport::Canary(done) => self.take_canary(done).await,
            ProberReport::PullProgress { model, percent } => {
                let due = self.last_pull_report.is_none_or(|at| at.elapsed() >= PULL_REPORT);
                if due {
                    self.last_pull_report = Some(Instant::now());
                    self.findings.lock().pulls.entry(model).or_default().percent = Some(percent);
                }
            }
            ProberReport::Pulled { model, error } => {
                self.pulls_running -= 1;
                self.contexts.again();
                let mut findings = self.findings.lock();
                match error {
                    None => {
                        findings.pulls.remove(&model);
                        findings.outdated.remove(&model);
                    }
                    Some((error, permanent)) => {
                        let pull = findings.pulls.entry(model).or_default();
                        let failures = pull.failures.saturating_add(1);
                        let failed_at = Some(Timestamp::now());
                        *pull = Pull { percent: None, error: Some(error), permanent, failures, failed_at };
                    }
                }
                drop(findings);
                self.poke.notify_one();
            }
            ProberReport::Preloaded { model } => {
                self.preloading = false;
                self.session.called(&model);
                self.poke.notify_one();
            }
        }
        if fingerprint(&self.findings.lock()) != before {
            self.tools.look_at(&self.key);
        }
        let wish = self.wishes.borrow().clone();
        self.obey(&wish).await;
    }

    async fn take_canary(&mut self, done: CanaryOutcome) {
        let CanaryOutcome::Asked(asked) = done else {
            let mut findings = self.findings.lock();
            findings.canary.running_since = None;
            findings.canary.finished += 1;
            findings.canary.no_slot_at = Some(Timestamp::now());
            drop(findings);
            self.tools.look_at(&self.key);
            return;
        };
        let calls::CanaryAnswer { canaried, shape } = *asked;
        let wish = self.wishes.borrow().clone();
        self.session.called(&canaried.model);
        self.shape = shape.or(self.shape);
        let not_before = match &canaried.result {
            Err(Failure::RateLimited { retry_after }) => {
                Timestamp::now().checked_add(retry_after.unwrap_or(Duration::from_secs(10))).ok()
            }
            _ => None,
        };
        let millis = canaried.ended_at.duration_since(canaried.started_at).as_millis();
        let took = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        self.tools.metrics.backends.canary(&self.key.namespace, &self.key.name, took);
        if matches!(canaried.result, Err(Failure::Timeout { .. })) {
            self.sample_cpu(&wish).await;
        }
        // What it left in memory is to be known before anybody else's call moves it.
        let engine = engine(wish.spec.engine);
        let loaded = match (&wish.endpoint, canaried.result.is_ok() && engine.manages_models()) {
            (Some(endpoint), true) => engine.loaded(endpoint, Duration::from_secs(2)).await.ok().flatten(),
            _ => None,
        };
        let mut findings = self.findings.lock();
        note_canary(&mut findings.observation, &canaried, i64::try_from(millis).unwrap_or(i64::MAX));
        let number = findings.canary.finished + 1;
        match calls::evidence(&canaried, number) {
            Some(Ok(served)) => findings.calls.add_served(served),
            Some(Err(failed)) => findings.calls.add_failed(failed),
            None => {}
        }
        findings.canary.running_since = None;
        findings.canary.finished = number;
        findings.canary.no_slot_at = None;
        findings.canary.not_before = not_before;
        findings.canary.push(canaried);
        if let Some(loaded) = loaded {
            let of_server = self.tools.slots.of(&wish.server_url);
            findings.used_by_others = self.session.look(&loaded, !of_server.calls.is_empty()).clone();
            let now = Timestamp::now();
            self.looked_at = Some(now);
            findings.list_loaded(loaded, now);
        }
        drop(findings);
        // Proofs and time-outs count even when they look like the last one.
        self.tools.look_at(&self.key);
    }
}

//! What to do about a backend: data, so that tests, logs and status read the same thing.
//!
//! [`plan`] takes what was judged and remembered and returns the next memory with at most one act. The memory is committed
//! before the act is carried out; what came of it goes back in through [`record`].

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{CanaryWhen, Engine, LLMBackendSpec, Recovery},
    host::HoldOwner,
};

use super::{
    judge::Judgement,
    limit,
    memory::{Attempt, AttemptResult, Cause, Episode, Memory, PodId, Proof, Run, RunPhase, Step, bounded},
    seen::{AgentView, Seen},
};

/// An unload must have helped within this time.
const UNLOAD: SignedDuration = SignedDuration::from_secs(30);
/// Ladders wait this long after the machine slept.
const AFTER_SLEEP: SignedDuration = SignedDuration::from_secs(60);

/// What one pass decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// To be committed before `act`.
    pub memory: Memory,
    pub act: Option<Act>,
    /// Why nothing is done although the backend is not well.
    pub waiting: Option<Waiting>,
    /// Whether the prober should prove it with an inference.
    pub prove: bool,
    /// Models to pull.
    pub pull: Vec<String>,
    /// A model to load and keep loaded.
    pub preload: Option<String>,
    /// What happened in this pass, as events.
    pub notes: Vec<PlanNote>,
    /// Holds of ours at the agent that are not as they should be.
    pub holds: Vec<HoldChange>,
    /// Calls at once from now on.
    pub limit: i32,
}

/// One thing to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Mark open slots as aborted, then unload what is loaded.
    Unload { key: String },
    /// Restart through host agent, workload or webhook. Sent again with the same key, it is the same operation.
    Restart { key: String, attempt: i32, cause: Cause, evidence: String },
    /// Ask the agent how far its operation is.
    Follow { operation: String },
    /// Delete this pod; its replacement is awaited.
    DeletePod { pod: PodId },
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub why: Why,
    pub until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Suspended,
    Paused,
    /// A person holds the service at the agent.
    Held,
    JustWoke,
    AgentUnreachable,
    /// More than half of an agent's backends fail: host or network is suspected until the agent was heard.
    Storm,
    /// `periodSeconds` between attempts.
    Period,
    /// `retryDeferredSeconds` between silent attempts.
    Deferred,
    /// A step runs, and has time left.
    Step,
}

/// Something worth an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanNote {
    Attempt { step: Step, attempt: i32, most: i32, cause: Cause, silent: bool },
    Helped { step: Step, cause: Cause },
    DidNotHelp { step: Step, cause: Cause, evidence: String },
    Deferred { evidence: String },
    Recovered { was_deferred: bool },
    WouldDo { step: Step, cause: Cause },
    LimitLowered { to: i32 },
    AgentStarted { times: u64 },
}

/// A hold of ours to set or to clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldChange {
    pub owner: HoldOwner,
    pub set: bool,
}

/// Plans one pass. `id` makes a new episode's id, unique for ever.
pub fn plan(spec: &LLMBackendSpec, seen: &Seen, judged: &Judgement, past: &Memory, id: &str, now: Timestamp) -> Plan {
    let mut pass = Pass {
        spec,
        seen,
        judged,
        id,
        now,
        plan: Plan {
            memory: past.clone(),
            act: None,
            waiting: None,
            prove: judged.needs_proof,
            pull: Vec::new(),
            preload: None,
            notes: Vec::new(),
            holds: Vec::new(),
            limit: 0,
        },
    };
    pass.take_note();
    pass.heal();
    pass.plan.holds = pass.hold_changes();
    pass.pull_and_preload();
    pass.plan
}

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The step's action is done; an inference must prove it.
    Done,
    /// The agent took the operation, or still works on it.
    Sent {
        operation: String,
    },
    /// These pods are to be replaced.
    Pods(Vec<PodId>),
    PodDeleted,
    /// The step failed, and trying it again in this attempt is of no use.
    Failed {
        why: String,
    },
    /// It may or may not have arrived: tried again with the same key.
    Unclear {
        why: String,
    },
}

/// Writes what came of an act into the memory.
pub fn record(memory: &mut Memory, outcome: &Outcome, now: Timestamp) -> Option<PlanNote> {
    let episode = memory.episode.as_mut()?;
    let run = episode.running.as_mut()?;
    match outcome {
        Outcome::Done => run.phase = RunPhase::Verifying { since: now },
        Outcome::Sent { operation } => run.phase = RunPhase::Sent { operation: operation.clone() },
        Outcome::Pods(pods) => run.phase = RunPhase::Replacing { left: pods.clone(), waiting: false },
        Outcome::PodDeleted => {
            if let RunPhase::Replacing { left, waiting } = &mut run.phase {
                left.remove(0);
                *waiting = true;
            }
        }
        Outcome::Unclear { .. } => {}
        Outcome::Failed { why } => return Some(conclude(memory, false, why)),
    }
    None
}

/// Ends the running step.
fn conclude(memory: &mut Memory, helped: bool, evidence: &str) -> PlanNote {
    let episode = memory.episode.as_mut().expect("a step runs only in an episode");
    let run = episode.running.take().expect("only a running step is concluded");
    let (cause, step) = (episode.cause, run.step);
    memory.conclude_attempt(cause, step, helped, evidence);
    if helped {
        PlanNote::Helped { step, cause }
    } else {
        PlanNote::DidNotHelp { step, cause, evidence: bounded(evidence) }
    }
}

struct Pass<'a> {
    spec: &'a LLMBackendSpec,
    seen: &'a Seen,
    judged: &'a Judgement,
    id: &'a str,
    now: Timestamp,
    plan: Plan,
}

impl Pass<'_> {
    /// What was seen that changes the memory by itself: proofs, wishes, the agent's own starts, lack of memory.
    fn take_note(&mut self) {
        let memory = &mut self.plan.memory;
        memory.served_at = memory.served_at.max(self.seen.canary.served_at());
        if let Some(at) = self.seen.canary.served_at()
            && memory.proof.as_ref().is_none_or(|p| p.at < at && !same_proof(p, self.seen))
        {
            memory.proof = Some(Proof { generation: self.seen.generation, at, instance: self.seen.agent.instance() });
        } else if self.spec.canary.when == CanaryWhen::Never
            && self.judged.ready
            && memory.proof.as_ref().is_none_or(|p| !same_proof(p, self.seen))
        {
            let proof = Proof { generation: self.seen.generation, at: self.now, instance: self.seen.agent.instance() };
            memory.proof = Some(proof);
        }
        if let Some(token) = &self.seen.will.reconcile_token
            && memory.handled_reconcile.as_ref() != Some(token)
        {
            memory.handled_reconcile = Some(token.clone());
            // A wish of a person begins a new episode: attempts count anew. A step that runs is followed to its end.
            if memory.episode.as_ref().is_some_and(|e| e.running.is_none()) {
                memory.episode = None;
            }
        }
        self.count_self_starts();
        let (limit, note) = limit::effective(self.spec, self.seen, &mut self.plan.memory.lowered, self.now);
        self.plan.limit = limit;
        self.plan.notes.extend(note);
    }

    /// Starts that the agent did by itself count as attempts.
    fn count_self_starts(&mut self) {
        let Some(service) = self.seen.agent.service() else { return };
        let count = service.report.self_starts.count;
        let known = self.plan.memory.self_starts.replace(count);
        let new = known.map_or(0, |known| count.saturating_sub(known));
        if new > 0 {
            if let Some(episode) = &mut self.plan.memory.episode {
                episode.attempts = episode.attempts.saturating_add(i32::try_from(new).unwrap_or(i32::MAX));
                episode.last_restart_at = Some(self.now);
            }
            self.plan.notes.push(PlanNote::AgentStarted { times: new });
        }
    }

    fn heal(&mut self) {
        if self.judged.ready {
            self.is_well();
            return;
        }
        self.plan.memory.healthy_since = None;
        if let Some(run) = self.plan.memory.episode.as_ref().and_then(|e| e.running.clone()) {
            self.go_on(run);
            return;
        }
        let Some(cause) = self.judged.cause else { return };
        self.open_episode(cause);
        if let Some(waiting) = self.left_alone() {
            self.plan.waiting = Some(waiting);
            return;
        }
        self.next_step(cause);
    }

    fn is_well(&mut self) {
        let since = *self.plan.memory.healthy_since.get_or_insert(self.now);
        let Some(episode) = &self.plan.memory.episode else { return };
        if episode.running.is_some() {
            let note =
                conclude(&mut self.plan.memory, true, "an inference succeeded, and the expected models are there");
            self.plan.notes.push(note);
        }
        let episode = self.plan.memory.episode.as_mut().expect("it was there a line ago");
        if episode.resolved_at.is_none() {
            episode.resolved_at = Some(self.now);
            let was_deferred = episode.deferred_at.take().is_some();
            episode.would = None;
            self.plan.notes.push(PlanNote::Recovered { was_deferred });
        }
        let lasted = self.spec.recovery.as_ref().map_or(600, |r| r.min_healthy_seconds);
        if self.now >= since + SignedDuration::from_secs(lasted.into()) {
            self.plan.memory.episode = None;
        }
    }

    fn open_episode(&mut self, cause: Cause) {
        let evidence = bounded(&format!("{}: {}", cause.as_str(), self.judged.message));
        match &mut self.plan.memory.episode {
            Some(episode) => {
                // It failed again before it was well for long enough: the same episode, and its attempts count on.
                if episode.resolved_at.take().is_some() || episode.cause != cause {
                    episode.cause = cause;
                    episode.evidence = evidence;
                    episode.tried.retain(|step| *step == Step::Restart);
                }
            }
            none => {
                *none = Some(Episode {
                    id: self.id.to_owned(),
                    cause,
                    since: self.seen.probes.failing_since.unwrap_or(self.now),
                    evidence,
                    attempts: 0,
                    steps_begun: 0,
                    tried: Vec::new(),
                    running: None,
                    last_restart_at: None,
                    resolved_at: None,
                    deferred_at: None,
                    would: None,
                });
            }
        }
    }

    /// Whom or what keeps us from acting now, if anything does.
    fn left_alone(&self) -> Option<Waiting> {
        let will = &self.seen.will;
        let waiting = |why, until| Some(Waiting { why, until });
        if will.suspended {
            return waiting(Why::Suspended, None);
        }
        if will.paused {
            return waiting(Why::Paused, None);
        }
        if let Some(woke) = self.seen.woke_at
            && self.now < woke + AFTER_SLEEP
        {
            return waiting(Why::JustWoke, Some(woke + AFTER_SLEEP));
        }
        match &self.seen.agent {
            AgentView::None => None,
            AgentView::Unheard | AgentView::Unreachable { .. } => waiting(Why::AgentUnreachable, None),
            AgentView::Heard(service) if service.report.held() => waiting(Why::Held, None),
            AgentView::Heard(service) => {
                let peers = self.seen.peers;
                let storm = peers.total > 1 && peers.failing * 2 > peers.total;
                let heard_since = peers.failing_since.is_none_or(|since| service.heard_at > since);
                if storm && !heard_since { waiting(Why::Storm, None) } else { None }
            }
        }
    }

    fn next_step(&mut self, cause: Cause) {
        let episode = self.plan.memory.episode.as_ref().expect("opened just before");
        if episode.deferred_at.is_some() {
            self.try_silently(cause);
            return;
        }
        let step = self.ladder(cause).into_iter().find(|step| {
            let again = *step == Step::Restart;
            (again || !episode.tried.contains(step)) && !self.plan.memory.is_hopeless(cause, *step)
        });
        let Some(step) = step else {
            let why = if self.spec.recovery.is_none() {
                "nothing that could restart it is declared under recovery"
            } else {
                "no step ever helped for this cause in ten tries"
            };
            self.defer(why);
            return;
        };
        if step == Step::Restart && !self.may_restart() {
            return;
        }
        self.begin(step, cause, false);
    }

    /// The steps for a cause, in order.
    fn ladder(&self, cause: Cause) -> Vec<Step> {
        let mut steps = Vec::new();
        if cause == Cause::Hung {
            // Silence of open calls is no proof yet; canaries that timed out are.
            if self.seen.canary.timeouts_in_row == 0 && self.spec.canary.when != CanaryWhen::Never {
                steps.push(Step::Canary);
            }
            if self.spec.engine == Engine::Ollama {
                steps.push(Step::Unload);
            }
        }
        if self.spec.recovery.is_some() {
            steps.push(Step::Restart);
        }
        steps
    }

    /// The bounds on restarts. Beyond them a human is told.
    fn may_restart(&mut self) -> bool {
        let Some(recovery) = &self.spec.recovery else { return false };
        let memory = &self.plan.memory;
        let episode = memory.episode.as_ref().expect("opened just before");
        if episode.attempts >= recovery.max_attempts {
            let why = format!("{} of {} attempts did not help", episode.attempts, recovery.max_attempts);
            self.defer(&why);
            return false;
        }
        if memory.attempts_in_a_day(self.now) >= usize::try_from(recovery.max_per_day).unwrap_or(usize::MAX) {
            self.defer(&format!("it was restarted {} times in 24 hours, which is maxPerDay", recovery.max_per_day));
            return false;
        }
        let due = episode.last_restart_at.map(|at| at + SignedDuration::from_secs(recovery.period_seconds.into()));
        if let Some(due) = due.filter(|due| self.now < *due) {
            self.plan.waiting = Some(Waiting { why: Why::Period, until: Some(due) });
            return false;
        }
        true
    }

    fn defer(&mut self, why: &str) {
        let episode = self.plan.memory.episode.as_mut().expect("opened just before");
        episode.deferred_at = Some(self.now);
        let evidence = bounded(&format!("{why}; {}", episode.evidence));
        episode.evidence = evidence.clone();
        self.plan.notes.push(PlanNote::Deferred { evidence });
    }

    /// One silent attempt each `retryDeferredSeconds`.
    fn try_silently(&mut self, cause: Cause) {
        let Some(recovery) = &self.spec.recovery else { return };
        let episode = self.plan.memory.episode.as_ref().expect("a deferral is part of an episode");
        let last = episode.last_restart_at.max(episode.deferred_at).unwrap_or(self.now);
        let due = last + SignedDuration::from_secs(recovery.retry_deferred_seconds.into());
        if self.now < due {
            self.plan.waiting = Some(Waiting { why: Why::Deferred, until: Some(due) });
            return;
        }
        self.begin(Step::Restart, cause, true);
    }

    fn begin(&mut self, step: Step, cause: Cause, silent: bool) {
        let now = self.now;
        let memory = &mut self.plan.memory;
        let episode = memory.episode.as_mut().expect("opened just before");
        if self.seen.will.observe {
            if episode.would != Some(step) {
                episode.would = Some(step);
                let evidence = episode.evidence.clone();
                memory.begin_attempt(Attempt { at: now, cause, step, result: AttemptResult::WouldDo, evidence }, false);
                self.plan.notes.push(PlanNote::WouldDo { step, cause });
            }
            return;
        }
        episode.steps_begun += 1;
        if !episode.tried.contains(&step) {
            episode.tried.push(step);
        }
        if step == Step::Restart {
            episode.last_restart_at = Some(now);
            episode.attempts += i32::from(!silent);
        }
        let key = format!("{}-{}", episode.id, episode.steps_begun);
        let patience = match step {
            Step::Canary => SignedDuration::from_secs(i64::from(self.spec.canary.timeout_seconds) + 5),
            Step::Unload => UNLOAD,
            Step::Restart => SignedDuration::from_secs(self.spec.probe.startup_seconds.into()),
        };
        let phase = if step == Step::Canary { RunPhase::Verifying { since: now } } else { RunPhase::Committed };
        episode.running =
            Some(Run { step, key: key.clone(), started_at: now, deadline: now + patience, phase, silent });
        let (attempt, evidence) = (episode.attempts, episode.evidence.clone());
        let record = Attempt { at: now, cause, step, result: AttemptResult::Running, evidence: evidence.clone() };
        memory.begin_attempt(record, step == Step::Restart && !silent);
        let most = self.spec.recovery.as_ref().map_or(0, |r: &Recovery| r.max_attempts);
        self.plan.notes.push(PlanNote::Attempt { step, attempt, most, cause, silent });
        match step {
            Step::Canary => self.plan.prove = true,
            Step::Unload => self.plan.act = Some(Act::Unload { key }),
            Step::Restart => self.plan.act = Some(Act::Restart { key, attempt, cause, evidence }),
        }
    }

    /// A step is under way: send it again, follow it, or see whether it helped.
    fn go_on(&mut self, run: Run) {
        self.plan.prove = true;
        let wait = Waiting { why: Why::Step, until: Some(run.deadline) };
        if self.now >= run.deadline {
            self.give_up_on_step(&format!("no inference succeeded in time: {}", self.judged.message));
            return;
        }
        self.plan.waiting = Some(wait);
        let episode = self.plan.memory.episode.as_ref().expect("a step runs only in an episode");
        self.plan.act = match &run.phase {
            RunPhase::Committed if self.left_alone_hard() => None,
            RunPhase::Committed => Some(match run.step {
                Step::Unload => Act::Unload { key: run.key },
                _ => Act::Restart {
                    key: run.key,
                    attempt: episode.attempts,
                    cause: episode.cause,
                    evidence: episode.evidence.clone(),
                },
            }),
            RunPhase::Sent { operation } => Some(Act::Follow { operation: operation.clone() }),
            RunPhase::Replacing { left, waiting } => self.replace_next(left, *waiting),
            RunPhase::Verifying { since } => {
                self.verify(run.step, *since);
                None
            }
        };
    }

    /// A step that was committed and perhaps not sent is not sent once somebody wants it left alone.
    fn left_alone_hard(&self) -> bool {
        self.seen.will.suspended || self.seen.will.paused || self.seen.will.observe
    }

    fn replace_next(&mut self, left: &[PodId], waiting: bool) -> Option<Act> {
        // What can't be seen is awaited too: a second pod less may be the last.
        let replaced = self.seen.workload.as_ref().is_some_and(|workload| workload.is_replaced_but_for(left));
        if waiting && !replaced && !left.is_empty() {
            return None;
        }
        match left.first() {
            Some(pod) => Some(Act::DeletePod { pod: pod.clone() }),
            None => {
                let run = self.plan.memory.episode.as_mut().and_then(|e| e.running.as_mut());
                run.expect("it is being replaced").phase = RunPhase::Verifying { since: self.now };
                None
            }
        }
    }

    /// Over before its time: the process that was started is gone again, or the canary that was the step failed.
    fn verify(&mut self, step: Step, since: Timestamp) {
        let exited = self
            .seen
            .agent
            .service()
            .filter(|s| s.heard_at > since + SignedDuration::from_secs(1))
            .is_some_and(|s| s.report.state == crate::host::ServiceState::Stopped);
        if step == Step::Restart && exited {
            self.give_up_on_step("the process exited again");
            return;
        }
        let failed =
            self.seen.canary.last.as_ref().filter(|c| c.started_at >= since).and_then(|c| c.result.as_ref().err());
        if let (Step::Canary, Some(failure)) = (step, failed) {
            self.give_up_on_step(&failure.to_string());
        }
    }

    fn give_up_on_step(&mut self, evidence: &str) {
        self.plan.waiting = None;
        let note = conclude(&mut self.plan.memory, false, evidence);
        self.plan.notes.push(note);
    }

    /// Our holds at the agent: one owner for each reason, each cleared when its reason is gone.
    fn hold_changes(&self) -> Vec<HoldChange> {
        let Some(service) = self.seen.agent.service() else { return Vec::new() };
        let wanted = [
            (HoldOwner::Suspend, self.seen.will.suspended),
            (HoldOwner::Pause, self.seen.will.paused),
            (HoldOwner::Deferral, self.plan.memory.is_deferred()),
        ];
        wanted
            .into_iter()
            .filter(|(owner, set)| service.report.holds.iter().any(|h| h.owner == *owner) != *set)
            .map(|(owner, set)| HoldChange { owner, set })
            .collect()
    }

    fn pull_and_preload(&mut self) {
        let will = &self.seen.will;
        let service = self.seen.agent.service();
        let disk_full = service.and_then(|s| s.disk_free_percent).is_some_and(|free| free < 5.0);
        if will.suspended || will.paused || will.observe || disk_full {
            return;
        }
        let due = |model: &String| {
            let pull = self.seen.pulls.get(model);
            pull.is_none_or(|p| p.percent.is_none() && p.retry_at.is_none_or(|at| self.now >= at))
        };
        self.plan.pull = self.judged.to_pull.iter().filter(|m| due(m)).cloned().collect();
        let nothing_loaded = self.seen.loaded.as_ref().is_some_and(Vec::is_empty);
        if self.judged.ready && nothing_loaded && self.seen.load.in_flight == 0 {
            self.plan.preload = self.spec.models.iter().find(|m| m.preload).map(|m| m.name.clone());
        }
    }
}

fn same_proof(proof: &Proof, seen: &Seen) -> bool {
    let back = seen.probes.back_since.is_none_or(|back| proof.at >= back);
    proof.generation == seen.generation && proof.instance == seen.agent.instance() && back
}

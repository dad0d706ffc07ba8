//! What to do about a backend: data, so that tests, logs and status read the same thing.
//!
//! [`decide`] judges what was observed and returns the next memory with at most one act. The memory is committed
//! before the act is carried out; what came of it goes back in through [`record`].

mod canary;
mod ladder;
mod step;
mod types;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::LLMBackendSpec,
    engines::ProbeVerdict,
    host::{DiskSpace, HoldOwner},
};

use super::{
    facts::BackendFacts,
    judge::{BackendAssessment, judge},
    limit,
    memory::{AttemptResult, BackendMemory, Episode, RecoveryCause, RecoveryPhase, RecoveryStep, bounded},
    proof,
};

pub use canary::{CanaryOrder, CanaryPlan, Skip, plan_canary};
pub use types::{HoldChange, PlanNote, RecoveryAct, RecoveryOutcome, RecoveryWait, WaitReason};

/// What one pass decided.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendPlan {
    /// To be committed before `act`.
    pub memory: BackendMemory,
    pub act: Option<RecoveryAct>,
    /// Why nothing is done although the backend is not well.
    pub waiting: Option<RecoveryWait>,
    /// An inference that is demanded as a proof, whatever politeness says.
    pub prove: bool,
    /// The inference to send now, or why none.
    pub canary: CanaryPlan,
    /// Something is silent, or may become so: sample the CPU time of the server's processes.
    pub sample_cpu: bool,
    /// Nobody renews the server's slots, and it computes nothing: their calls are over.
    pub free_lapsed: bool,
    /// Models to pull, and names with a context of their own to make.
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

/// Judges, and plans one pass. `id` makes a new episode's id, unique for ever.
pub fn decide(
    spec: &LLMBackendSpec,
    seen: &BackendFacts,
    past: &BackendMemory,
    id: &str,
    now: Timestamp,
) -> (BackendAssessment, BackendPlan) {
    let mut memory = past.clone();
    proof::note(spec, seen, &mut memory, now);
    let judged = judge(spec, seen, &memory, now);
    let mut pass = Pass {
        spec,
        seen,
        judged: &judged,
        id,
        now,
        plan: BackendPlan {
            memory,
            act: None,
            waiting: None,
            prove: judged.needs_proof,
            canary: CanaryPlan::Skip(Skip::NotWanted),
            sample_cpu: false,
            free_lapsed: false,
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
    pass.ask();
    pass.free_lapsed();
    let plan = pass.plan;
    (judged, plan)
}

/// Writes what came of an act into the memory.
pub fn record(memory: &mut BackendMemory, outcome: &RecoveryOutcome, now: Timestamp) -> Option<PlanNote> {
    let episode = memory.episode.as_mut()?;
    let run = episode.running.as_mut()?;
    match outcome {
        RecoveryOutcome::Done => run.phase = RecoveryPhase::Verifying { since: now },
        RecoveryOutcome::Sent { operation } => run.phase = RecoveryPhase::Sent { operation: operation.clone() },
        RecoveryOutcome::Pods(pods) => run.phase = RecoveryPhase::Replacing { left: pods.clone(), waiting: false },
        RecoveryOutcome::PodDeleted => {
            if let RecoveryPhase::Replacing { left, waiting } = &mut run.phase {
                left.remove(0);
                *waiting = true;
            }
        }
        RecoveryOutcome::Unclear { .. } => {}
        RecoveryOutcome::Failed { why } => return Some(conclude(memory, AttemptResult::DidNotHelp, why)),
    }
    None
}

/// Ends the running step.
fn conclude(memory: &mut BackendMemory, result: AttemptResult, evidence: &str) -> PlanNote {
    let episode = memory.episode.as_mut().expect("a step runs only in an episode");
    let run = episode.running.take().expect("only a running step is concluded");
    let (cause, step, evidence) = (episode.cause, run.step, bounded(evidence));
    memory.conclude_attempt(cause, step, result, &evidence);
    match result {
        AttemptResult::Helped => PlanNote::Helped { step, cause, evidence },
        AttemptResult::Inconclusive => PlanNote::Inconclusive { step, cause, evidence },
        AttemptResult::DidNotHelp | AttemptResult::Running | AttemptResult::WouldDo => {
            PlanNote::DidNotHelp { step, cause, evidence }
        }
    }
}

struct Pass<'a> {
    spec: &'a LLMBackendSpec,
    seen: &'a BackendFacts,
    judged: &'a BackendAssessment,
    id: &'a str,
    now: Timestamp,
    plan: BackendPlan,
}

impl Pass<'_> {
    /// What was seen that changes the memory by itself: wishes, the agent's own starts, lack of memory.
    fn take_note(&mut self) {
        let memory = &mut self.plan.memory;
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
            self.tell_blocked(&waiting);
            self.plan.waiting = Some(waiting);
            return;
        }
        if let Some(episode) = &mut self.plan.memory.episode {
            episode.told_blocked = false;
        }
        self.next_step(cause);
    }

    /// Ready means proved: what was served since the step ended is in the proof.
    fn is_well(&mut self) {
        let since = *self.plan.memory.healthy_since.get_or_insert(self.now);
        let Some(episode) = &self.plan.memory.episode else { return };
        if let Some(run) = &episode.running {
            let proof = self.plan.memory.proof.as_ref().filter(|_| proof::is_current(self.seen, &self.plan.memory));
            // It is well without a proof where no model is known that could be asked.
            let (result, evidence) = match (proof, self.served_by_another(run)) {
                (Some(proof), None) => (AttemptResult::Helped, proof.served.clone()),
                (Some(proof), Some(owner)) => (
                    AttemptResult::Inconclusive,
                    format!("{}, but not by what the step started: {owner}", proof.served),
                ),
                (None, _) => {
                    let why = "it answers; no model is known that an inference could be sent to";
                    (AttemptResult::Inconclusive, why.to_owned())
                }
            };
            let note = conclude(&mut self.plan.memory, result, &evidence);
            self.plan.notes.push(note);
        }
        let episode = self.plan.memory.episode.as_mut().expect("it was there a line ago");
        if episode.resolved_at.is_none() {
            episode.resolved_at = Some(self.now);
            episode.told_blocked = false;
            let was_deferred = episode.deferred_at.take().is_some();
            episode.would = None;
            self.plan.notes.push(PlanNote::Recovered { was_deferred });
        }
        let lasted = self.spec.recovery.as_ref().map_or(600, |r| r.min_healthy_seconds);
        if self.now >= since + SignedDuration::from_secs(lasted.into()) {
            self.plan.memory.episode = None;
        }
    }

    fn open_episode(&mut self, cause: RecoveryCause) {
        let evidence = bounded(&format!("{}: {}", cause.as_str(), self.judged.message));
        match &mut self.plan.memory.episode {
            Some(episode) => {
                // It failed again before it was well for long enough: the same episode, and its attempts count on.
                let again = episode.resolved_at.take().is_some();
                if again {
                    episode.since = self.now;
                    episode.waits = 0;
                }
                if again || episode.cause != cause {
                    episode.cause = cause;
                    episode.evidence = evidence;
                    episode.tried.retain(|step| *step == RecoveryStep::Restart);
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
                    told_blocked: false,
                    waits: 0,
                });
            }
        }
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
        let disk_full = service.and_then(|s| s.disk).is_some_and(|disk| disk.is_short_of(DiskSpace::FOR_DOWNLOADS));
        if will.suspended || will.paused || will.observe || disk_full || self.seen.misdeclared.is_some() {
            return;
        }
        let due = |model: &String| self.seen.pulls.get(model).is_none_or(|pull| pull.is_due(self.now));
        self.plan.pull = self.judged.to_pull.iter().filter(|m| due(m)).cloned().collect();
        let nothing_loaded = self.seen.loaded.as_ref().is_some_and(Vec::is_empty);
        if self.judged.ready && nothing_loaded && self.seen.load.in_flight == 0 {
            self.plan.preload =
                self.spec.models.iter().find(|m| m.preload).map(|m| m.own_name(self.spec.engine).into_owned());
        }
    }

    /// The inference to send now, and whether the CPU is to be watched.
    fn ask(&mut self) {
        let seen = self.seen;
        let loaded = |name: &str| proof::is_loaded(self.spec, seen, &self.plan.memory, Some(name));
        let running = self.plan.memory.episode.as_ref().and_then(|e| e.running.as_ref());
        let fresh_after = running.and_then(|run| proof::step_ended_at(seen, run));
        self.plan.canary = plan_canary(self.spec, seen, self.plan.prove, fresh_after, loaded, self.now);
        let silent_probe =
            seen.probes.last.as_ref().is_some_and(|probed| {
                matches!(probed.verdict, ProbeVerdict::Timeout | ProbeVerdict::ServerError { .. })
            });
        // From their first moment: when they have been silent for too long, it must be known what the server did meanwhile.
        let calls = !seen.load.open.is_empty();
        let canary = seen.canary.running_since.is_some() || seen.canary.silent_after(None).0 > 0;
        let asks = matches!(self.plan.canary, CanaryPlan::Send(_));
        let lapsed = seen.load.lapsed_at.is_some();
        self.plan.sample_cpu = silent_probe || calls || canary || asks || lapsed;
    }

    /// The calls of slots that nobody renews are over once the server has computed nothing for a while. Somebody else's work keeps it
    /// busy: then the end of each call stays the bound.
    fn free_lapsed(&mut self) {
        let idle = SignedDuration::from_secs(10);
        let idle_since = self.seen.cpu.idle_since.max(self.seen.load.lapsed_at);
        self.plan.free_lapsed = self.seen.load.lapsed_at.is_some()
            && self.seen.uses_cpu(self.spec, self.now) == Some(false)
            && idle_since.is_some_and(|since| self.now >= since + idle);
    }

    /// Somebody is told when nothing could be done for this long.
    const BLOCKED: SignedDuration = SignedDuration::from_mins(5);

    fn tell_blocked(&mut self, waiting: &RecoveryWait) {
        let episode = self.plan.memory.episode.as_mut().expect("opened just before");
        let blocked = matches!(waiting.why, WaitReason::AgentUnreachable | WaitReason::Storm);
        if !blocked || episode.told_blocked || self.now < episode.since + Self::BLOCKED {
            return;
        }
        episode.told_blocked = true;
        let evidence = bounded(&format!("{}; {}", episode.evidence, waiting.why.describe()));
        self.plan.notes.push(PlanNote::Blocked { evidence });
    }
}

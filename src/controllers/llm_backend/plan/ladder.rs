//! Which step comes next, and whether it may come now.

use jiff::SignedDuration;

use crate::api::{EngineKind, Recovery, number_of};

use super::{
    super::{
        facts::AgentView,
        memory::{AttemptResult, RecoveryAttempt, RecoveryCause, RecoveryPhase, RecoveryRun, RecoveryStep, bounded},
    },
    Pass, PlanNote, RecoveryAct, RecoveryWait, WaitReason,
};

/// Ladders wait this long after the machine slept.
const AFTER_SLEEP: SignedDuration = SignedDuration::from_secs(60);

impl Pass<'_> {
    /// Whom or what keeps us from acting now, if anything does.
    pub(super) fn left_alone(&self) -> Option<RecoveryWait> {
        let will = &self.seen.will;
        let waiting = |why, until| Some(RecoveryWait { why, until });
        if will.suspended {
            return waiting(WaitReason::Suspended, None);
        }
        if will.paused {
            return waiting(WaitReason::Paused, None);
        }
        if let Some(woke) = self.seen.woke_at
            // A clock that was set back since makes it none.
            && woke <= self.now
            && self.now < woke + AFTER_SLEEP
        {
            return waiting(WaitReason::JustWoke, Some(woke + AFTER_SLEEP));
        }
        match &self.seen.agent {
            AgentView::None => None,
            AgentView::Unheard | AgentView::Unreachable { .. } => waiting(WaitReason::AgentUnreachable, None),
            AgentView::Heard(service) if service.report.held() => waiting(WaitReason::Held, None),
            AgentView::Heard(service) if service.report.operation.is_some() => waiting(WaitReason::Operation, None),
            AgentView::Heard(service) => {
                let peers = self.seen.peers;
                let storm = peers.total > 1 && peers.failing * 2 > peers.total;
                let heard_since = peers.failing_since.is_none_or(|since| service.heard_at > since);
                if storm && !heard_since { waiting(WaitReason::Storm, None) } else { None }
            }
        }
    }

    pub(super) fn next_step(&mut self, cause: RecoveryCause) {
        let episode = self.plan.memory.episode.as_ref().expect("opened just before");
        if episode.deferred_at.is_some() {
            self.try_silently(cause);
            return;
        }
        // A restart is bounded by its own numbers, and never given up for good: somebody may have mended what kept it from helping.
        let may_help = |step: &RecoveryStep| {
            let is_vain = episode.tried.contains(step) || self.plan.memory.is_hopeless(cause, *step);
            *step == RecoveryStep::Restart || !is_vain
        };
        let Some(step) = self.ladder(cause).into_iter().find(may_help) else {
            self.defer("nothing that could restart it is declared under recovery");
            return;
        };
        if step == RecoveryStep::Restart && !self.may_restart() {
            return;
        }
        self.begin(step, cause, false);
    }

    /// The steps for a cause, in order.
    pub(super) fn ladder(&self, cause: RecoveryCause) -> Vec<RecoveryStep> {
        let mut steps = Vec::new();
        if cause == RecoveryCause::Hung && self.spec.engine == EngineKind::Ollama {
            steps.push(RecoveryStep::Unload);
        }
        if self.spec.recovery.is_some() {
            steps.push(RecoveryStep::Restart);
        }
        steps
    }

    /// The bounds on restarts. Beyond them a human is told.
    pub(super) fn may_restart(&mut self) -> bool {
        let Some(recovery) = &self.spec.recovery else { return false };
        let memory = &self.plan.memory;
        let episode = memory.episode.as_ref().expect("opened just before");
        if episode.attempts >= recovery.max_attempts {
            let restarts = number_of(episode.attempts, "restart");
            let helped = memory.helped_of_last(episode.attempts, RecoveryStep::Restart);
            let why = match helped {
                0 => format!("{restarts} did not help"),
                _ => format!("{restarts} in a row, {helped} of which helped for a while"),
            };
            self.defer(&format!("{why} (maxAttempts is {})", recovery.max_attempts));
            return false;
        }
        if memory.attempts_in_a_day(self.now) >= usize::try_from(recovery.max_per_day).unwrap_or(usize::MAX) {
            self.defer(&format!(
                "it was restarted {} in 24 hours, which is maxPerDay",
                number_of(recovery.max_per_day, "time")
            ));
            return false;
        }
        let due = episode.last_restart_at.filter(|_| episode.waits > 0).map(|at| at + wait(recovery, episode.waits));
        if let Some(due) = due.filter(|due| self.now < *due) {
            self.plan.waiting = Some(RecoveryWait { why: WaitReason::Period, until: Some(due) });
            return false;
        }
        true
    }

    pub(super) fn defer(&mut self, why: &str) {
        let episode = self.plan.memory.episode.as_mut().expect("opened just before");
        episode.deferred_at = Some(self.now);
        let evidence = bounded(&format!("{why}; {}", episode.evidence));
        episode.evidence = evidence.clone();
        self.plan.notes.push(PlanNote::Deferred { evidence });
    }

    /// One silent attempt each `retryDeferredSeconds`.
    pub(super) fn try_silently(&mut self, cause: RecoveryCause) {
        let Some(recovery) = &self.spec.recovery else { return };
        let episode = self.plan.memory.episode.as_ref().expect("a deferral is part of an episode");
        let last = episode.last_restart_at.max(episode.deferred_at).unwrap_or(self.now);
        let due = last + SignedDuration::from_secs(recovery.retry_deferred_seconds.into());
        if self.now < due {
            self.plan.waiting = Some(RecoveryWait { why: WaitReason::Deferred, until: Some(due) });
            return;
        }
        self.begin(RecoveryStep::Restart, cause, true);
    }

    pub(super) fn begin(&mut self, step: RecoveryStep, cause: RecoveryCause, silent: bool) {
        let now = self.now;
        let memory = &mut self.plan.memory;
        let episode = memory.episode.as_mut().expect("opened just before");
        if self.seen.will.observe {
            if episode.would != Some(step) {
                episode.would = Some(step);
                let evidence = episode.evidence.clone();
                memory.begin_attempt(
                    RecoveryAttempt { at: now, cause, step, result: AttemptResult::WouldDo, evidence },
                    false,
                );
                self.plan.notes.push(PlanNote::WouldDo { step, cause });
            }
            return;
        }
        episode.steps_begun += 1;
        if !episode.tried.contains(&step) {
            episode.tried.push(step);
        }
        if step == RecoveryStep::Restart {
            episode.last_restart_at = Some(now);
            episode.attempts += i32::from(!silent);
            episode.waits += 1;
        }
        let key = format!("{}-{}", episode.id, episode.steps_begun);
        // After an unload, too, the model has to be loaded before it can serve.
        let patience = SignedDuration::from_secs(self.spec.probe.startup_seconds.into());
        let (deadline, phase) = (now + patience, RecoveryPhase::Committed);
        episode.running = Some(RecoveryRun { step, key: key.clone(), started_at: now, deadline, phase, silent });
        let (attempt, evidence) = (episode.attempts, episode.evidence.clone());
        let record =
            RecoveryAttempt { at: now, cause, step, result: AttemptResult::Running, evidence: evidence.clone() };
        memory.begin_attempt(record, step == RecoveryStep::Restart && !silent);
        let most = self.spec.recovery.as_ref().map_or(0, |r: &Recovery| r.max_attempts);
        self.plan.notes.push(PlanNote::Attempt { step, attempt, most, cause, silent });
        match step {
            RecoveryStep::Unload => self.plan.act = Some(RecoveryAct::Unload { key }),
            RecoveryStep::Restart => self.plan.act = Some(RecoveryAct::Restart { key, attempt, cause, evidence }),
        }
    }
}

/// Before the next restart: 10 seconds after the first one, doubling to `periodSeconds`.
fn wait(recovery: &Recovery, restarts: i32) -> SignedDuration {
    const FIRST: SignedDuration = SignedDuration::from_secs(10);
    let doublings = u32::try_from(restarts - 1).unwrap_or(0).min(20);
    (FIRST * 2_i32.pow(doublings)).min(SignedDuration::from_secs(recovery.period_seconds.into()))
}

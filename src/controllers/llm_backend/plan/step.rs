//! A step that is under way.

use jiff::{SignedDuration, Timestamp};

use crate::{engines::Blame, host::ServiceState, store::CallFault};

use super::{
    super::{
        memory::{AttemptResult, PodId, RecoveryPhase, RecoveryRun, RecoveryStep},
        proof,
    },
    Pass, RecoveryAct, RecoveryWait, WaitReason, conclude,
};

impl Pass<'_> {
    /// A step is under way: send it again, follow it, or see whether it helped. It is over only by evidence that began after it
    /// ended; without any it is inconclusive, after twice its time.
    pub(super) fn go_on(&mut self, run: RecoveryRun) {
        self.plan.prove = true;
        let wait = RecoveryWait { why: WaitReason::Step, until: Some(run.deadline) };
        if self.now >= run.deadline {
            let patience = run.deadline.duration_since(run.started_at);
            match self.failure_after(&run) {
                Some(failure) => return self.conclude_step(AttemptResult::DidNotHelp, &failure),
                None if self.now >= run.deadline + patience => {
                    let why = format!("no inference was sent after it: {}", self.judged.message);
                    return self.conclude_step(AttemptResult::Inconclusive, &why);
                }
                None => {}
            }
        }
        if self.judged.cause.is_some()
            && let Some(failure) = self.call_failed_after(&run)
        {
            return self.conclude_step(AttemptResult::DidNotHelp, &failure);
        }
        self.plan.waiting = Some(wait);
        let episode = self.plan.memory.episode.as_ref().expect("a step runs only in an episode");
        self.plan.act = match &run.phase {
            RecoveryPhase::Committed if self.left_alone_hard() => None,
            RecoveryPhase::Committed => Some(match run.step {
                RecoveryStep::Unload => RecoveryAct::Unload { key: run.key },
                RecoveryStep::Restart => RecoveryAct::Restart {
                    key: run.key,
                    attempt: episode.attempts,
                    cause: episode.cause,
                    evidence: episode.evidence.clone(),
                },
            }),
            RecoveryPhase::Sent { operation } => Some(RecoveryAct::Follow { operation: operation.clone() }),
            RecoveryPhase::Replacing { left, waiting } => self.replace_next(left, *waiting),
            RecoveryPhase::Verifying { since } => {
                self.verify(run.step, *since);
                None
            }
        };
    }

    /// A step that was committed and perhaps not sent is not sent once somebody wants it left alone.
    pub(super) fn left_alone_hard(&self) -> bool {
        self.seen.will.suspended || self.seen.will.paused || self.seen.will.observe
    }

    pub(super) fn replace_next(&mut self, left: &[PodId], waiting: bool) -> Option<RecoveryAct> {
        // What can't be seen is awaited too: a second pod less may be the last.
        let replaced = self.seen.workload.as_ref().is_some_and(|workload| workload.is_replaced_but_for(left));
        if waiting && !replaced && !left.is_empty() {
            return None;
        }
        match left.first() {
            Some(pod) => Some(RecoveryAct::DeletePod { pod: pod.clone() }),
            None => {
                let run = self.plan.memory.episode.as_mut().and_then(|e| e.running.as_mut());
                run.expect("it is being replaced").phase = RecoveryPhase::Verifying { since: self.now };
                None
            }
        }
    }

    /// Over before its time: the process that was started is gone again.
    pub(super) fn verify(&mut self, step: RecoveryStep, since: Timestamp) {
        let exited = self.seen.agent.service().filter(|s| s.heard_at > since).is_some_and(|s| {
            s.report.state == ServiceState::Stopped
                && s.exited_at.is_none_or(|at| at >= since)
                && s.report.operation.is_none()
                // What left its first process behind goes on elsewhere.
                && !s.exited_at.is_some_and(|at| self.answered_after(at))
        });
        if step == RecoveryStep::Restart && exited {
            let why = format!("the process exited again: {}", self.judged.message);
            self.conclude_step(AttemptResult::DidNotHelp, &why);
        }
    }

    /// Who serves in place of the process that a restart made: something that the agent did not start has the port.
    pub(super) fn served_by_another(&self, run: &RecoveryRun) -> Option<String> {
        let report = &self.seen.agent.service()?.report;
        let foreign = run.step == RecoveryStep::Restart && report.state == ServiceState::Foreign;
        foreign.then(|| report.last_failure.clone().unwrap_or_else(|| "another process has its port".to_owned()))
    }

    fn answered_after(&self, at: Timestamp) -> bool {
        self.seen.probes.last_good.as_ref().is_some_and(|good| good.at > at)
    }

    /// What shows at its deadline that the step did not help: a failed call, or that nothing came up.
    fn failure_after(&self, run: &RecoveryRun) -> Option<String> {
        if !matches!(run.phase, RecoveryPhase::Verifying { .. }) {
            return Some(format!("it did not end in time: {}", self.judged.message));
        }
        let silent = self.seen.probes.answering == Some(false) && self.seen.canary.running_since.is_none();
        self.call_failed_after(run).or_else(|| silent.then(|| format!("it did not come up: {}", self.judged.message)))
    }

    /// A call that began after the step ended, and failed or got no answer.
    fn call_failed_after(&self, run: &RecoveryRun) -> Option<String> {
        let since = proof::step_ended_at(self.seen, run)?;
        // A new process may load its model for that long, and says 503 meanwhile.
        let may_load = self.now < since + SignedDuration::from_secs(self.spec.probe.startup_seconds.into());
        let failed = self.seen.canary.failure_from(since).filter(|(_, why)| !may_load || why.fault() != Blame::Full);
        if let Some((_, failure)) = failed {
            return Some(format!("an inference failed after it: {failure}"));
        }
        let faults = [CallFault::Failed, CallFault::OutOfMemory, CallFault::ModelTooLarge, CallFault::Full];
        let faults = if may_load { &faults[..3] } else { &faults };
        let failures = self.seen.evidence.failures(Some(since), self.now, faults);
        let after = failures.iter().rev().find(|call| call.began_at >= since)?;
        Some(format!("{} failed after it: {}", after.request, after.message))
    }

    fn conclude_step(&mut self, result: AttemptResult, evidence: &str) {
        self.plan.waiting = None;
        let note = conclude(&mut self.plan.memory, result, evidence);
        self.plan.notes.push(note);
    }
}

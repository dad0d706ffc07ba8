//! A step that is under way.

use jiff::{SignedDuration, Timestamp};

use super::{
    super::memory::{PodId, Run, RunPhase, Step},
    Act, Pass, Waiting, Why, conclude,
};

impl Pass<'_> {
    /// A step is under way: send it again, follow it, or see whether it helped.
    pub(super) fn go_on(&mut self, run: Run) {
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
    pub(super) fn left_alone_hard(&self) -> bool {
        self.seen.will.suspended || self.seen.will.paused || self.seen.will.observe
    }

    pub(super) fn replace_next(&mut self, left: &[PodId], waiting: bool) -> Option<Act> {
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
    pub(super) fn verify(&mut self, step: Step, since: Timestamp) {
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

    pub(super) fn give_up_on_step(&mut self, evidence: &str) {
        self.plan.waiting = None;
        let note = conclude(&mut self.plan.memory, false, evidence);
        self.plan.notes.push(note);
    }
}

//! The state machine of a task: which event is allowed in which state, and what it changes. Whatever writes tasks, in
//! whichever database, does what [`step`] says.
//!
//! | event | in | to |
//! |---|---|---|
//! | assign, unassign | pending | pending |
//! | claim | pending, assigned, due, before its deadline | in progress, epoch + 1 |
//! | claim refused (by the database, for good) | pending, assigned | deferred, an attempt used; epoch + 1 |
//! | end (completed, retry, requeue, failed, deferred, cancelled) | in progress, same epoch | as it says; epoch stays |
//! | lease lost | in progress | pending, or deferred for the third time; epoch + 1 |
//! | lease closed | in progress | pending, no attempt used; epoch + 1 |
//! | deadline passed | pending | failed |
//! | cancel | pending, in progress, deferred | cancelled; when it ran, epoch + 1 |
//! | reassign | pending, deferred | pending; from deferred in a new cycle |
//! | resume | deferred | pending, in a new cycle |
//! | close | deferred | failed |
//! | retry | completed, failed, cancelled | pending, in a new cycle |
//! | purge | completed, failed, cancelled | gone |
//!
//! A new cycle counts from zero, is due at once, and forgets a deadline that has passed. Within a cycle each execution is
//! counted once it has ended: as an attempt used, as a free requeue, or as a lease lost.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{DEFERRING_LOST_LEASES, Task, TaskState, Verdict};

/// What the machine reads and writes of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub state: TaskState,
    /// It has an expert, and the model that its calls go to if they go to one.
    pub assigned: bool,
    pub run_after: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
    pub attempts_used: i32,
    pub free_requeues: i32,
    pub leases_lost: i32,
    pub cycle: i32,
    pub epoch: i64,
}

/// How an execution ended, without its words and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Completed,
    Retry { after: Duration },
    Requeue { after: Duration },
    Failed,
    DeferredToHuman,
    Cancelled,
}

/// What happens to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// It gets an expert, or its expert's model.
    Assign,
    /// Its expert is suspended or gone.
    Unassign,
    Claim,
    /// The database refuses, for good, to write that it is claimed.
    ClaimRefused,
    End {
        epoch: i64,
        end: End,
    },
    /// The lease that it was claimed under lapsed.
    LeaseLost,
    /// The lease that it was claimed under was ended by its holder.
    LeaseClosed,
    DeadlinePassed,
    Cancel,
    Retry,
    Resume,
    Reassign,
    Close,
    Purge,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    Is(Life),
    /// Deleted, key and all.
    Gone,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionRefused {
    #[error("it is {}", .0.as_str())]
    State(TaskState),
    #[error("its epoch is {is}, not {given}: it was taken away meanwhile")]
    OldEpoch { is: i64, given: i64 },
    #[error("nobody is assigned")]
    NotAssigned,
    #[error("somebody is assigned already")]
    AlreadyAssigned,
    #[error("it is to run after {0}")]
    NotDue(Timestamp),
    #[error("its deadline {0} has passed")]
    PastDeadline(Timestamp),
    #[error("it has no deadline that has passed")]
    BeforeDeadline,
}

impl Life {
    /// Of a task that was just given in.
    pub const fn new(run_after: Option<Timestamp>, deadline: Option<Timestamp>) -> Self {
        Self {
            state: TaskState::Pending,
            assigned: false,
            run_after,
            deadline,
            attempts_used: 0,
            free_requeues: 0,
            leases_lost: 0,
            cycle: 1,
            epoch: 0,
        }
    }

    /// Of a task as it is stored. One that names its expert is assigned once somebody gave a reason.
    pub const fn of(task: &Task) -> Self {
        Self {
            state: task.state,
            assigned: task.expert.is_some() && task.assignment_reason.is_some(),
            run_after: task.run_after,
            deadline: task.deadline,
            attempts_used: task.attempts_used,
            free_requeues: task.free_requeues,
            leases_lost: task.leases_lost,
            cycle: task.cycle,
            epoch: task.epoch,
        }
    }

    /// Executions that ended in this cycle.
    pub const fn counted(&self) -> i32 {
        self.attempts_used + self.free_requeues + self.leases_lost
    }

    const fn is(self, state: TaskState) -> Self {
        Self { state, ..self }
    }

    const fn used(self) -> Self {
        Self { attempts_used: self.attempts_used + 1, ..self }
    }

    const fn given_back(self) -> Self {
        Self { free_requeues: self.free_requeues + 1, ..self }
    }

    const fn taken_away(self) -> Self {
        Self { epoch: self.epoch + 1, ..self }
    }

    fn after(self, wait: Duration, now: Timestamp) -> Self {
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        Self { run_after: Some(now.checked_add(wait).unwrap_or(Timestamp::MAX)), ..self }
    }

    fn anew(self, now: Timestamp) -> Self {
        Self {
            state: TaskState::Pending,
            run_after: None,
            deadline: self.deadline.filter(|deadline| now < *deadline),
            attempts_used: 0,
            free_requeues: 0,
            leases_lost: 0,
            cycle: self.cycle + 1,
            ..self
        }
    }
}

impl From<&Verdict> for End {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Completed { .. } => Self::Completed,
            Verdict::Retry { after, .. } => Self::Retry { after: *after },
            Verdict::Requeue { after, .. } => Self::Requeue { after: *after },
            Verdict::Failed { .. } => Self::Failed,
            Verdict::DeferredToHuman { .. } => Self::DeferredToHuman,
            Verdict::Cancelled { .. } => Self::Cancelled,
        }
    }
}

/// What an event does to a task at `now`, or why nothing.
pub fn step(life: &Life, event: TaskEvent, now: Timestamp) -> Result<Transition, TransitionRefused> {
    use TaskState::{Cancelled, Completed, DeferredToHuman, Failed, InProgress, Pending};
    let life = *life;
    let next = match (event, life.state) {
        (TaskEvent::Assign, Pending) if life.assigned => return Err(TransitionRefused::AlreadyAssigned),
        (TaskEvent::Assign, Pending) => Life { assigned: true, ..life },
        (TaskEvent::Unassign, Pending) if !life.assigned => return Err(TransitionRefused::NotAssigned),
        (TaskEvent::Unassign, Pending) => Life { assigned: false, ..life },
        (TaskEvent::Claim, Pending) => claim(life, now)?,
        (TaskEvent::ClaimRefused, Pending) if !life.assigned => return Err(TransitionRefused::NotAssigned),
        (TaskEvent::ClaimRefused, Pending) => life.used().taken_away().is(DeferredToHuman),
        (TaskEvent::End { epoch, .. }, InProgress) if epoch != life.epoch => {
            return Err(TransitionRefused::OldEpoch { is: life.epoch, given: epoch });
        }
        (TaskEvent::End { end, .. }, InProgress) => ended(life, end, now),
        (TaskEvent::LeaseLost, InProgress) => {
            let lost = Life { leases_lost: life.leases_lost + 1, ..life }.taken_away();
            lost.is(if lost.leases_lost >= DEFERRING_LOST_LEASES { DeferredToHuman } else { Pending })
        }
        (TaskEvent::LeaseClosed, InProgress) => life.given_back().taken_away().is(Pending),
        (TaskEvent::DeadlinePassed, Pending) if life.deadline.is_none_or(|deadline| now < deadline) => {
            return Err(TransitionRefused::BeforeDeadline);
        }
        (TaskEvent::DeadlinePassed, Pending) => life.is(Failed),
        (TaskEvent::Cancel, InProgress) => life.given_back().taken_away().is(Cancelled),
        (TaskEvent::Cancel, Pending | DeferredToHuman) => life.is(Cancelled),
        (TaskEvent::Reassign, Pending) => Life { assigned: true, ..life },
        (TaskEvent::Reassign, DeferredToHuman) => Life { assigned: true, ..life.anew(now) },
        (TaskEvent::Resume, DeferredToHuman) | (TaskEvent::Retry, Completed | Failed | Cancelled) => life.anew(now),
        (TaskEvent::Close, DeferredToHuman) => life.is(Failed),
        (TaskEvent::Purge, Completed | Failed | Cancelled) => return Ok(Transition::Gone),
        (_, state) => return Err(TransitionRefused::State(state)),
    };
    Ok(Transition::Is(next))
}

fn claim(life: Life, now: Timestamp) -> Result<Life, TransitionRefused> {
    if !life.assigned {
        return Err(TransitionRefused::NotAssigned);
    }
    if let Some(deadline) = life.deadline.filter(|deadline| *deadline <= now) {
        return Err(TransitionRefused::PastDeadline(deadline));
    }
    if let Some(run_after) = life.run_after.filter(|run_after| now < *run_after) {
        return Err(TransitionRefused::NotDue(run_after));
    }
    Ok(Life { epoch: life.epoch + 1, ..life.is(TaskState::InProgress) })
}

fn ended(life: Life, end: End, now: Timestamp) -> Life {
    match end {
        End::Completed => life.used().is(TaskState::Completed),
        End::Retry { after } => life.used().after(after, now).is(TaskState::Pending),
        End::Requeue { after } => life.given_back().after(after, now).is(TaskState::Pending),
        End::Failed => life.used().is(TaskState::Failed),
        End::DeferredToHuman => life.used().is(TaskState::DeferredToHuman),
        End::Cancelled => life.given_back().is(TaskState::Cancelled),
    }
}

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
pub enum Event {
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
pub enum Next {
    Is(Life),
    /// Deleted, key and all.
    Gone,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
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
pub fn step(life: &Life, event: Event, now: Timestamp) -> Result<Next, Refusal> {
    use TaskState::{Cancelled, Completed, DeferredToHuman, Failed, InProgress, Pending};
    let life = *life;
    let next = match (event, life.state) {
        (Event::Assign, Pending) if life.assigned => return Err(Refusal::AlreadyAssigned),
        (Event::Assign, Pending) => Life { assigned: true, ..life },
        (Event::Unassign, Pending) if !life.assigned => return Err(Refusal::NotAssigned),
        (Event::Unassign, Pending) => Life { assigned: false, ..life },
        (Event::Claim, Pending) => claim(life, now)?,
        (Event::ClaimRefused, Pending) if !life.assigned => return Err(Refusal::NotAssigned),
        (Event::ClaimRefused, Pending) => life.used().taken_away().is(DeferredToHuman),
        (Event::End { epoch, .. }, InProgress) if epoch != life.epoch => {
            return Err(Refusal::OldEpoch { is: life.epoch, given: epoch });
        }
        (Event::End { end, .. }, InProgress) => ended(life, end, now),
        (Event::LeaseLost, InProgress) => {
            let lost = Life { leases_lost: life.leases_lost + 1, ..life }.taken_away();
            lost.is(if lost.leases_lost >= DEFERRING_LOST_LEASES { DeferredToHuman } else { Pending })
        }
        (Event::LeaseClosed, InProgress) => life.given_back().taken_away().is(Pending),
        (Event::DeadlinePassed, Pending) if life.deadline.is_none_or(|deadline| now < deadline) => {
            return Err(Refusal::BeforeDeadline);
        }
        (Event::DeadlinePassed, Pending) => life.is(Failed),
        (Event::Cancel, InProgress) => life.given_back().taken_away().is(Cancelled),
        (Event::Cancel, Pending | DeferredToHuman) => life.is(Cancelled),
        (Event::Reassign, Pending) => Life { assigned: true, ..life },
        (Event::Reassign, DeferredToHuman) => Life { assigned: true, ..life.anew(now) },
        (Event::Resume, DeferredToHuman) | (Event::Retry, Completed | Failed | Cancelled) => life.anew(now),
        (Event::Close, DeferredToHuman) => life.is(Failed),
        (Event::Purge, Completed | Failed | Cancelled) => return Ok(Next::Gone),
        (_, state) => return Err(Refusal::State(state)),
    };
    Ok(Next::Is(next))
}

fn claim(life: Life, now: Timestamp) -> Result<Life, Refusal> {
    if !life.assigned {
        return Err(Refusal::NotAssigned);
    }
    if let Some(deadline) = life.deadline.filter(|deadline| *deadline <= now) {
        return Err(Refusal::PastDeadline(deadline));
    }
    if let Some(run_after) = life.run_after.filter(|run_after| now < *run_after) {
        return Err(Refusal::NotDue(run_after));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn life(state: TaskState) -> Life {
        Life { assigned: true, epoch: 7, attempts_used: 1, ..Life::new(None, None) }.is(state)
    }

    const AFTER: Duration = Duration::from_secs(10);

    fn every_event() -> Vec<Event> {
        let end = |end| Event::End { epoch: 7, end };
        vec![
            Event::Assign,
            Event::Unassign,
            Event::Claim,
            Event::ClaimRefused,
            end(End::Completed),
            end(End::Retry { after: AFTER }),
            end(End::Requeue { after: AFTER }),
            end(End::Failed),
            end(End::DeferredToHuman),
            end(End::Cancelled),
            Event::LeaseLost,
            Event::LeaseClosed,
            Event::DeadlinePassed,
            Event::Cancel,
            Event::Retry,
            Event::Resume,
            Event::Reassign,
            Event::Close,
            Event::Purge,
        ]
    }

    /// The whole table: each state with each event, in the order of `every_event`; `-` is refused.
    #[test]
    fn each_state_allows_what_the_table_says_and_nothing_else() {
        use TaskState::*;
        let table = [
            // asg una clm refused  end: ok retry requeue fail defer cancel | lost closed deadline | cancel retry resume reassign close purge
            (Pending, "- P I D - - - - - - - - - X - - P - -"),
            (InProgress, "- - - - C P P F D X P P - X - - - - -"),
            (Completed, "- - - - - - - - - - - - - - P - - - gone"),
            (Failed, "- - - - - - - - - - - - - - P - - - gone"),
            (Cancelled, "- - - - - - - - - - - - - - P - - - gone"),
            (DeferredToHuman, "- - - - - - - - - - - - - X - P P F -"),
        ];
        for (state, row) in table {
            for (event, word) in every_event().into_iter().zip(row.split(' ')) {
                let shown = match step(&life(state), event, at(100)) {
                    Err(_) => "-",
                    Ok(Next::Gone) => "gone",
                    Ok(Next::Is(next)) => match next.state {
                        Pending => "P",
                        InProgress => "I",
                        Completed => "C",
                        Failed => "F",
                        Cancelled => "X",
                        DeferredToHuman => "D",
                    },
                };
                assert_eq!(shown, word, "{state:?} at {event:?}");
            }
        }
    }

    #[test]
    fn a_claim_needs_an_expert_the_time_and_the_deadline_to_come() {
        let pending = life(TaskState::Pending);
        for (life, refused) in [
            (Life { assigned: false, ..pending }, Some(Refusal::NotAssigned)),
            (Life { run_after: Some(at(101)), ..pending }, Some(Refusal::NotDue(at(101)))),
            (Life { run_after: Some(at(100)), ..pending }, None),
            (Life { deadline: Some(at(100)), ..pending }, Some(Refusal::PastDeadline(at(100)))),
            (Life { deadline: Some(at(101)), ..pending }, None),
        ] {
            let answer = step(&life, Event::Claim, at(100));
            assert_eq!(answer.err(), refused, "{life:?}");
        }
    }

    #[test]
    fn what_comes_late_changes_nothing() {
        let event = Event::End { epoch: 6, end: End::Completed };
        let refusal = step(&life(TaskState::InProgress), event, at(100));
        assert_eq!(refusal, Err(Refusal::OldEpoch { is: 7, given: 6 }));
    }

    #[test]
    fn each_end_is_counted_as_what_it_is() {
        let end = |end| Event::End { epoch: 7, end };
        // (event, attempts used, free requeues, leases lost, epoch) from (1, 0, 0, 7)
        for (event, counted) in [
            (end(End::Completed), (2, 0, 0, 7)),
            (end(End::Retry { after: AFTER }), (2, 0, 0, 7)),
            (end(End::Requeue { after: AFTER }), (1, 1, 0, 7)),
            (end(End::Failed), (2, 0, 0, 7)),
            (end(End::DeferredToHuman), (2, 0, 0, 7)),
            (end(End::Cancelled), (1, 1, 0, 7)),
            (Event::LeaseLost, (1, 0, 1, 8)),
            (Event::LeaseClosed, (1, 1, 0, 8)),
            (Event::Cancel, (1, 1, 0, 8)),
        ] {
            let Ok(Next::Is(next)) = step(&life(TaskState::InProgress), event, at(100)) else {
                panic!("{event:?} is refused");
            };
            assert_eq!((next.attempts_used, next.free_requeues, next.leases_lost, next.epoch), counted, "{event:?}");
        }
    }

    #[test]
    fn the_third_lost_lease_is_a_humans() {
        let mut task = life(TaskState::InProgress);
        for (lost, state) in [(1, TaskState::Pending), (2, TaskState::Pending), (3, TaskState::DeferredToHuman)] {
            let Ok(Next::Is(next)) = step(&task, Event::LeaseLost, at(100)) else { panic!("refused") };
            assert_eq!((next.leases_lost, next.state), (lost, state));
            task = next.is(TaskState::InProgress);
        }
    }

    #[test]
    fn a_new_cycle_counts_from_zero_and_forgets_a_passed_deadline() {
        let deferred = Life {
            deadline: Some(at(50)),
            run_after: Some(at(900)),
            leases_lost: 3,
            free_requeues: 2,
            ..life(TaskState::DeferredToHuman)
        };
        for event in [Event::Resume, Event::Reassign] {
            let Ok(Next::Is(next)) = step(&deferred, event, at(100)) else { panic!("refused") };
            assert_eq!((next.counted(), next.cycle, next.epoch), (0, 2, 7), "{event:?}");
            assert_eq!((next.deadline, next.run_after), (None, None), "{event:?}");
        }
        let Ok(Next::Is(next)) = step(&Life { deadline: Some(at(101)), ..deferred }, Event::Resume, at(100)) else {
            panic!("refused")
        };
        assert_eq!(next.deadline, Some(at(101)), "one that is still to come holds");
    }

    fn an_event() -> impl Strategy<Value = (usize, i64, i64)> {
        (0..every_event().len(), 0_i64..3, 0_i64..30)
    }

    proptest! {
        /// Epochs and cycles only rise; what is not pending or deferred never changes its assignment; every claim that ended
        /// is counted in its cycle; one terminal transition in a cycle.
        #[test]
        fn whatever_happens_counts_add_up(events in proptest::collection::vec(an_event(), 1..200)) {
            let mut task = Life::new(None, Some(at(2_000)));
            let (mut now, mut executions, mut ended_in_cycle) = (0, 0, 0);
            for (which, epochs_ago, seconds) in events {
                now += seconds;
                let event = match every_event()[which] {
                    Event::End { end, .. } => Event::End { epoch: task.epoch - epochs_ago, end },
                    event => event,
                };
                let before = task;
                match step(&task, event, at(now)) {
                    Err(_) => continue,
                    Ok(Next::Gone) => { prop_assert!(before.state.is_terminal()); break }
                    Ok(Next::Is(next)) => task = next,
                }
                prop_assert!(task.epoch >= before.epoch && task.epoch <= before.epoch + 1);
                prop_assert!(task.cycle == before.cycle || task.cycle == before.cycle + 1);
                if task.cycle > before.cycle {
                    (executions, ended_in_cycle) = (0, 0);
                }
                if event == Event::Claim {
                    executions += 1;
                    prop_assert!(task.epoch > before.epoch);
                }
                // It uses an attempt without an execution.
                executions += i32::from(event == Event::ClaimRefused);
                if task.state.is_terminal() && !before.state.is_terminal() {
                    ended_in_cycle += 1;
                    prop_assert_eq!(ended_in_cycle, 1);
                }
                let running = i32::from(task.state == TaskState::InProgress);
                prop_assert_eq!(executions, task.counted() + running, "{:?}", event);
                prop_assert!(task.leases_lost <= DEFERRING_LOST_LEASES);
            }
        }
    }
}

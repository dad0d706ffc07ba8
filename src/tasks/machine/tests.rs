use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn life(state: TaskState) -> Life {
    Life { assigned: true, epoch: 7, attempts_used: 1, ..Life::new(None, None) }.is(state)
}

const AFTER: Duration = Duration::from_secs(10);

fn every_event() -> Vec<TaskEvent> {
    let end = |end| TaskEvent::End { epoch: 7, end };
    vec![
        TaskEvent::Assign,
        TaskEvent::Unassign,
        TaskEvent::Claim,
        TaskEvent::ClaimRefused,
        end(End::Completed),
        end(End::Retry { after: AFTER }),
        end(End::Requeue { after: AFTER }),
        end(End::Failed),
        end(End::DeferredToHuman),
        end(End::Cancelled),
        TaskEvent::LeaseLost,
        TaskEvent::LeaseClosed,
        TaskEvent::DeadlinePassed,
        TaskEvent::Cancel,
        TaskEvent::Retry,
        TaskEvent::Resume,
        TaskEvent::Reassign,
        TaskEvent::Close,
        TaskEvent::Purge,
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
                Ok(Transition::Gone) => "gone",
                Ok(Transition::Is(next)) => match next.state {
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
        (Life { assigned: false, ..pending }, Some(TransitionRefused::NotAssigned)),
        (Life { run_after: Some(at(101)), ..pending }, Some(TransitionRefused::NotDue(at(101)))),
        (Life { run_after: Some(at(100)), ..pending }, None),
        (Life { deadline: Some(at(100)), ..pending }, Some(TransitionRefused::PastDeadline(at(100)))),
        (Life { deadline: Some(at(101)), ..pending }, None),
    ] {
        let answer = step(&life, TaskEvent::Claim, at(100));
        assert_eq!(answer.err(), refused, "{life:?}");
    }
}

#[test]
fn what_comes_late_changes_nothing() {
    let event = TaskEvent::End { epoch: 6, end: End::Completed };
    let refusal = step(&life(TaskState::InProgress), event, at(100));
    assert_eq!(refusal, Err(TransitionRefused::OldEpoch { is: 7, given: 6 }));
}

#[test]
fn each_end_is_counted_as_what_it_is() {
    let end = |end| TaskEvent::End { epoch: 7, end };
    // (event, attempts used, free requeues, leases lost, epoch) from (1, 0, 0, 7)
    for (event, counted) in [
        (end(End::Completed), (2, 0, 0, 7)),
        (end(End::Retry { after: AFTER }), (2, 0, 0, 7)),
        (end(End::Requeue { after: AFTER }), (1, 1, 0, 7)),
        (end(End::Failed), (2, 0, 0, 7)),
        (end(End::DeferredToHuman), (2, 0, 0, 7)),
        (end(End::Cancelled), (1, 1, 0, 7)),
        (TaskEvent::LeaseLost, (1, 0, 1, 8)),
        (TaskEvent::LeaseClosed, (1, 1, 0, 8)),
        (TaskEvent::Cancel, (1, 1, 0, 8)),
    ] {
        let Ok(Transition::Is(next)) = step(&life(TaskState::InProgress), event, at(100)) else {
            panic!("{event:?} is refused");
        };
        assert_eq!((next.attempts_used, next.free_requeues, next.leases_lost, next.epoch), counted, "{event:?}");
    }
}

#[test]
fn the_third_lost_lease_is_a_humans() {
    let mut task = life(TaskState::InProgress);
    for (lost, state) in [(1, TaskState::Pending), (2, TaskState::Pending), (3, TaskState::DeferredToHuman)] {
        let Ok(Transition::Is(next)) = step(&task, TaskEvent::LeaseLost, at(100)) else { panic!("refused") };
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
    for event in [TaskEvent::Resume, TaskEvent::Reassign] {
        let Ok(Transition::Is(next)) = step(&deferred, event, at(100)) else { panic!("refused") };
        assert_eq!((next.counted(), next.cycle, next.epoch), (0, 2, 7), "{event:?}");
        assert_eq!((next.deadline, next.run_after), (None, None), "{event:?}");
    }
    let Ok(Transition::Is(next)) = step(&Life { deadline: Some(at(101)), ..deferred }, TaskEvent::Resume, at(100))
    else {
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
                TaskEvent::End { end, .. } => TaskEvent::End { epoch: task.epoch - epochs_ago, end },
                event => event,
            };
            let before = task;
            match step(&task, event, at(now)) {
                Err(_) => continue,
                Ok(Transition::Gone) => { prop_assert!(before.state.is_terminal()); break }
                Ok(Transition::Is(next)) => task = next,
            }
            prop_assert!(task.epoch >= before.epoch && task.epoch <= before.epoch + 1);
            prop_assert!(task.cycle == before.cycle || task.cycle == before.cycle + 1);
            if task.cycle > before.cycle {
                (executions, ended_in_cycle) = (0, 0);
            }
            if event == TaskEvent::Claim {
                executions += 1;
                prop_assert!(task.epoch > before.epoch);
            }
            // It uses an attempt without an execution.
            executions += i32::from(event == TaskEvent::ClaimRefused);
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

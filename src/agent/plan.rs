//! What the agent's own loop does about a service: pure, from what one check saw.

use crate::{
    agent::keep::ServiceRecord,
    api::RestartPolicy,
    host::{Hold, HoldOwner, LastExit},
};
use jiff::Timestamp;
use strum::IntoStaticStr;

/// After so many failed starts in a row the loop waits for a passing check or for somebody who asks.
pub const MAX_FAILED_STARTS: u32 = 5;

/// How many checks must fail, with no controller caring, before the loop acts.
pub const FAILING_CHECKS: u32 = 2;

/// When the check was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The agent itself has just started: what is down is started at once.
    AgentStart,
    /// One of the checks each `selfCheckSeconds`.
    Periodic,
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum ServiceObserved {
    /// It runs, and its check passes or there is none.
    Up,
    /// It runs, has not passed a check since it was started, and its time to start is not over.
    Starting,
    /// It runs, and its check fails.
    Failing,
    /// The same, while its processes use the CPU: it may be busy with long work.
    Busy,
    /// It does not run.
    Down,
    /// Another process has its port, and the file does not permit taking over.
    Foreign,
}

impl ServiceObserved {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What one check saw, and what is known from before.
#[derive(Clone, Copy, Debug)]
pub struct ServiceAssessment<'a> {
    pub occasion: Occasion,
    pub seen: ServiceObserved,
    pub holds: &'a [Hold],
    /// A controller has said that it looks after this service, and the time it named is not over.
    pub cared_for: bool,
    /// Failing checks in a row without care, this one among them.
    pub failing: u32,
    pub failed_starts: u32,
    pub restart: RestartPolicy,
    /// How the last process ended, if that was since the host booted: a shutdown also ends processes cleanly.
    pub last_exit: Option<&'a LastExit>,
}

/// What to do about it: data, so that tests, logs and `--observe` read the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceDecision {
    Nothing,
    Leave(Leave),
    /// Start what does not run.
    Start,
    /// Stop what fails its checks, and start it.
    Restart,
}

impl ServiceDecision {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Leave(why) => why.as_str(),
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }
}

/// Why a service that is not up is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Held(HoldOwner),
    ToController,
    Foreign,
    Starting,
    Busy,
    /// One failing check is no failure yet.
    AskAgain,
    /// `restart: OnFailure`, and it ended cleanly.
    EndedCleanly,
    GaveUp,
}

impl Leave {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held(HoldOwner::Person) => "held by a person",
            Self::Held(HoldOwner::Suspend) => "held: suspended",
            Self::Held(HoldOwner::Pause) => "held: paused",
            Self::Held(HoldOwner::Deferral) => "held: deferred to a human",
            Self::ToController => "a controller manages it",
            Self::Foreign => "another process has its port",
            Self::Starting => "it is starting",
            Self::Busy => "its processes are at work",
            Self::AskAgain => "only one check failed so far",
            Self::EndedCleanly => "it ended cleanly",
            Self::GaveUp => "five starts in a row failed",
        }
    }
}

/// Holds that have not run out.
pub fn active(holds: &[Hold], now: Timestamp) -> impl Iterator<Item = &Hold> {
    holds.iter().filter(move |h| h.until.is_none_or(|until| now < until))
}

/// Whether a start by the agent's own loop is one after a failure, which a controller counts as an attempt: the first one of an
/// agent, of what never ran or was left in good order, is not.
pub fn is_attempt(occasion: Occasion, seen: ServiceObserved, memory: &ServiceRecord) -> bool {
    let ended = memory.last_exit.is_some() && memory.last_exit_of.is_some();
    let failed = ended || memory.last_failure.is_some() || memory.failed_starts_in_row > 0;
    occasion != Occasion::AgentStart || seen != ServiceObserved::Down || failed
}

/// Whether a process ended as somebody wished, by systemd's rule: exit code 0, or SIGHUP, SIGINT, SIGPIPE, SIGTERM.
pub fn ended_cleanly(exit: &LastExit) -> bool {
    const CLEAN_SIGNALS: [i32; 4] = [1, 2, 13, 15];
    if exit.unknown || exit.out_of_memory {
        return false;
    }
    exit.code == Some(0) || exit.signal.is_some_and(|s| CLEAN_SIGNALS.contains(&s))
}

/// A person's will comes first, then who else cares, then what is wrong.
pub fn decide(view: &ServiceAssessment<'_>, now: Timestamp) -> ServiceDecision {
    let act = match view.seen {
        ServiceObserved::Up => return ServiceDecision::Nothing,
        ServiceObserved::Foreign => return ServiceDecision::Leave(Leave::Foreign),
        ServiceObserved::Starting => return ServiceDecision::Leave(Leave::Starting),
        ServiceObserved::Down => ServiceDecision::Start,
        ServiceObserved::Failing | ServiceObserved::Busy => ServiceDecision::Restart,
    };
    if let Some(hold) = active(view.holds, now).min_by_key(|h| h.owner) {
        return ServiceDecision::Leave(Leave::Held(hold.owner));
    }
    let at_once = view.occasion == Occasion::AgentStart && view.seen == ServiceObserved::Down;
    if !at_once && view.cared_for {
        return ServiceDecision::Leave(Leave::ToController);
    }
    if view.seen == ServiceObserved::Busy {
        return ServiceDecision::Leave(Leave::Busy);
    }
    let clean = view.last_exit.is_some_and(ended_cleanly);
    if view.seen == ServiceObserved::Down && view.restart == RestartPolicy::OnFailure && clean {
        return ServiceDecision::Leave(Leave::EndedCleanly);
    }
    if view.failed_starts >= MAX_FAILED_STARTS {
        return ServiceDecision::Leave(Leave::GaveUp);
    }
    if !at_once && view.failing < FAILING_CHECKS {
        return ServiceDecision::Leave(Leave::AskAgain);
    }
    act
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T02:00:00Z".parse().unwrap()
    }

    fn hold(owner: HoldOwner) -> Hold {
        Hold { owner, reason: String::new(), since: now(), until: None }
    }

    fn exit(code: Option<i32>, signal: Option<i32>) -> LastExit {
        LastExit { code, signal, out_of_memory: false, at: now(), unknown: false, requested: false }
    }

    fn down_twice() -> ServiceAssessment<'static> {
        ServiceAssessment {
            occasion: Occasion::Periodic,
            seen: ServiceObserved::Down,
            holds: &[],
            cared_for: false,
            failing: 2,
            failed_starts: 0,
            restart: RestartPolicy::Always,
            last_exit: None,
        }
    }

    #[test]
    fn the_loop_acts_only_when_nobody_else_does_and_nobody_forbids() {
        use {Occasion::*, ServiceDecision::*};
        let base = down_twice();
        let (person, deferral) = ([hold(HoldOwner::Person)], [hold(HoldOwner::Deferral)]);
        let over = [Hold { until: Some(now()), ..hold(HoldOwner::Pause) }];
        let later = [Hold { until: Some(now() + 1.second()), ..hold(HoldOwner::Pause) }];
        let (clean, failed) = (exit(Some(0), None), exit(Some(1), None));
        let on_failure = ServiceAssessment { restart: RestartPolicy::OnFailure, ..base };
        let at_start = ServiceAssessment { occasion: AgentStart, failing: 1, ..base };
        let cases = [
            ("down twice", base, Start),
            ("down once", ServiceAssessment { failing: 1, ..base }, Leave(super::Leave::AskAgain)),
            ("up", ServiceAssessment { seen: ServiceObserved::Up, ..base }, Nothing),
            ("failing twice", ServiceAssessment { seen: ServiceObserved::Failing, ..base }, Restart),
            (
                "failing once",
                ServiceAssessment { seen: ServiceObserved::Failing, failing: 1, ..base },
                Leave(super::Leave::AskAgain),
            ),
            ("busy", ServiceAssessment { seen: ServiceObserved::Busy, ..base }, Leave(super::Leave::Busy)),
            (
                "starting",
                ServiceAssessment { seen: ServiceObserved::Starting, failing: 9, ..base },
                Leave(super::Leave::Starting),
            ),
            ("foreign", ServiceAssessment { seen: ServiceObserved::Foreign, ..base }, Leave(super::Leave::Foreign)),
            ("cared for", ServiceAssessment { cared_for: true, ..base }, Leave(super::Leave::ToController)),
            ("at the agent's start", at_start, Start),
            ("at the agent's start, cared for", ServiceAssessment { cared_for: true, ..at_start }, Start),
            (
                "at the agent's start, failing",
                ServiceAssessment { seen: ServiceObserved::Failing, ..at_start },
                Leave(super::Leave::AskAgain),
            ),
            (
                "at the agent's start, held",
                ServiceAssessment { holds: &person, ..at_start },
                Leave(super::Leave::Held(HoldOwner::Person)),
            ),
            (
                "held by a person",
                ServiceAssessment { holds: &person, ..base },
                Leave(super::Leave::Held(HoldOwner::Person)),
            ),
            (
                "deferred",
                ServiceAssessment { holds: &deferral, ..base },
                Leave(super::Leave::Held(HoldOwner::Deferral)),
            ),
            ("a pause that is over", ServiceAssessment { holds: &over, ..base }, Start),
            (
                "a pause that lasts",
                ServiceAssessment { holds: &later, ..base },
                Leave(super::Leave::Held(HoldOwner::Pause)),
            ),
            ("four failed starts", ServiceAssessment { failed_starts: 4, ..base }, Start),
            ("five failed starts", ServiceAssessment { failed_starts: 5, ..base }, Leave(super::Leave::GaveUp)),
            (
                "five, at the agent's start",
                ServiceAssessment { failed_starts: 5, ..at_start },
                Leave(super::Leave::GaveUp),
            ),
            (
                "ended cleanly, OnFailure",
                ServiceAssessment { last_exit: Some(&clean), ..on_failure },
                Leave(super::Leave::EndedCleanly),
            ),
            ("ended cleanly, Always", ServiceAssessment { last_exit: Some(&clean), ..base }, Start),
            ("failed, OnFailure", ServiceAssessment { last_exit: Some(&failed), ..on_failure }, Start),
            ("never ran, OnFailure", on_failure, Start),
            (
                "failing, OnFailure, after a clean exit before",
                ServiceAssessment { seen: ServiceObserved::Failing, last_exit: Some(&clean), ..on_failure },
                Restart,
            ),
        ];
        for (name, view, expected) in cases {
            assert_eq!(decide(&view, now()), expected, "{name}");
        }
    }

    #[test]
    fn the_first_start_of_an_agent_is_no_attempt_unless_something_failed_before() {
        use Occasion::{AgentStart, Periodic};
        use ServiceObserved::{Down, Failing};
        let new = ServiceRecord::default;
        let died = exit(Some(0), None);
        let of = Some(crate::host::Instance { pid: 7, start_time: 70 });
        let ended = ServiceRecord { last_exit: Some(died.clone()), last_exit_of: of, ..new() };
        let stopped = LastExit { requested: true, ..died };
        let mut left = ServiceRecord { last_exit: Some(stopped), last_failure: Some("x".into()), ..ended.clone() };
        let mut rebooted = ended.clone();
        rebooted.enter_boot("another");
        left.leave_for_good();
        for (what, occasion, seen, memory, attempt) in [
            ("never ran", AgentStart, Down, new(), false),
            ("left with `down`", AgentStart, Down, left.clone(), false),
            ("died before the host booted", AgentStart, Down, rebooted, false),
            ("died while no agent ran", AgentStart, Down, ended, true),
            ("could not be started", AgentStart, Down, ServiceRecord { last_failure: Some("x".into()), ..new() }, true),
            ("runs and fails", AgentStart, Failing, new(), true),
            ("went down later", Periodic, Down, left, true),
        ] {
            assert_eq!(is_attempt(occasion, seen, &memory), attempt, "{what}");
        }
    }

    #[test]
    fn clean_is_what_systemd_calls_clean() {
        for (exit, clean) in [
            (exit(Some(0), None), true),
            (exit(Some(1), None), false),
            (exit(None, Some(15)), true),
            (exit(None, Some(9)), false),
            (exit(None, Some(11)), false),
            (LastExit { unknown: true, ..exit(None, None) }, false),
            (LastExit { out_of_memory: true, ..exit(Some(0), None) }, false),
        ] {
            assert_eq!(ended_cleanly(&exit), clean, "{exit:?}");
        }
    }

    proptest! {
        #[test]
        fn whoever_holds_nothing_is_started(
            seen in prop::sample::select(vec![ServiceObserved::Up, ServiceObserved::Starting, ServiceObserved::Failing, ServiceObserved::Busy, ServiceObserved::Down, ServiceObserved::Foreign]),
            owner in prop::sample::select(vec![HoldOwner::Person, HoldOwner::Suspend, HoldOwner::Pause, HoldOwner::Deferral]),
            at_start: bool, cared_for: bool, failing in 0u32..9, failed_starts in 0u32..9,
        ) {
            let holds = [hold(owner)];
            let occasion = if at_start { Occasion::AgentStart } else { Occasion::Periodic };
            let view = ServiceAssessment { occasion, seen, holds: &holds, cared_for, failing, failed_starts, ..down_twice() };
            let decision = decide(&view, now());
            prop_assert!(!matches!(decision, ServiceDecision::Start | ServiceDecision::Restart), "{decision:?}");
        }

        #[test]
        fn a_foreign_process_is_never_touched(at_start: bool, failing in 0u32..99, cared_for: bool) {
            let occasion = if at_start { Occasion::AgentStart } else { Occasion::Periodic };
            let view = ServiceAssessment { occasion, seen: ServiceObserved::Foreign, cared_for, failing, ..down_twice() };
            prop_assert_eq!(decide(&view, now()), ServiceDecision::Leave(Leave::Foreign));
        }
    }
}

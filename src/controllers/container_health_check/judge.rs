//! How one container is, and what would mend it: a pure function of what was declared and seen.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{ContainerHealthCheckSpec, ContainerWord, DesiredState, ManualStop},
    host::StoppedBy,
};

use super::{
    container::{Container, ContainerEnd, ContainerLife, ProbeHealth, RestartsOn},
    memory::ContainerMemory,
};

/// Attempts of ours, or starts of the runtime's own, after which it counts as looping.
const LOOPS: i64 = 3;
/// A run this long was no loop.
const LONG_RUN: SignedDuration = SignedDuration::from_mins(5);
/// A container that just started is not called well yet after it had ended.
const SETTLING: SignedDuration = SignedDuration::from_secs(3);
/// Nor, after so many times, before this.
const SETTLING_LOOP: SignedDuration = SignedDuration::from_secs(10);

/// What would mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Nothing,
    Up,
    Restart,
    Stop,
}

/// One container, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerVerdict {
    pub word: ContainerWord,
    pub message: String,
    pub need: Need,
}

impl ContainerVerdict {
    fn new(word: ContainerWord, message: impl Into<String>, need: Need) -> Self {
        Self { word, message: message.into(), need }
    }

    /// Whether it is not as declared, and not by a person's wish.
    pub fn is_unhealthy(&self) -> bool {
        use ContainerWord::{Completed, Healthy, HeldByPerson, Starting};
        !matches!(self.word, Healthy | Completed | Starting | HeldByPerson)
    }
}

/// Judges. Rules: docs/containers.md.
pub fn judge(
    spec: &ContainerHealthCheckSpec,
    container: &Container,
    known: Option<&ContainerMemory>,
    now: Timestamp,
) -> ContainerVerdict {
    match spec.desired_state {
        DesiredState::Stopped => should_be_stopped(container),
        DesiredState::Running => should_run(spec, container, known, now),
    }
}

fn should_be_stopped(container: &Container) -> ContainerVerdict {
    match container.life {
        ContainerLife::Running | ContainerLife::Restarting(_) | ContainerLife::Paused => {
            ContainerVerdict::new(ContainerWord::ShouldBeStopped, "it runs, and is declared Stopped", Need::Stop)
        }
        _ => ContainerVerdict::new(ContainerWord::Healthy, "", Need::Nothing),
    }
}

fn should_run(
    spec: &ContainerHealthCheckSpec,
    container: &Container,
    known: Option<&ContainerMemory>,
    now: Timestamp,
) -> ContainerVerdict {
    match &container.life {
        ContainerLife::Missing => ContainerVerdict::new(ContainerWord::Missing, "there is no such container", Need::Up),
        ContainerLife::ImageMissing(why) => ContainerVerdict::new(ContainerWord::ImageMissing, why, Need::Up),
        ContainerLife::Pending(why) => ContainerVerdict::new(ContainerWord::Pending, why, Need::Nothing),
        ContainerLife::Paused => held("a person paused it: `docker unpause` ends that"),
        ContainerLife::Restarting(end) => restarting(container, end),
        ContainerLife::Ended(end) => match end.by {
            Some(StoppedBy::Person) if spec.manual_stop == ManualStop::Hold && !is_over(end, known) => held(
                "a person stopped it: `docker start`, or `ostler resume` or `ostler reconcile` of this check, ends that",
            ),
            // Not even when a person resumes the check: what has succeeded may not bear a second run.
            _ if is_complete(container, end) => {
                ContainerVerdict::new(ContainerWord::Completed, "it ran to its end", Need::Nothing)
            }
            _ if is_failed(container, end) => failed(end, known),
            _ => ended(container, end, known),
        },
        ContainerLife::Running => running(container, known, now),
    }
}

/// It ran to its end, and neither its runtime nor anybody's stop has to do with it.
fn is_complete(container: &Container, end: &ContainerEnd) -> bool {
    let stays_down = container.restarts_on != RestartsOn::AnyEnd;
    stays_down && end.exit_code == Some(0) && end.by.is_none() && end.error.is_none() && container.started_at.is_some()
}

/// It was to run once, and its own work failed. What lacked memory failed for that.
fn is_failed(container: &Container, end: &ContainerEnd) -> bool {
    let by_itself = end.by.is_none() && !end.out_of_memory && end.error.is_none();
    container.one_shot && container.restarts_on == RestartsOn::Nothing && by_itself && end.exit_code.is_some()
}

fn failed(end: &ContainerEnd, known: Option<&ContainerMemory>) -> ContainerVerdict {
    let need = if is_over(end, known) { Need::Up } else { Need::Nothing };
    let told = how_it_ended(end);
    let message = format!(
        "it {told}, and is to run only once: correct what failed, then `docker start`, or `ostler reconcile` of this check, \
         runs it again"
    );
    ContainerVerdict::new(ContainerWord::Failed, message, need)
}

fn held(message: &str) -> ContainerVerdict {
    ContainerVerdict::new(ContainerWord::HeldByPerson, message, Need::Nothing)
}

/// Whether somebody resumed the check after that end.
fn is_over(end: &ContainerEnd, known: Option<&ContainerMemory>) -> bool {
    known.and_then(|known| known.resumed_at).is_some_and(|at| end.at.is_none_or(|stopped| stopped < at))
}

/// Its own runtime starts it again: nothing to do, beside saying what goes on.
fn restarting(container: &Container, end: &ContainerEnd) -> ContainerVerdict {
    let told = how_it_ended(end);
    if container.restarts >= LOOPS && !end.out_of_memory {
        let message = format!("it {told}, {} times; its runtime starts it again", container.restarts);
        return ContainerVerdict::new(ContainerWord::CrashLooping, message, Need::Nothing);
    }
    ContainerVerdict::new(word_of(end), format!("it {told}; its runtime starts it again"), Need::Nothing)
}

fn ended(container: &Container, end: &ContainerEnd, known: Option<&ContainerMemory>) -> ContainerVerdict {
    let told = how_it_ended(end);
    // Between two starts a kubelet may say of what loops no more than how it ended.
    let attempts = known.map_or(0, |known| i64::from(known.attempts)).max(container.restarts);
    let short = container.started_at.zip(end.at).is_none_or(|(from, to)| to.duration_since(from) < LONG_RUN);
    if attempts >= LOOPS && short && !end.out_of_memory {
        let message = format!("it {told}, again after {attempts} starts");
        return ContainerVerdict::new(ContainerWord::CrashLooping, message, Need::Up);
    }
    let hint = match word_of(end) {
        ContainerWord::Killed => "; not for want of its own memory: look at its host's",
        _ => "",
    };
    ContainerVerdict::new(word_of(end), format!("it {told}{hint}"), Need::Up)
}

fn running(container: &Container, known: Option<&ContainerMemory>, now: Timestamp) -> ContainerVerdict {
    if container.under_operation {
        return ContainerVerdict::new(ContainerWord::Starting, "something is being done about it", Need::Nothing);
    }
    match &container.health {
        ProbeHealth::Failing(why) => ContainerVerdict::new(ContainerWord::Unhealthy, why, Need::Restart),
        ProbeHealth::Starting => {
            ContainerVerdict::new(ContainerWord::Starting, "its checks have not passed yet", Need::Nothing)
        }
        ProbeHealth::Unasked | ProbeHealth::Well if is_settling(container, known, now) => {
            ContainerVerdict::new(ContainerWord::Starting, "it was just started", Need::Nothing)
        }
        ProbeHealth::Unasked | ProbeHealth::Well => ContainerVerdict::new(ContainerWord::Healthy, "", Need::Nothing),
    }
}

/// Something started it again, and it may end again as soon as it did before.
fn is_settling(container: &Container, known: Option<&ContainerMemory>, now: Timestamp) -> bool {
    let long =
        match (container.restarts >= LOOPS, known.is_some_and(|known| known.attempts > 0) || container.restarts > 0) {
            (true, _) => SETTLING_LOOP,
            (false, true) => SETTLING,
            (false, false) => return false,
        };
    container.started_at.is_some_and(|at| now < at + long)
}

fn word_of(end: &ContainerEnd) -> ContainerWord {
    match end.exit_code {
        // Without the runtime's flag, 137 is a kill from outside.
        _ if end.out_of_memory => ContainerWord::OutOfMemory,
        Some(137) => ContainerWord::Killed,
        _ => ContainerWord::Exited,
    }
}

fn how_it_ended(end: &ContainerEnd) -> String {
    match (&end.error, end.exit_code) {
        (Some(error), _) => format!("could not be started: {error}"),
        _ if end.out_of_memory => "ran out of memory".to_owned(),
        (None, Some(137)) => "was killed (137)".to_owned(),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "does not run".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(extra: serde_json::Value) -> ContainerHealthCheckSpec {
        let mut spec = json!({"target": {"docker": {"hostAgentRef": {"name": "a"}, "names": ["c"]}}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn ended(exit_code: i64, out_of_memory: bool, by: Option<StoppedBy>) -> ContainerLife {
        ContainerLife::Ended(ContainerEnd {
            exit_code: Some(exit_code),
            out_of_memory,
            at: Some(now()),
            by,
            error: None,
        })
    }

    #[test]
    fn a_life_is_one_word_and_what_would_mend_it() {
        use ContainerWord::*;
        let (run, hold, restart, stop) =
            (json!({}), json!({}), json!({"manualStop": "Restart"}), json!({"desiredState": "Stopped"}));
        for (extra, life, health, word, need) in [
            (&run, ContainerLife::Running, ProbeHealth::Unasked, Healthy, Need::Nothing),
            (&run, ContainerLife::Running, ProbeHealth::Well, Healthy, Need::Nothing),
            (&run, ContainerLife::Running, ProbeHealth::Starting, Starting, Need::Nothing),
            (&run, ContainerLife::Running, ProbeHealth::Failing("500".into()), Unhealthy, Need::Restart),
            (&run, ended(0, false, None), ProbeHealth::Unasked, Exited, Need::Up),
            (&run, ended(137, false, None), ProbeHealth::Unasked, Killed, Need::Up),
            (&run, ended(137, true, None), ProbeHealth::Unasked, OutOfMemory, Need::Up),
            (&run, ended(0, false, Some(StoppedBy::Engine)), ProbeHealth::Unasked, Exited, Need::Up),
            (&hold, ended(143, false, Some(StoppedBy::Person)), ProbeHealth::Unasked, HeldByPerson, Need::Nothing),
            (&restart, ended(143, false, Some(StoppedBy::Person)), ProbeHealth::Unasked, Exited, Need::Up),
            (&run, ContainerLife::Paused, ProbeHealth::Unasked, HeldByPerson, Need::Nothing),
            (&run, ContainerLife::Missing, ProbeHealth::Unasked, Missing, Need::Up),
            (&run, ContainerLife::ImageMissing("no".into()), ProbeHealth::Unasked, ImageMissing, Need::Up),
            (&run, ContainerLife::Pending("no node".into()), ProbeHealth::Unasked, Pending, Need::Nothing),
            (&stop, ContainerLife::Running, ProbeHealth::Well, ShouldBeStopped, Need::Stop),
            (&stop, ContainerLife::Missing, ProbeHealth::Unasked, Healthy, Need::Nothing),
            (&stop, ended(0, false, Some(StoppedBy::Person)), ProbeHealth::Unasked, Healthy, Need::Nothing),
        ] {
            let container = Container { life: life.clone(), health, ..Container::missing("c") };
            let verdict = judge(&spec(extra.clone()), &container, None, now());
            assert_eq!((verdict.word, verdict.need), (word, need), "{extra} {life:?}: {}", verdict.message);
        }
    }

    #[test]
    fn a_one_shot_that_succeeded_is_complete_and_one_that_failed_is_not_started_again() {
        use ContainerWord::*;
        use RestartsOn::{AnyEnd, Failure, Nothing as Never};
        let person = Some(StoppedBy::Person);
        for (restarts_on, one_shot, life, word, need) in [
            (Never, false, ended(0, false, None), Completed, Need::Nothing),
            (Never, true, ended(0, false, None), Completed, Need::Nothing),
            (Failure, false, ended(0, false, None), Completed, Need::Nothing),
            (AnyEnd, false, ended(0, false, None), Exited, Need::Up),
            (Never, true, ended(3, false, None), Failed, Need::Nothing),
            (Never, true, ended(137, false, None), Failed, Need::Nothing),
            (Never, true, ended(137, true, None), OutOfMemory, Need::Up),
            // Nobody said that it is to run once.
            (Never, false, ended(3, false, None), Exited, Need::Up),
            (Failure, true, ended(3, false, None), Exited, Need::Up),
            // Its engine went down, or the agent stopped it: it did not come to its end.
            (Never, false, ended(0, false, Some(StoppedBy::Engine)), Exited, Need::Up),
            (Never, true, ended(143, false, Some(StoppedBy::Engine)), Exited, Need::Up),
            (Never, false, ended(0, false, Some(StoppedBy::Agent)), Exited, Need::Up),
            (Never, true, ended(0, false, person), HeldByPerson, Need::Nothing),
        ] {
            let container = Container {
                life: life.clone(),
                restarts_on,
                one_shot,
                started_at: Some(now()),
                ..Container::missing("c")
            };
            let verdict = judge(&spec(json!({})), &container, None, now());
            assert_eq!((verdict.word, verdict.need), (word, need), "{restarts_on:?} {one_shot} {life:?}");
            let resumed_at = Some(now() + SignedDuration::from_secs(1));
            let resumed = ContainerMemory { resumed_at, ..ContainerMemory::default() };
            let again = judge(&spec(json!({})), &container, Some(&resumed), now());
            let need = if word == Completed { Need::Nothing } else { Need::Up };
            assert_eq!(again.need, need, "a person asked for it: {restarts_on:?} {one_shot} {life:?}");
        }
        let never_ran = Container {
            life: ContainerLife::Ended(ContainerEnd::default()),
            restarts_on: Never,
            ..Container::missing("c")
        };
        assert_eq!(judge(&spec(json!({})), &never_ran, None, now()).need, Need::Up, "made, and never started");
    }

    #[test]
    fn what_ends_again_after_each_start_loops_unless_memory_is_why_or_it_ran_long() {
        let known = ContainerMemory { attempts: 3, ..ContainerMemory::default() };
        let at = |seconds: i64| Some(now() - SignedDuration::from_secs(seconds));
        for (oom, started_at, word) in [
            (false, at(5), ContainerWord::CrashLooping),
            (true, at(5), ContainerWord::OutOfMemory),
            (false, at(3_600), ContainerWord::Exited),
        ] {
            let container = Container { life: ended(1, oom, None), started_at, ..Container::missing("c") };
            assert_eq!(judge(&spec(json!({})), &container, Some(&known), now()).word, word);
        }
        let again = Container { life: ended(1, false, None), restarts: 3, ..Container::missing("c") };
        assert_eq!(
            judge(&spec(json!({})), &again, None, now()).word,
            ContainerWord::CrashLooping,
            "between two starts"
        );
        let looping = ContainerLife::Restarting(ContainerEnd { exit_code: Some(1), ..ContainerEnd::default() });
        let container = Container { life: looping, restarts: 5, ..Container::missing("c") };
        let verdict = judge(&spec(json!({})), &container, None, now());
        assert_eq!((verdict.word, verdict.need), (ContainerWord::CrashLooping, Need::Nothing));
    }
}

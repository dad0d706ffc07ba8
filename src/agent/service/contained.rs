//! Services that are containers: the engine is their parent, starts and stops them, and says how they are.

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

use super::{Service, error::ServiceError, wait::WaitContext};
use crate::{
    agent::{config::ManagerSpec, docker::Containers, gate::Refused, keep::ServiceRecord, plan::ServiceObserved},
    host::{
        ContainerAction, ContainerHealth, ContainerReport, ContainerState, ContainerTarget, Hold, HoldOwner, Instance,
        LastExit, StoppedBy,
    },
};

/// Reasons of the holds that somebody's use of the engine's own tools makes; who starts the container so, ends them.
const STOPPED: &str = "its container was stopped through the container engine";
const PAUSED: &str = "its container was paused through the container engine";

/// How long a container without checks must live to count as started: its end is known a second later.
const SETTLE: Duration = Duration::from_secs(3);

/// How long an engine may take to answer an agent that has just started.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

impl Service {
    pub(super) fn is_container(&self) -> bool {
        matches!(self.spec.manager, ManagerSpec::Container(_))
    }

    fn engine(&self) -> Result<(&Containers, &ContainerTarget), ServiceError> {
        match (&self.containers, &self.spec.manager) {
            (Some(containers), ManagerSpec::Container(target)) => Ok((containers, target)),
            _ => Err(ServiceError::Engine("the agent's file has no spec.docker".to_owned())),
        }
    }

    /// How its container is; `None`: there is none.
    pub fn container(&self) -> Result<Option<ContainerReport>, ServiceError> {
        let (containers, target) = self.engine()?;
        containers.report(target).map_err(|refused: Refused| ServiceError::Engine(refused.message))
    }

    /// An agent that has just started has not heard the engine yet.
    pub async fn settle(&self) {
        let Ok((containers, _)) = self.engine() else { return };
        while containers.runtime().error.is_some() && self.opened.elapsed() < FIRST_ANSWER {
            let pause = tokio::time::sleep(Duration::from_millis(100));
            if self.shutdown.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    pub(super) async fn look_at_container(&self) -> Result<ServiceObserved, ServiceError> {
        self.settle().await;
        // A person's stop is a hold before anything is decided.
        self.note_container();
        let Some(report) = self.container()? else { return Ok(ServiceObserved::Down) };
        match report.state {
            ContainerState::Running => {}
            ContainerState::Restarting | ContainerState::Paused => return Ok(ServiceObserved::Failing),
            _ => return Ok(ServiceObserved::Down),
        }
        if self.spec.check.is_none() {
            return Ok(if report.health == Some(ContainerHealth::Unhealthy) {
                ServiceObserved::Failing
            } else {
                ServiceObserved::Up
            });
        }
        let (containers, _) = self.engine()?;
        let (before, begun) = (containers.cpu_seconds(&report.id).await, Instant::now());
        let Some(check) = self.ask().await.filter(|check| !check.ok) else { return Ok(ServiceObserved::Up) };
        // A tenth of a core, so that idle chatter does not count as work.
        let works = match (before, containers.cpu_seconds(&report.id).await) {
            (Some(a), Some(b)) => b - a > 0.1 * begun.elapsed().as_secs_f64(),
            _ => false,
        };
        Ok(match instance_of_run(&report) {
            run if self.is_starting(run.as_ref()) => ServiceObserved::Starting,
            _ if check.timed_out && works => ServiceObserved::Busy,
            _ => ServiceObserved::Failing,
        })
    }

    pub(super) async fn start_container(&self, patience: &WaitContext) -> Result<&'static str, ServiceError> {
        let runs = self.container()?.is_some_and(|c| c.state == ContainerState::Running);
        if !runs {
            self.act_on_container(ContainerAction::Up).await?;
        }
        self.wait_up(None, patience).await?;
        Ok(if runs { "it runs already" } else { "started" })
    }

    pub(super) async fn stop_container(&self) -> Result<&'static str, ServiceError> {
        if self.container()?.is_none() {
            return Ok("it was not running");
        }
        self.act_on_container(ContainerAction::Stop).await?;
        Ok("stopped")
    }

    pub(super) async fn restart_container(&self, patience: &WaitContext) -> Result<&'static str, ServiceError> {
        let action = match self.container()? {
            Some(_) => ContainerAction::Restart,
            None => ContainerAction::Up,
        };
        self.act_on_container(action).await?;
        self.wait_up(None, patience).await?;
        Ok("restarted")
    }

    async fn act_on_container(&self, action: ContainerAction) -> Result<(), ServiceError> {
        let (containers, target) = self.engine()?;
        let done = containers.act(target, action).await.map_err(|failed| ServiceError::Container(failed.message))?;
        tracing::info!(service = %self.spec.name, action = action.as_str(), done, "container operation done");
        Ok(())
    }

    /// While a started service is waited for: whether its container answers, and what is lacking. `None`: it runs, and its
    /// check has the word; or it is no container.
    pub(super) fn container_answers(&self, begun: Instant) -> Result<Option<(bool, String)>, ServiceError> {
        if !self.is_container() {
            return Ok(None);
        }
        let lacks = |what: &str| Ok(Some((false, what.to_owned())));
        let Some(report) = self.container()? else { return lacks("there is no container") };
        match (report.state, report.health) {
            (ContainerState::Exited | ContainerState::Dead, _) => Err(exited_early(&report)),
            (ContainerState::Running, _) if self.spec.check.is_some() => Ok(None),
            (ContainerState::Running, None) => Ok(Some((begun.elapsed() >= SETTLE, "not yet up".to_owned()))),
            (ContainerState::Running, Some(ContainerHealth::Healthy)) => Ok(Some((true, String::new()))),
            (ContainerState::Running, _) => lacks("its health check does not pass yet"),
            _ => lacks("its container does not run"),
        }
    }

    /// Writes down how its container's last run ended, and what somebody did to it through the engine's own tools.
    pub(super) fn note_container(&self) {
        // While the engine is away nothing is known, and nothing is noted.
        let Ok(Some(report)) = self.container() else { return };
        self.remember(|record| note(record, &report));
        let now = Some((report.state, run_of(&report)));
        let before = std::mem::replace(&mut self.live().container_seen, now.clone());
        if before != now {
            self.changes.tell();
        }
    }
}

fn exited_early(report: &ContainerReport) -> ServiceError {
    let how = match report.exit_code {
        _ if report.ended_out_of_memory() => "out of memory".to_owned(),
        Some(code) => format!("exit code {code}"),
        None => "nobody knows how".to_owned(),
    };
    ServiceError::ExitedEarly { how, log: format!(": docker logs {}", report.name) }
}

fn note(memory: &mut ServiceRecord, report: &ContainerReport) {
    let run = run_of(report);
    if let (Some(at), Some(run)) = (report.finished_at, run)
        && memory.last_exit_of.as_ref() != Some(&run)
    {
        memory.last_exit = Some(last_exit(report, at));
        memory.last_exit_of = Some(run);
    }
    memory.out_of_memory_at = memory.out_of_memory_at.max(report.last_oom_at);
    let held = |memory: &ServiceRecord| memory.holds.iter().find(|h| h.owner == HoldOwner::Person).cloned();
    let stop = report.stopped.as_ref().filter(|s| s.by == StoppedBy::Person).map(|s| (STOPPED, s.at));
    let pause = (report.state == ContainerState::Paused).then_some((PAUSED, Timestamp::now()));
    match (stop.or(pause), held(memory)) {
        // Once for each stop: who releases the hold has the last word.
        (Some((reason, since)), None) if reason == PAUSED || memory.stop_noted != Some(since) => {
            memory.hold(Hold { owner: HoldOwner::Person, reason: reason.to_owned(), since, until: None });
        }
        (None, Some(hold)) if report.state == ContainerState::Running && is_of_engine(&hold) => {
            memory.release(HoldOwner::Person);
        }
        _ => {}
    }
    if let Some((STOPPED, at)) = stop {
        memory.stop_noted = Some(at);
    }
}

fn is_of_engine(hold: &Hold) -> bool {
    hold.reason == STOPPED || hold.reason == PAUSED
}

/// Beyond 128 an engine means the signal that ended the program.
fn last_exit(report: &ContainerReport, at: Timestamp) -> LastExit {
    let code = report.exit_code.and_then(|c| i32::try_from(c).ok());
    let signal = code.filter(|c| (129..=192).contains(c)).map(|c| c - 128);
    let by = report.stopped.as_ref().map(|s| s.by);
    LastExit {
        code: code.filter(|_| signal.is_none()),
        signal,
        out_of_memory: report.ended_out_of_memory(),
        at,
        // An engine that goes down ends its containers cleanly: that is nobody's wish.
        unknown: code.is_none() || by == Some(StoppedBy::Engine),
        requested: by == Some(StoppedBy::Agent),
    }
}

/// A container's run as the process that it is: told from others by when it began, for its pid may be one of a virtual
/// machine.
pub fn instance_of_run(report: &ContainerReport) -> Option<Instance> {
    run_of(report).filter(|_| report.state == ContainerState::Running)
}

fn run_of(report: &ContainerReport) -> Option<Instance> {
    let began = report.started_at?.as_millisecond();
    Some(Instance { pid: 0, start_time: u64::try_from(began).ok()? })
}

/// For how long a container's run has lasted, in seconds.
pub fn running_seconds(report: &ContainerReport, now: Timestamp) -> Option<f64> {
    let began = report.started_at.filter(|_| report.state == ContainerState::Running)?;
    Some(now.duration_since(began).max(SignedDuration::ZERO).as_secs_f64())
}

/// The same by its instance alone.
pub fn age_of_run(run: &Instance, now: Timestamp) -> Option<Duration> {
    let began = Timestamp::from_millisecond(i64::try_from(run.start_time).ok()?).ok()?;
    Some(Duration::try_from(now.duration_since(began)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(fields: serde_json::Value) -> ContainerReport {
        let mut all = json!({
            "id": "a1", "name": "search", "image": "search:1", "state": "Exited", "createdAt": "2026-03-01T01:00:00Z",
            "startedAt": "2026-03-01T02:00:00Z", "finishedAt": "2026-03-01T03:00:00Z", "exitCode": 0,
        });
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    fn stopped(by: &str, at: &str) -> ContainerReport {
        report(json!({"stopped": {"by": by, "at": at}}))
    }

    #[test]
    fn an_end_is_told_as_that_of_a_process() {
        let at = "2026-03-01T03:00:00Z".parse().unwrap();
        let plain =
            LastExit { code: Some(0), signal: None, out_of_memory: false, at, unknown: false, requested: false };
        for (name, report, expected) in [
            ("clean", report(json!({})), plain.clone()),
            ("a failure", report(json!({"exitCode": 3})), LastExit { code: Some(3), ..plain.clone() }),
            ("killed", report(json!({"exitCode": 137})), LastExit { code: None, signal: Some(9), ..plain.clone() }),
            (
                "out of memory",
                report(json!({"exitCode": 137, "oomKilled": true})),
                LastExit { code: None, signal: Some(9), out_of_memory: true, ..plain.clone() },
            ),
            (
                "the agent's stop",
                stopped("Agent", "2026-03-01T03:00:00Z"),
                LastExit { requested: true, ..plain.clone() },
            ),
            ("the engine's end", stopped("Engine", "2026-03-01T03:00:00Z"), LastExit { unknown: true, ..plain }),
        ] {
            assert_eq!(last_exit(&report, at), expected, "{name}");
        }
    }

    #[test]
    fn a_persons_stop_is_a_hold_once_and_a_start_by_the_same_means_ends_it() {
        let mut memory = ServiceRecord::default();
        let (first, second) = (stopped("Person", "2026-03-01T03:00:00Z"), stopped("Person", "2026-03-01T04:00:00Z"));
        note(&mut memory, &stopped("Agent", "2026-03-01T02:30:00Z"));
        note(&mut memory, &stopped("Engine", "2026-03-01T02:40:00Z"));
        assert!(memory.holds.is_empty());
        note(&mut memory, &first);
        note(&mut memory, &first);
        assert_eq!(memory.holds.len(), 1);
        // Somebody asks for a start, which takes its time or fails.
        memory.release(HoldOwner::Person);
        note(&mut memory, &first);
        assert!(memory.holds.is_empty(), "the same stop is no new wish");
        note(&mut memory, &second);
        assert_eq!(memory.holds[0].since, "2026-03-01T04:00:00Z".parse().unwrap());
        note(&mut memory, &report(json!({"state": "Running", "finishedAt": null, "exitCode": null})));
        assert!(memory.holds.is_empty());
    }

    #[test]
    fn a_hold_of_another_origin_stays_while_it_runs() {
        let mut memory = ServiceRecord::default();
        let hold = |reason: &str| Hold {
            owner: HoldOwner::Person,
            reason: reason.to_owned(),
            since: Timestamp::UNIX_EPOCH,
            until: None,
        };
        memory.hold(hold("maintenance"));
        note(&mut memory, &stopped("Person", "2026-03-01T03:00:00Z"));
        note(&mut memory, &report(json!({"state": "Running", "finishedAt": null, "exitCode": null})));
        assert_eq!(memory.holds, [hold("maintenance")]);
    }
}

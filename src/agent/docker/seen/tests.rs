use jiff::ToSpan;
use serde_json::json;

use super::*;
use crate::agent::docker::{allow::tests::permitting, facts::tests::inspection};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seen() -> ContainerCache {
    let path = std::env::temp_dir().join(format!("ostler-seen-{}.json", uuid::Uuid::new_v4().simple()));
    ContainerCache::open(permitting("knowledge", "proxy"), path, at("2026-03-01T00:00:00Z")).unwrap()
}

fn exited(started: &str, finished: &str) -> ContainerFacts {
    let state = json!({"Status": "exited", "ExitCode": 137, "StartedAt": started, "FinishedAt": finished});
    ContainerFacts::read(inspection("a1", "nightly", state)).unwrap()
}

fn named() -> ContainerSelector {
    ContainerSelector::Names(vec!["knowledge-nightly-1".to_owned()])
}

#[test]
fn nothing_is_told_of_containers_while_the_engine_is_away_or_silent() {
    let seen = seen();
    let now = at("2026-03-01T05:00:00Z");
    assert_eq!(seen.list(&named(), now).unwrap_err().reason, AgentRefusal::EngineUnavailable);
    seen.put(exited("2026-03-01T03:00:00Z", "2026-03-01T04:00:00Z"));
    seen.confirm("28", now);
    assert_eq!(seen.list(&named(), now + 59.seconds()).unwrap().containers.len(), 1);
    assert_eq!(seen.list(&named(), now + 61.seconds()).unwrap_err().reason, AgentRefusal::EngineUnavailable);
    seen.away("gone", now);
    assert_eq!(seen.list(&named(), now).unwrap_err().reason, AgentRefusal::EngineUnavailable);
    assert!(seen.runtime().error.unwrap().contains("gone"));
}

#[test]
fn a_stop_is_told_of_the_run_that_it_ended_and_no_other() {
    let now = at("2026-03-01T05:00:00Z");
    for (name, started, finished, told) in [
        ("this run", "2026-03-01T03:00:00Z", "2026-03-01T04:00:00Z", true),
        ("its end is written a little later", "2026-03-01T03:00:00Z", "2026-03-01T04:00:01.5Z", true),
        ("it ran again and died by itself", "2026-03-01T04:30:00Z", "2026-03-01T04:40:00Z", false),
        ("the run went on for long", "2026-03-01T03:00:00Z", "2026-03-01T04:40:00Z", false),
    ] {
        let seen = seen();
        seen.put(exited(started, finished));
        seen.stopped("a1", StoppedBy::Person, at("2026-03-01T04:00:00.1Z"));
        seen.confirm("28", now);
        let list = seen.list(&named(), now).unwrap();
        assert_eq!(list.containers[0].stopped.is_some(), told, "{name}");
    }
}

#[test]
fn a_steady_state_keeps_its_revision_and_marks_survive_the_agent() {
    let seen = seen();
    let now = at("2026-03-01T05:00:00Z");
    let facts = exited("2026-03-01T03:00:00Z", "2026-03-01T04:00:00Z");
    seen.put(facts.clone());
    seen.out_of_memory("a1", now);
    seen.used_memory("a1", 5);
    seen.confirm("28", now);
    let revision = seen.revision();
    seen.put(facts.clone());
    seen.used_memory("a1", 3);
    seen.confirm("28", now + 10.seconds());
    seen.event_done(7);
    assert_eq!(seen.revision(), revision);
    seen.save().unwrap();
    let again = ContainerCache::open(seen.allow.clone(), seen.path.clone(), now).unwrap();
    again.put(facts);
    again.confirm("28", now);
    let report = &again.list(&named(), now).unwrap().containers[0];
    assert_eq!((report.oom_count, report.memory_peak, again.last_event()), (1, Some(5), 7));
    std::fs::remove_file(&seen.path).unwrap();
}

#[test]
fn a_stop_that_an_earlier_agent_asked_for_is_the_agents_own_once() {
    let (seen, now) = (seen(), at("2026-03-01T05:00:00Z"));
    seen.begin_stop("a1", 10, now).unwrap();
    let again = ContainerCache::open(seen.allow.clone(), seen.path.clone(), now + 1.hour()).unwrap();
    assert!(again.take_stop("a1", now + 3.seconds()));
    assert!(!again.take_stop("a1", now + 3.seconds()) && !again.take_stop("b2", now));
    std::fs::remove_file(&seen.path).unwrap();
}

#[test]
fn what_ran_out_of_memory_unseen_had_used_all_of_it() {
    let (seen, now) = (seen(), at("2026-03-01T05:00:00Z"));
    seen.out_of_memory("a1", now);
    seen.put(exited("2026-03-01T03:00:00Z", "2026-03-01T04:00:00Z"));
    seen.confirm("28", now);
    assert_eq!(seen.list(&named(), now).unwrap().containers[0].memory_peak, Some(20 << 20));
}

#[test]
fn of_two_stops_of_one_end_the_first_counts() {
    let (first, started) = ("2026-03-01T04:00:00Z", "2026-03-01T03:00:00Z");
    for (name, started, second, by) in [
        ("both waited for the same end", started, "2026-03-01T04:00:00.1Z", StoppedBy::Agent),
        ("a later one", started, "2026-03-01T04:01:00Z", StoppedBy::Person),
        ("it was started in between", "2026-03-01T04:00:00.5Z", "2026-03-01T04:00:01Z", StoppedBy::Person),
    ] {
        let (seen, now) = (seen(), at("2026-03-01T05:00:00Z"));
        seen.put(exited(started, second));
        seen.stopped("a1", StoppedBy::Agent, at(first));
        seen.stopped("a1", StoppedBy::Person, at(second));
        seen.confirm("28", now);
        let list = seen.list(&named(), now).unwrap();
        assert_eq!(list.containers[0].stopped.as_ref().map(|s| s.by), Some(by), "{name}");
    }
}

#[test]
fn an_end_that_is_seen_before_its_events_waits_for_them() {
    let running = || {
        let state = json!({"Status": "running", "StartedAt": "2026-03-01T03:00:00Z"});
        ContainerFacts::read(inspection("a1", "nightly", state)).unwrap()
    };
    let (seen, ended) = (seen(), exited("2026-03-01T03:00:00Z", "2026-03-01T04:00:00Z"));
    assert!(!seen.ended_unheard(&ended), "nobody saw it run");
    seen.put(running());
    assert!(!seen.ended_unheard(&running()));
    assert!(seen.ended_unheard(&ended));
    seen.stopped("a1", StoppedBy::Person, at("2026-03-01T04:00:00.1Z"));
    assert!(!seen.ended_unheard(&ended), "now it is told");
}

#[test]
fn of_two_stops_of_which_an_agent_hears_afterwards_the_last_counts() {
    let (seen, now) = (seen(), at("2026-03-01T05:00:00Z"));
    seen.stopped("a1", StoppedBy::Person, at("2026-03-01T04:00:00Z"));
    seen.stopped("a1", StoppedBy::Person, at("2026-03-01T04:00:03Z"));
    seen.put(exited("2026-03-01T04:00:01Z", "2026-03-01T04:00:03Z"));
    seen.confirm("28", now);
    assert!(seen.list(&named(), now).unwrap().containers[0].stopped.is_some());
}

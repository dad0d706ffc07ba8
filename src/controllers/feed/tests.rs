use serde_json::json;

use super::{
    super::testing::{TestHome, expert},
    *,
};
use crate::{api::Expert, platform::Unreadable};

fn bad(name: &str, version: u32) -> DynamicObject {
    expert(name, version, json!({"spec": {"handler": "AHandlerOfAnotherRelease"}}))
}

fn names(feed: &Feed<Expert>) -> Vec<String> {
    let mut all: Vec<String> = feed.objects.state().iter().map(|object| object.name_any()).collect();
    all.sort();
    all
}

fn uids(feed: &Feed<Expert>) -> Vec<String> {
    let mut all = feed.uids([]);
    all.sort();
    all.dedup();
    all
}

fn take(pump: &mut Pump<Expert>, events: Vec<Event<DynamicObject>>) {
    events.into_iter().for_each(|event| pump.take(event));
}

fn listing(objects: Vec<DynamicObject>) -> Vec<Event<DynamicObject>> {
    let listed = objects.into_iter().map(Event::InitApply);
    std::iter::once(Event::Init).chain(listed).chain([Event::InitDone]).collect()
}

#[test]
fn an_object_that_can_not_be_decoded_any_more_stays_through_listings_as_it_was_last() {
    let home = TestHome::with(Vec::new());
    let (feed, mut pump) = Feed::<Expert>::new(home.clone(), Kind::Expert, Metrics::new());
    take(&mut pump, listing(vec![expert("a", 1, json!({})), expert("b", 1, json!({}))]));
    assert!(feed.is_whole());
    for events in [vec![Event::Apply(bad("a", 2))], listing(vec![bad("a", 3), expert("b", 1, json!({}))])] {
        take(&mut pump, events);
        assert_eq!((names(&feed), uids(&feed)), (vec!["a".into(), "b".into()], vec!["uid-a".into(), "uid-b".into()]));
    }
    let kept = feed.objects.get(&ObjectRef::new("a").within("team")).unwrap();
    assert_eq!(kept.spec.model.as_deref(), Some("m"));
    assert_eq!(kept.resource_version().as_deref(), Some("3"), "its status can be written");
    let told = home.problems.lock().unwrap()[&Kind::Expert].clone();
    assert!(
        told.len() == 1 && told[0].to_string().starts_with("Expert team/a: this object can't be decoded"),
        "{told:?}"
    );
    take(&mut pump, vec![Event::Apply(expert("a", 4, json!({})))]);
    assert!(home.problems.lock().unwrap()[&Kind::Expert].is_empty() && feed.is_whole(), "corrected");
}

#[test]
fn one_that_was_never_decoded_is_present_and_only_a_deletion_or_a_listing_without_it_ends_that() {
    let (feed, mut pump) = Feed::<Expert>::new(TestHome::with(Vec::new()), Kind::Expert, Metrics::new());
    take(&mut pump, listing(vec![bad("a", 1), expert("b", 1, json!({}))]));
    assert_eq!((names(&feed), uids(&feed)), (vec!["b".into()], vec!["uid-a".into(), "uid-b".into()]));
    assert!(feed.holds("team", "a") && feed.holds("team", "b") && !feed.holds("team", "c") && !feed.is_whole());
    take(&mut pump, vec![Event::Delete(bad("a", 2))]);
    assert!(uids(&feed) == ["uid-b"] && feed.is_whole());
    take(&mut pump, vec![Event::Apply(bad("b", 2)), Event::Delete(bad("b", 3))]);
    assert_eq!((names(&feed), uids(&feed)), (vec![], vec![]), "deleted, whatever its last version looked like");
    take(&mut pump, vec![Event::Apply(bad("c", 1))]);
    take(&mut pump, listing(vec![]));
    assert_eq!(uids(&feed), Vec::<String>::new());
}

#[test]
fn another_object_of_the_same_name_does_not_take_over_the_last_good_version() {
    let (feed, mut pump) = Feed::<Expert>::new(TestHome::with(Vec::new()), Kind::Expert, Metrics::new());
    take(&mut pump, listing(vec![expert("a", 1, json!({}))]));
    let mut new = bad("a", 2);
    new.metadata.uid = Some("uid-new".into());
    take(&mut pump, listing(vec![new]));
    assert_eq!((names(&feed), uids(&feed)), (vec![], vec!["uid-new".into()]));
}

#[test]
fn a_status_of_another_release_is_computed_anew() {
    let (feed, mut pump) = Feed::<Expert>::new(TestHome::with(Vec::new()), Kind::Expert, Metrics::new());
    let status = json!({"status": {"observedGeneration": 1, "state": "FromAnotherRelease"}});
    take(&mut pump, listing(vec![expert("a", 1, status)]));
    assert!(feed.is_whole());
    assert!(feed.objects.state()[0].status.is_none());
}

#[tokio::test]
async fn an_event_tells_once_of_each_version_that_can_not_be_decoded() {
    let home = TestHome::with(Vec::new());
    let (feed, mut pump) = Feed::<Expert>::new(home.clone(), Kind::Expert, Metrics::new());
    take(&mut pump, listing(vec![bad("a", 1)]));
    let telling = tokio::spawn(feed.clone().tell_undecodable(home.clone()));
    while home.notes.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    take(&mut pump, listing(vec![bad("a", 1)]));
    take(&mut pump, vec![Event::Apply(bad("b", 1))]);
    while home.notes.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    telling.abort();
    assert!(*home.statuses.lock().unwrap() >= 2, "neither has a good version, and both say so");
    let notes = home.notes.lock().unwrap();
    let told: Vec<_> = notes.iter().map(|(name, note)| (name.as_str(), note.reason.as_str(), note.warning)).collect();
    assert_eq!(told, [("a", "Undecodable", true), ("b", "Undecodable", true)]);
}

#[test]
fn what_is_recorded_in_a_namespace_that_can_not_be_read_is_not_taken_for_deleted() {
    let home = TestHome::with(Vec::new());
    let metrics = Metrics::new();
    let (feed, mut pump) = Feed::<Expert>::new(home.clone(), Kind::Expert, metrics.clone());
    let unreadable = |unknown| Unreadable { why: "not allowed".into(), unknown };
    home.unreadable.lock().unwrap().insert("shut".into(), unreadable(true));
    pump.interrupted(&WatchError { kind: "Expert".into(), message: "not allowed".into() });
    take(&mut pump, listing(vec![expert("a", 1, json!({}))]));
    let recorded = [("uid-a", "team"), ("uid-old", "team"), ("uid-x", "shut")];
    assert_eq!(feed.uids(recorded), ["uid-a", "uid-x"], "what is gone from the other is");
    assert!(feed.knows("team") && !feed.knows("shut"));
    let failing = "ostler_watch_failing{controller=\"Expert\",namespace=\"shut\"} 1";
    assert!(metrics.render(jiff::Timestamp::now()).contains(failing), "{}", metrics.render(jiff::Timestamp::now()));

    // It can be read again, and nothing of it is there.
    home.unreadable.lock().unwrap().clear();
    take(&mut pump, listing(vec![expert("a", 1, json!({}))]));
    assert_eq!(feed.uids(recorded), ["uid-a"]);
    assert!(feed.knows("shut") && !metrics.render(jiff::Timestamp::now()).contains("namespace=\"shut\""));

    // One that was read before keeps what is known of it.
    home.unreadable.lock().unwrap().insert("team".into(), unreadable(false));
    pump.interrupted(&WatchError { kind: "Expert".into(), message: "not allowed".into() });
    assert!(feed.knows("team") && feed.uids([]) == ["uid-a"]);
}

#[test]
fn a_status_that_says_it_already_is_not_written_again() {
    let (feed, mut pump) = Feed::<Expert>::new(TestHome::with(Vec::new()), Kind::Expert, Metrics::new());
    take(&mut pump, listing(vec![bad("a", 1)]));
    let one = feed.undecodable.borrow().values().next().cloned().unwrap();
    assert!(!one.is_told && !one.has_last_good);
    let status = undecodable_status(&one, jiff::Timestamp::now());
    let told = expert("a", 1, json!({"spec": {"handler": "AHandlerOfAnotherRelease"}, "status": status}));
    take(&mut pump, vec![Event::Apply(told)]);
    assert!(feed.undecodable.borrow().values().all(|one| one.is_told));
}

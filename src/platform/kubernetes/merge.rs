//! The watches of several namespaces as one.
//!
//! Who follows a watch takes what comes between `Init` and `InitDone` as everything that there is, in the namespaces that could be
//! read. So the first listing is given once each namespace is listed or has failed; one that comes in later begins another
//! complete listing, and a further listing of a known namespace becomes the changes that it tells.

use std::collections::BTreeMap;

use kube::{ResourceExt, api::DynamicObject, runtime::watcher::Event};

/// What the watch of one namespace yields.
#[derive(Debug)]
pub enum MergeEvent {
    Event(Box<Event<DynamicObject>>),
    /// It can't be read now: what is known of it stays known.
    Failed,
    /// The namespace does not exist, so nothing in it does.
    Gone,
}

/// Joins the events of a fixed number of namespaces.
pub struct Merge {
    parts: Vec<Part>,
    begun: bool,
}

#[derive(Default)]
struct Part {
    /// By name.
    known: BTreeMap<String, DynamicObject>,
    /// A listing that has not ended.
    listing: BTreeMap<String, DynamicObject>,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Neither listed nor failed yet.
    #[default]
    Awaited,
    /// Never listed: what is there is unknown.
    Unknown,
    Listed,
}

impl Merge {
    pub fn new(namespaces: usize) -> Self {
        let parts = std::iter::repeat_with(Part::default).take(namespaces).collect();
        Self { parts, begun: false }
    }

    /// What the watch of one namespace tells is this for all of them.
    pub fn feed(&mut self, namespace: usize, told: MergeEvent) -> Vec<Event<DynamicObject>> {
        let Some(part) = self.parts.get_mut(namespace) else { return Vec::new() };
        let was_listed = part.state == State::Listed;
        let changes = match told {
            MergeEvent::Event(event) => part.take(*event),
            MergeEvent::Gone => {
                part.listing.clear();
                part.listing_ended()
            }
            MergeEvent::Failed => {
                if part.state == State::Awaited {
                    part.state = State::Unknown;
                }
                Vec::new()
            }
        };
        let came_in = part.state == State::Listed && !was_listed;
        if self.begun && !came_in {
            return changes;
        }
        let is_awaited = self.parts.iter().any(|part| part.state == State::Awaited);
        let is_known = self.parts.iter().any(|part| part.state == State::Listed);
        if is_awaited || !is_known {
            return Vec::new();
        }
        self.begun = true;
        let all = self.parts.iter().flat_map(|part| part.known.values().cloned());
        std::iter::once(Event::Init).chain(all.map(Event::InitApply)).chain([Event::InitDone]).collect()
    }
}

impl Part {
    fn take(&mut self, event: Event<DynamicObject>) -> Vec<Event<DynamicObject>> {
        match event {
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listing.insert(object.name_any(), object);
                Vec::new()
            }
            Event::InitDone => self.listing_ended(),
            Event::Apply(object) => {
                self.known.insert(object.name_any(), object.clone());
                vec![Event::Apply(object)]
            }
            Event::Delete(object) => {
                self.known.remove(&object.name_any());
                vec![Event::Delete(object)]
            }
        }
    }

    fn listing_ended(&mut self) -> Vec<Event<DynamicObject>> {
        self.state = State::Listed;
        let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.listing));
        let gone =
            before.iter().filter(|(name, object)| self.known.get(*name).is_none_or(|new| new.uid() != object.uid()));
        let gone = gone.map(|(_, object)| Event::Delete(object.clone()));
        let new = self.known.iter().filter(|(name, object)| {
            before.get(*name).is_none_or(|old| old.resource_version() != object.resource_version())
        });
        let new = new.map(|(_, object)| Event::Apply(object.clone()));
        gone.chain(new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Apply, Delete, Init, InitApply, InitDone};

    fn object(name: &str, version: u32) -> DynamicObject {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Thing",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
        }))
        .unwrap()
    }

    fn shown(events: &[Event<DynamicObject>]) -> Vec<String> {
        let name =
            |object: &DynamicObject| format!("{}@{}", object.name_any(), object.resource_version().unwrap_or_default());
        let show = |event: &Event<DynamicObject>| match event {
            Init => "init".to_owned(),
            InitDone => "done".to_owned(),
            InitApply(object) => format!("has {}", name(object)),
            Apply(object) => format!("apply {}", name(object)),
            Delete(object) => format!("delete {}", name(object)),
        };
        events.iter().map(show).collect()
    }

    fn fed(merge: &mut Merge, events: Vec<(usize, Event<DynamicObject>)>) -> Vec<String> {
        events.into_iter().flat_map(|(part, event)| told(merge, part, MergeEvent::Event(Box::new(event)))).collect()
    }

    fn told(merge: &mut Merge, part: usize, told: MergeEvent) -> Vec<String> {
        shown(&merge.feed(part, told))
    }

    fn both_listed() -> Merge {
        let mut merge = Merge::new(2);
        let events = vec![(0, Init), (0, InitApply(object("a", 1))), (0, InitDone), (1, Init), (1, InitDone)];
        assert_eq!(fed(&mut merge, events), ["init", "has a@1", "done"]);
        merge
    }

    #[test]
    fn nothing_is_complete_before_every_namespace_is_listed() {
        let mut merge = Merge::new(2);
        let first = vec![(0, Init), (0, InitApply(object("a", 1))), (0, InitDone), (0, Apply(object("a", 2)))];
        assert_eq!(fed(&mut merge, first), Vec::<String>::new());
        let second = vec![(1, Init), (1, InitApply(object("b", 1)))];
        assert_eq!(fed(&mut merge, second), Vec::<String>::new());
        assert_eq!(fed(&mut merge, vec![(1, InitDone)]), ["init", "has a@2", "has b@1", "done"]);
    }

    #[test]
    fn a_namespace_that_can_not_be_read_holds_up_nobody_and_comes_in_when_it_can() {
        for first in [0, 1] {
            let mut merge = Merge::new(2);
            let listed = vec![(0, Init), (0, InitApply(object("a", 1))), (0, InitDone)];
            let all = ["init", "has a@1", "done"];
            if first == 0 {
                assert_eq!(fed(&mut merge, listed), Vec::<String>::new());
                assert_eq!(told(&mut merge, 1, MergeEvent::Failed), all);
            } else {
                assert_eq!(told(&mut merge, 1, MergeEvent::Failed), Vec::<String>::new());
                assert_eq!(fed(&mut merge, listed), all);
            }
            assert_eq!(told(&mut merge, 1, MergeEvent::Failed), Vec::<String>::new(), "once more");
            assert_eq!(fed(&mut merge, vec![(0, Apply(object("a", 2)))]), ["apply a@2"], "the other goes on");
            let back = vec![(1, Init), (1, InitApply(object("b", 1))), (1, InitDone)];
            assert_eq!(fed(&mut merge, back), ["init", "has a@2", "has b@1", "done"]);
        }
    }

    #[test]
    fn while_no_namespace_can_be_read_nothing_is_known() {
        let mut merge = Merge::new(2);
        for part in [0, 1, 0, 1] {
            assert_eq!(told(&mut merge, part, MergeEvent::Failed), Vec::<String>::new(), "that is no empty listing");
        }
        assert_eq!(fed(&mut merge, vec![(1, Init), (1, InitDone)]), ["init", "done"]);
    }

    #[test]
    fn a_failing_namespace_keeps_what_is_known_and_one_that_is_gone_has_nothing() {
        let mut merge = both_listed();
        assert_eq!(told(&mut merge, 0, MergeEvent::Failed), Vec::<String>::new());
        assert_eq!(told(&mut merge, 0, MergeEvent::Gone), ["delete a@1"]);
        assert_eq!(told(&mut merge, 0, MergeEvent::Gone), Vec::<String>::new());
        let anew = vec![(0, Init), (0, InitApply(object("a", 7))), (0, InitDone)];
        assert_eq!(fed(&mut merge, anew), ["apply a@7"]);
        let mut merge = Merge::new(2);
        assert_eq!(told(&mut merge, 0, MergeEvent::Gone), Vec::<String>::new());
        assert_eq!(told(&mut merge, 1, MergeEvent::Gone), ["init", "done"], "all are gone: that is known");
    }

    #[test]
    fn a_later_listing_of_one_namespace_is_told_as_its_changes() {
        let mut merge = both_listed();
        let events = vec![
            (0, Init),
            (0, InitApply(object("a", 2))),
            (0, InitApply(object("c", 1))),
            (0, InitDone),
            (0, Init),
            (0, InitApply(object("c", 1))),
            (0, InitDone),
        ];
        assert_eq!(fed(&mut merge, events), ["apply a@2", "apply c@1", "delete a@2"]);
    }

    #[test]
    fn a_listing_that_broke_off_changes_nothing() {
        let mut merge = both_listed();
        let events = vec![(0, Init), (0, Init), (0, InitApply(object("a", 1))), (0, InitDone)];
        assert_eq!(fed(&mut merge, events), Vec::<String>::new());
    }

    #[test]
    fn changes_pass_through() {
        let mut merge = both_listed();
        let events = vec![(1, Apply(object("b", 1))), (0, Delete(object("a", 3)))];
        assert_eq!(fed(&mut merge, events), ["apply b@1", "delete a@3"]);
    }
}

//! The watches of several namespaces as one.
//!
//! Who follows a watch takes what comes between `Init` and `InitDone` as everything that there is. So the first listing is
//! given only when that of every namespace is there, and a later one of a single namespace becomes the changes that it
//! tells.

use std::collections::BTreeMap;

use kube::{ResourceExt, api::DynamicObject, runtime::watcher::Event};

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
    listed: bool,
}

impl Merge {
    pub fn new(namespaces: usize) -> Self {
        let parts = std::iter::repeat_with(Part::default).take(namespaces).collect();
        Self { parts, begun: false }
    }

    /// What an event of one namespace is for all of them.
    pub fn feed(&mut self, namespace: usize, event: Event<DynamicObject>) -> Vec<Event<DynamicObject>> {
        let Some(part) = self.parts.get_mut(namespace) else { return Vec::new() };
        let changes = match event {
            Event::Init => {
                part.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                part.listing.insert(object.name_any(), object);
                Vec::new()
            }
            Event::InitDone => part.listing_ended(),
            Event::Apply(object) => {
                part.known.insert(object.name_any(), object.clone());
                vec![Event::Apply(object)]
            }
            Event::Delete(object) => {
                part.known.remove(&object.name_any());
                vec![Event::Delete(object)]
            }
        };
        if self.begun {
            return changes;
        }
        if !self.parts.iter().all(|part| part.listed) {
            return Vec::new();
        }
        self.begun = true;
        let all = self.parts.iter().flat_map(|part| part.known.values().cloned());
        std::iter::once(Event::Init).chain(all.map(Event::InitApply)).chain([Event::InitDone]).collect()
    }
}

impl Part {
    fn listing_ended(&mut self) -> Vec<Event<DynamicObject>> {
        self.listed = true;
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
        events.into_iter().flat_map(|(part, event)| shown(&merge.feed(part, event))).collect()
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

//! Who uses the models in Ollama's memory: us, or somebody else.
//!
//! Ollama moves a model's `expires_at` when a call ends (0.17.4). A move that no call of ours explains is somebody else's.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::engines::{EngineKind, LoadedModel, same_model};

/// Ollama rounds, and clocks differ: less than this is no move.
const SLACK: SignedDuration = SignedDuration::from_secs(2);

/// What is known of the models in memory.
#[derive(Clone, Debug, Default)]
pub struct Session {
    known: BTreeMap<String, Option<Timestamp>>,
    others: BTreeSet<String>,
    /// The model that a call of ours used since the last look.
    ours: Option<String>,
}

impl Session {
    /// A canary of ours used this model: its next move is ours.
    pub fn called(&mut self, model: &str) {
        self.ours = Some(model.to_owned());
    }

    /// Takes in what is loaded now, and returns the models that somebody else used since they were loaded. `ours_open`: a call of our workers was open since the last look, so that a move may be theirs.
    ///
    /// A move shows demand, never a served call: Ollama also moves the expiry when a call is aborted, and on a model that was just
    /// loaded at each look.
    pub fn look(&mut self, loaded: &[LoadedModel], ours_open: bool) -> &BTreeSet<String> {
        let ours = self.ours.take();
        let is_ours =
            |name: &str| ours_open || ours.as_deref().is_some_and(|o| o == name || format!("{o}:latest") == name);
        for model in loaded {
            let moved = match self.known.get(&model.name) {
                None => true,
                Some(before) => differs(*before, model.expires_at),
            };
            if moved && !is_ours(&model.name) {
                self.others.insert(model.name.clone());
            }
        }
        self.known = loaded.iter().map(|m| (m.name.clone(), m.expires_at)).collect();
        self.others.retain(|name| loaded.iter().any(|m| m.name == *name));
        &self.others
    }
}

/// Since when models are not in memory: a load can't have begun before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AbsentModels {
    first_look: Option<Timestamp>,
    listed: BTreeSet<String>,
    left: BTreeMap<String, Timestamp>,
}

impl AbsentModels {
    pub fn look(&mut self, loaded: &[LoadedModel], now: Timestamp) {
        let listed: BTreeSet<String> = loaded.iter().map(|model| model.name.clone()).collect();
        self.left.extend(self.listed.difference(&listed).map(|name| (name.clone(), now)));
        self.left.retain(|name, _| !listed.contains(name));
        self.listed = listed;
        self.first_look.get_or_insert(now);
    }

    /// As far as it was looked; `None`: nobody has looked yet.
    pub fn since(&self, engine: EngineKind, model: &str) -> Option<Timestamp> {
        let left = self.left.iter().find(|(name, _)| same_model(engine, name, model));
        left.map(|(_, at)| *at).or(self.first_look)
    }
}

fn differs(a: Option<Timestamp>, b: Option<Timestamp>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.duration_since(b).abs() > SLACK,
        (a, b) => a.is_some() != b.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, expires_in: i64) -> LoadedModel {
        let at = Timestamp::from_second(1_700_000_000 + expires_in).unwrap();
        LoadedModel { name: name.into(), expires_at: Some(at), size: 1, size_vram: 0 }
    }

    fn others(session: &Session) -> Vec<&str> {
        session.others.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_model_is_absent_since_it_left_or_since_the_first_look() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let mut absent = AbsentModels::default();
        assert_eq!(absent.since(EngineKind::Ollama, "a"), None);
        for (second, loaded, since) in [(0, true, 0), (5, false, 5), (9, false, 5), (12, true, 0), (20, false, 20)] {
            absent.look(&if loaded { vec![model("a:latest", 300)] } else { vec![] }, at(second));
            assert_eq!(absent.since(EngineKind::Ollama, "a"), Some(at(since)), "at {second}");
            assert_eq!(absent.since(EngineKind::Ollama, "b"), Some(at(0)), "at {second}");
        }
    }

    #[test]
    fn what_we_loaded_is_ours_until_somebody_moves_its_expiry() {
        let mut session = Session::default();
        session.look(&[], false);
        session.called("a");
        session.look(&[model("a:latest", 300)], false);
        session.look(&[model("a:latest", 301)], false);
        assert!(others(&session).is_empty(), "a second is rounding");
        session.look(&[model("a:latest", 330)], true);
        assert!(others(&session).is_empty(), "a call of our workers may have moved it");
        session.look(&[model("a:latest", 360)], false);
        assert_eq!(others(&session), ["a:latest"], "nobody of us moved it");
        session.look(&[model("a:latest", 360)], false);
        assert_eq!(others(&session), ["a:latest"], "it sticks while the model is loaded");
        session.look(&[], false);
        session.called("a:latest");
        session.look(&[model("a:latest", 900)], false);
        assert!(others(&session).is_empty(), "a new load is a new session");
    }

    #[test]
    fn what_was_loaded_before_we_looked_is_somebody_elses() {
        let mut session = Session::default();
        session.look(&[model("b:latest", 100)], false);
        assert_eq!(others(&session), ["b:latest"]);
    }
}

//! Who uses the models in Ollama's memory: us, or somebody else.
//!
//! Ollama moves a model's `expires_at` when a call ends (0.17.4). A move that no call of ours explains is somebody else's
//! call, and one that ended well.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::engines::LoadedModel;

/// Ollama rounds, and clocks differ: less than this is no move.
const SLACK: SignedDuration = SignedDuration::from_secs(2);

/// What the prober knows beside what was seen.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// A proof is wanted: idle or not.
    pub prove: bool,
    /// `Retry-After` of the last answer.
    pub not_before: Option<Timestamp>,
    /// Whether `/api/ps` was ever read.
    looked: bool,
    known: BTreeMap<String, Option<Timestamp>>,
    others: BTreeSet<String>,
    /// The model that a call of ours used since the last look.
    ours: Option<String>,
}

impl Session {
    /// A fresh session in which a proof is wanted.
    #[cfg(test)]
    pub fn proving() -> Self {
        Self { prove: true, ..Self::default() }
    }

    /// Whether somebody else used this model since it was loaded.
    pub fn others_use(&self, model: &str) -> bool {
        self.others.contains(model)
    }

    /// A call of ours used this model: its next move is ours.
    pub fn called(&mut self, model: &str) {
        self.ours = Some(model.to_owned());
    }

    /// Takes in what is loaded now. Returns whether a call of somebody else was seen to have ended.
    pub fn look(&mut self, loaded: &[LoadedModel]) -> bool {
        let mut others_ended = false;
        let ours = self.ours.take();
        let is_ours = |name: &str| ours.as_deref().is_some_and(|o| o == name || format!("{o}:latest") == name);
        for model in loaded {
            let moved = match self.known.get(&model.name) {
                None => true,
                Some(before) => differs(*before, model.expires_at),
            };
            if moved && !is_ours(&model.name) {
                self.others.insert(model.name.clone());
                // At the first look nobody knows when the call was.
                others_ended |= self.looked;
            }
        }
        self.known = loaded.iter().map(|m| (m.name.clone(), m.expires_at)).collect();
        self.others.retain(|name| loaded.iter().any(|m| m.name == *name));
        self.looked = true;
        others_ended
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

    #[test]
    fn what_we_loaded_is_ours_until_somebody_moves_its_expiry() {
        let mut session = Session::default();
        assert!(!session.look(&[]));
        session.called("a");
        assert!(!session.look(&[model("a:latest", 300)]));
        assert!(!session.others_use("a:latest"));
        assert!(!session.look(&[model("a:latest", 301)]), "a second is rounding");
        assert!(session.look(&[model("a:latest", 330)]), "nobody of us moved it");
        assert!(session.others_use("a:latest"));
        assert!(!session.look(&[model("a:latest", 330)]));
        assert!(session.others_use("a:latest"), "it sticks while the model is loaded");
        assert!(!session.look(&[]));
        session.called("a:latest");
        session.look(&[model("a:latest", 900)]);
        assert!(!session.others_use("a:latest"), "a new load is a new session");
    }

    #[test]
    fn what_was_loaded_before_we_looked_is_somebody_elses() {
        let mut session = Session::default();
        assert!(!session.look(&[model("b:latest", 100)]), "but when they called is not known");
        assert!(session.others_use("b:latest"));
    }

    #[test]
    fn a_model_that_appears_by_itself_was_called_by_somebody() {
        let mut session = Session::default();
        session.look(&[]);
        assert!(session.look(&[model("c:latest", 300)]));
    }
}

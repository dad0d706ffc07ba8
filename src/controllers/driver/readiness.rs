//! Says in the log when a resource is not ready, once for each reason: as a warning when a person may have to act.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::Deserialize;

use crate::{
    api::{Condition, ConditionStatus, Kind, condition},
    platform::ObjectId,
};

/// Kinds whose controllers mend what is wrong, until they give up.
const HEALED: [Kind; 2] = [Kind::LLMBackend, Kind::ContainerHealthCheck];
/// What ends by itself, or is as a person wants it.
const EXPECTED: [&str; 8] =
    ["Suspended", "StoppedByPerson", "HeldByPerson", "Held", "Scaling", "Waiting", "Proving", "Unheard"];
/// What their controllers go on trying although it takes a person most likely.
const HOPELESS: [&str; 2] = ["NothingSelected", "CrashLooping"];

/// What was said last about each object of a kind, by namespace and name: its reason, or `None` when it was ready.
#[derive(Default)]
pub struct ReadinessLog(Mutex<HashMap<(String, String), Option<String>>>);

impl ReadinessLog {
    pub fn knows(&self, namespace: &str, name: &str) -> bool {
        self.0.lock().contains_key(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn forget(&self, namespace: &str, name: &str) {
        self.0.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Logs what a status says of readiness, where that is news.
    pub fn tell(&self, of: Kind, id: &ObjectId, status: &serde_json::Value) {
        let Some(now) = Readiness::of(status) else { return };
        let reason = (!now.ready).then(|| now.reason.clone());
        let ObjectId { kind, namespace, name, .. } = id;
        let before = self.0.lock().insert((namespace.clone(), name.clone()), reason);
        match now.news(of, before.as_ref().map(Option::as_deref)) {
            None => {}
            Some(News::Ready) => tracing::info!(parent: None, kind, namespace, name, "resource is ready again"),
            Some(News::NotReady) => {
                tracing::info!(parent: None, kind, namespace, name, reason = now.reason, why = now.message, "resource is not ready");
            }
            Some(News::ForPerson) => {
                let next = of.remedy(namespace, name, &now.reason);
                let (reason, why) = (now.reason, now.message);
                // Its pass says whose it is, too.
                tracing::warn!(
                    parent: None,
                    kind,
                    namespace,
                    name,
                    reason,
                    why,
                    next,
                    "resource is not ready; a person may have to act"
                );
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Ready,
    NotReady,
    ForPerson,
}

struct Readiness {
    ready: bool,
    stalled: bool,
    reason: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    conditions: Vec<Condition>,
}

impl Readiness {
    fn of(status: &serde_json::Value) -> Option<Self> {
        let Conditions { conditions } = Conditions::deserialize(status).ok()?;
        let ready = condition(&conditions, "Ready")?;
        Some(Self {
            ready: ready.status == ConditionStatus::True,
            stalled: condition(&conditions, "Stalled").is_some_and(|c| c.status == ConditionStatus::True),
            reason: ready.reason.clone(),
            message: ready.message.clone(),
        })
    }

    /// `before`: the reason that was said last, `Some(None)` when it was ready, `None` when nothing was said.
    fn news(&self, kind: Kind, before: Option<Option<&str>>) -> Option<News> {
        let said = before.flatten();
        if self.ready {
            return said.filter(|reason| !EXPECTED.contains(reason)).map(|_| News::Ready);
        }
        if said == Some(self.reason.as_str()) || EXPECTED.contains(&self.reason.as_str()) {
            return None;
        }
        let hopeless = HOPELESS.contains(&self.reason.as_str());
        Some(if self.stalled || hopeless || !HEALED.contains(&kind) { News::ForPerson } else { News::NotReady })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn readiness(ready: &str, stalled: &str, reason: &str) -> Readiness {
        let condition = |type_: &str, status: &str| {
            json!({"type": type_, "status": status, "reason": reason, "message": "why",
                "lastTransitionTime": "2026-03-01T11:59:00Z", "observedGeneration": 1})
        };
        Readiness::of(&json!({"conditions": [condition("Ready", ready), condition("Stalled", stalled)]})).unwrap()
    }

    #[test]
    fn a_person_is_warned_once_of_what_nobody_else_mends() {
        for (what, kind, now, before, news) in [
            (
                "a model that nobody serves",
                Kind::Expert,
                ("False", "False", "ModelMissing"),
                None,
                Some(News::ForPerson),
            ),
            ("said already", Kind::Expert, ("False", "False", "ModelMissing"), Some(Some("ModelMissing")), None),
            (
                "another reason",
                Kind::Expert,
                ("False", "True", "PromptMissing"),
                Some(Some("ModelMissing")),
                Some(News::ForPerson),
            ),
            ("mended", Kind::Expert, ("True", "False", "Available"), Some(Some("ModelMissing")), Some(News::Ready)),
            ("well from the start", Kind::Expert, ("True", "False", "Available"), None, None),
            ("suspended", Kind::Expert, ("False", "False", "Suspended"), Some(None), None),
            (
                "healed by its controller",
                Kind::LLMBackend,
                ("False", "False", "Refused"),
                Some(None),
                Some(News::NotReady),
            ),
            (
                "given up",
                Kind::LLMBackend,
                ("False", "True", "DeferredToHuman"),
                Some(Some("Refused")),
                Some(News::ForPerson),
            ),
            ("just started", Kind::LLMBackend, ("False", "False", "Proving"), None, None),
            ("and proved", Kind::LLMBackend, ("True", "False", "Serving"), Some(Some("Proving")), None),
        ] {
            let (ready, stalled, reason) = now;
            assert_eq!(readiness(ready, stalled, reason).news(kind, before), news, "{what}");
        }
        assert!(Readiness::of(&json!(null)).is_none(), "nothing is known yet");
    }
}

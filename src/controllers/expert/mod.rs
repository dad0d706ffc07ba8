//! Expert: judged by whether somebody serves its model, and projected with its system prompt.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    api::{Expert, ExpertSpec, ExpertState, ExpertStatus, Handler, Kind, LLMBackend, Requirement, TextKind, TextRef},
    platform::{PlatformError, SecretError},
};

use super::{
    declared::{ControlPlane, DeclaredObserved, DeclaredPlan, Declares, Gate, PlanOf, projected},
    error::StepError,
    shared::NamespacedName,
};

/// The kind's own part.
pub struct Experts(pub Arc<ControlPlane>);

/// What is looked at beside the object.
#[derive(Clone, Debug, Default)]
pub struct ExpertObserved {
    /// Backends of its namespace that serve its model, first asked first.
    pub backends: Vec<String>,
    /// The text that systemPromptRef leads to, or why it leads to none.
    pub prompt: Option<Result<String, String>>,
    /// Why its webhook can't be signed.
    pub secret_problem: Option<String>,
    /// The prompt that was projected last: it serves while the reference leads nowhere.
    pub last_prompt: Option<String>,
}

#[async_trait]
impl Declares for Experts {
    type Object = Expert;
    type Observed = ExpertObserved;
    type Action = ();

    const KIND: Kind = Kind::Expert;

    fn declared(spec: &ExpertSpec) -> (bool, &[Requirement]) {
        (spec.suspend, &[])
    }

    async fn observe(&self, object: &Expert, base: &DeclaredObserved) -> Result<ExpertObserved, StepError> {
        let (spec, key) = (&object.spec, &base.key);
        let declared = self.0.feeds.backends.objects.state();
        let mut backends: Vec<&LLMBackend> = declared
            .iter()
            .map(|backend| &**backend)
            .filter(|backend| backend.metadata.namespace.as_deref() == Some(&key.namespace))
            .filter(|backend| spec.model.as_ref().is_some_and(|model| serves(backend, model)))
            .collect();
        backends.sort_by_key(|backend| (backend.spec.priority, backend.metadata.name.clone()));
        let known = self.0.book.row(&base.uid);
        Ok(ExpertObserved {
            backends: backends.iter().filter_map(|backend| backend.metadata.name.clone()).collect(),
            prompt: match &spec.system_prompt_ref {
                Some(reference) => Some(self.prompt(reference, key).await?),
                None => None,
            },
            secret_problem: self.secret_problem(spec, key).await?,
            last_prompt: known
                .filter(|_| !is_secret(spec))
                .and_then(|row| Some(row.spec.get("systemPrompt")?.as_str()?.to_owned())),
        })
    }

    fn plan(object: &Expert, observed: &DeclaredObserved<ExpertObserved>, _: &Gate, _: Timestamp) -> PlanOf<Self> {
        plan(&object.spec, observed)
    }
}

impl Experts {
    async fn prompt(&self, reference: &TextRef, key: &NamespacedName) -> Result<Result<String, String>, StepError> {
        let TextRef { kind, name, key: field } = reference;
        let namespace = &key.namespace;
        let platform = &self.0.parts.platform;
        let found = match kind {
            TextKind::ConfigMap => platform.config_map(namespace, name).await,
            TextKind::Secret if self.0.parts.sealing.is_none() => {
                let why = "it is a Secret, which only workers with OSTLER_KEY may read: give OSTLER_KEY to the controller and to the workers";
                return Ok(Err(why.to_owned()));
            }
            TextKind::Secret => platform.prompt_secret(namespace, name).await,
        };
        let what = format!("{} {namespace}/{name}", kind.as_str());
        let data = match found {
            Ok(data) => data,
            Err(PlatformError::NotFound(_)) => return Ok(Err(format!("{what} is not there: create it"))),
            Err(PlatformError::Forbidden(why)) => return Ok(Err(format!("{what} may not be read: {why}"))),
            Err(error) => return Err(error.into()),
        };
        let Some(bytes) = data.get(field) else { return Ok(Err(format!("{what} has no key {field}: add it"))) };
        Ok(String::from_utf8(bytes.clone()).map_err(|_| format!("key {field} of {what} is not text")))
    }

    /// Why its webhook's Secret can't sign, if so.
    async fn secret_problem(&self, spec: &ExpertSpec, key: &NamespacedName) -> Result<Option<String>, StepError> {
        let Some(secret) = spec.webhook.as_ref().and_then(|webhook| webhook.secret_ref.as_ref()) else {
            return Ok(None);
        };
        let (namespace, name) = (&key.namespace, &secret.name);
        match self.0.shared.secrets.text(namespace, name, "signingSecret").await {
            Ok(text) => Ok(crate::host::SigningSecret::parse(&text)
                .err()
                .map(|error| format!("key signingSecret of Secret {namespace}/{name}: {error}"))),
            Err(SecretError::Missing(what)) => Ok(Some(what)),
            Err(SecretError::Unavailable(error)) => Err(error.into()),
        }
    }
}

/// Whether a backend is declared to serve what tasks call `alias`.
fn serves(backend: &LLMBackend, alias: &str) -> bool {
    backend.spec.models.iter().any(|model| model.alias.as_ref().unwrap_or(&model.name) == alias)
}

fn is_secret(spec: &ExpertSpec) -> bool {
    spec.system_prompt_ref.as_ref().is_some_and(|reference| reference.kind == TextKind::Secret)
}

fn plan(spec: &ExpertSpec, observed: &DeclaredObserved<ExpertObserved>) -> DeclaredPlan<ExpertStatus> {
    let facts = &observed.facts;
    let status =
        ExpertStatus { backends: facts.backends.iter().take(64).cloned().collect(), ..ExpertStatus::default() };
    let of = |state, ready, stalled, message: String| DeclaredPlan::new(state, ready, stalled, message, status.clone());
    let mut plan = if observed.suspended {
        of(ExpertState::Suspended, false, false, "suspended: it gets no tasks".into())
    } else if let Some(Err(why)) = &facts.prompt {
        of(ExpertState::PromptMissing, false, true, format!("its system prompt can't be read: {why}"))
    } else if let Some(why) = &facts.secret_problem {
        of(ExpertState::SecretMissing, false, true, why.clone())
    } else {
        match (&spec.model, spec.handler) {
            (Some(model), Handler::Chat | Handler::Embed) if facts.backends.is_empty() => of(
                ExpertState::ModelMissing,
                false,
                false,
                format!(
                    "no LLMBackend of this namespace serves {model:?}: list it under models of one, as name or alias"
                ),
            ),
            (Some(model), Handler::Chat | Handler::Embed) => {
                of(ExpertState::Available, true, false, format!("{model} is served by {}", facts.backends.join(", ")))
            }
            (_, Handler::External) => {
                of(ExpertState::Available, true, false, "its tasks wait for clients that claim them".into())
            }
            _ => of(ExpertState::Available, true, false, "its webhook is sent its tasks".into()),
        }
    };
    let mut resolved = spec.clone();
    match &facts.prompt {
        // Workers read it sealed, for each call.
        Some(Ok(_)) if is_secret(spec) => {}
        Some(Ok(text)) => resolved.system_prompt = Some(text.clone()),
        Some(Err(why)) => {
            resolved.system_prompt.clone_from(&facts.last_prompt);
            // Without its prompt it would do its tasks wrongly; with the last one it goes on.
            if facts.last_prompt.is_none() {
                plan.held = Some(format!("waits for its system prompt: {why}"));
                // Claims count places: without one it keeps its tasks, and starts none.
                resolved.max_concurrent_tasks = 0;
            }
        }
        None => {}
    }
    plan.spec = Some(projected(&resolved));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(spec: serde_json::Value, suspended: bool, facts: ExpertObserved) -> DeclaredPlan<ExpertStatus> {
        let spec: ExpertSpec = serde_json::from_value(spec).unwrap();
        let key = NamespacedName::new("team", "igor");
        plan(
            &spec,
            &DeclaredObserved {
                key,
                uid: "u".into(),
                suspended,
                requirements: Vec::new(),
                handled_reconcile: None,
                facts,
            },
        )
    }

    fn served() -> ExpertObserved {
        ExpertObserved { backends: vec!["mlx".into(), "ollama".into()], ..ExpertObserved::default() }
    }

    #[test]
    fn an_expert_is_available_when_its_model_is_served_and_its_references_lead_somewhere() {
        let chat = || json!({"model": "small"});
        let by_ref = || json!({"model": "small", "systemPromptRef": {"name": "p"}});
        let missing = || ExpertObserved { prompt: Some(Err("ConfigMap team/p is not there".into())), ..served() };
        let unsigned = || ExpertObserved {
            secret_problem: Some("Secret team/s is not there".into()),
            ..ExpertObserved::default()
        };
        let hook = || json!({"handler": "Webhook", "webhook": {"url": "http://h:1"}});
        for (what, spec, suspended, facts, state, ready, stalled) in [
            ("served", chat(), false, served(), ExpertState::Available, true, false),
            ("not served", chat(), false, ExpertObserved::default(), ExpertState::ModelMissing, false, false),
            ("suspended", chat(), true, ExpertObserved::default(), ExpertState::Suspended, false, false),
            ("no prompt", by_ref(), false, missing(), ExpertState::PromptMissing, false, true),
            (
                "a webhook needs no backend",
                hook(),
                false,
                ExpertObserved::default(),
                ExpertState::Available,
                true,
                false,
            ),
            ("no secret", hook(), false, unsigned(), ExpertState::SecretMissing, false, true),
        ] {
            let judged = judged(spec, suspended, facts);
            assert_eq!(
                (judged.state, judged.ready, judged.stalled),
                (state, ready, stalled),
                "{what}: {}",
                judged.message
            );
        }
    }

    #[test]
    fn the_prompt_is_projected_and_the_last_one_serves_while_it_is_away() {
        let spec = || json!({"model": "small", "systemPromptRef": {"name": "p"}});
        let with = |prompt: Result<&str, &str>, last: Option<&str>| ExpertObserved {
            prompt: Some(prompt.map(str::to_owned).map_err(str::to_owned)),
            last_prompt: last.map(str::to_owned),
            ..served()
        };
        let found = judged(spec(), false, with(Ok("You are."), None));
        assert_eq!((&found.spec.unwrap()["systemPrompt"], found.held), (&json!("You are."), None));
        let kept = judged(spec(), false, with(Err("gone"), Some("You were.")));
        assert_eq!((&kept.spec.unwrap()["systemPrompt"], kept.held), (&json!("You were."), None));
        let none = judged(spec(), false, with(Err("gone"), None));
        let spec = none.spec.unwrap();
        assert_eq!((spec.get("systemPrompt"), &spec["maxConcurrentTasks"]), (None, &json!(0)));
        assert!(none.held.unwrap().contains("gone"));
    }

    #[test]
    fn the_text_of_a_secret_is_never_projected() {
        let spec = json!({"model": "small", "systemPromptRef": {"kind": "Secret", "name": "p"}});
        let found = judged(spec, false, ExpertObserved { prompt: Some(Ok("hunter2".into())), ..served() });
        assert!(found.held.is_none() && found.ready);
        let projected = found.spec.unwrap();
        assert!(!projected.to_string().contains("hunter2"), "{projected}");
        assert_eq!(
            (&projected["systemPromptRef"]["kind"], &projected["maxConcurrentTasks"]),
            (&json!("Secret"), &json!(5))
        );
    }
}

//! Names with a context of their own: looked at now and then, because their models may be pulled anew, and made where they are ordered.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    api::{LLMBackendSpec, Model},
    engines::{ContextName, Endpoint, EngineKind, Failure, Listing, engine},
};

use super::task::ProberReport;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// A manifest is written at once; what reads it may wait for a server that loads.
const MAKE: Duration = Duration::from_secs(30);

/// When they were last looked at.
#[derive(Default)]
pub struct ContextLooks {
    last: Option<Instant>,
}

impl ContextLooks {
    /// The next probe looks again.
    pub fn again(&mut self) {
        self.last = None;
    }

    /// The names that are listed and mean another model or context than is declared; `None` where nothing was looked at.
    pub async fn look(
        &mut self,
        spec: &LLMBackendSpec,
        at: &Endpoint,
        listing: &Listing,
        timeout: Duration,
    ) -> Option<BTreeSet<String>> {
        let kind = spec.engine;
        let declared =
            spec.models.iter().filter_map(|model| Some((model, model.own_name(kind), context(model, kind)?)));
        // Of a model that was removed, what was made of it goes on.
        let listed: Vec<_> =
            declared.filter(|(model, own, _)| listing.has(kind, own) && listing.has(kind, &model.name)).collect();
        if listed.is_empty() || self.last.is_some_and(|at| at.elapsed() < EVERY) {
            return None;
        }
        let mut outdated = BTreeSet::new();
        for (model, own, tokens) in listed {
            let wanted = ContextName { name: &own, model: &model.name, tokens };
            match engine(kind).has_context(at, wanted, timeout).await {
                Ok(true) => {}
                Ok(false) => drop(outdated.insert(own.into_owned())),
                // The next probe looks again; until then it counts as it did.
                Err(error) => {
                    tracing::debug!(model = model.name, %error, "could not look at a model's context");
                    return None;
                }
            }
        }
        self.last = Some(Instant::now());
        Some(outdated)
    }
}

/// The declared context of a model that has a name of its own for it.
fn context(model: &Model, kind: EngineKind) -> Option<u32> {
    let tokens = model.context_tokens.filter(|_| model.own_name(kind) != model.name)?;
    u32::try_from(tokens).ok()
}

/// The model and context that a name is declared for; none: it is no such name.
pub fn declared<'a>(spec: &'a LLMBackendSpec, name: &str) -> Option<(&'a Model, u32)> {
    let model = spec.models.iter().find(|model| model.name != name && model.own_name(spec.engine) == name)?;
    Some((model, context(model, spec.engine)?))
}

/// Makes a name.
pub async fn make(
    kind: EngineKind,
    endpoint: Endpoint,
    (name, model, tokens): (String, String, u32),
    reports: mpsc::UnboundedSender<ProberReport>,
) {
    let wanted = ContextName { name: &name, model: &model, tokens };
    let made = engine(kind).make_context(&endpoint, wanted, MAKE).await;
    match &made {
        Ok(()) => tracing::info!(name, model, tokens, "made a model with the context that is declared"),
        Err(error) => tracing::warn!(name, model, %error, "could not make a model with the declared context"),
    }
    let error = made.err().map(|error| (error.to_string(), matches!(error.failure, Failure::Rejected { .. })));
    // Nobody listens any more: the prober was stopped.
    let _ = reports.send(ProberReport::Pulled { model: name, error });
}

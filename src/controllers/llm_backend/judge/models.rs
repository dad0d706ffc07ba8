//! Whether the declared models are there, and fit.

use crate::{
    api::{BackendState, ConditionStatus},
    engines::Failure,
    store::CallFault,
};

use super::{Aspect, BackendAssessment, JudgeInput};

impl JudgeInput<'_> {
    pub(super) fn lacks_models(&self) -> Option<BackendAssessment> {
        let listing = self.seen.probes.listing()?;
        // What is missing, and whether it is got by itself: pulled, or made of a model that is there.
        let missing: Vec<(String, bool)> = self
            .spec
            .models
            .iter()
            .filter_map(|model| {
                let own = model.own_name(self.engine);
                let is_there = listing.has(self.engine, &own) && !self.seen.outdated.contains(&*own);
                match (is_there, listing.has(self.engine, &model.name)) {
                    (true, _) => None,
                    (false, true) => Some((own.into_owned(), true)),
                    (false, false) => Some((model.name.clone(), model.pull)),
                }
            })
            .collect();
        if missing.is_empty() {
            return None;
        }
        let names = missing.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let to_pull: Vec<_> = missing.iter().filter(|(_, is_got)| *is_got).map(|(name, _)| name.clone()).collect();
        let failed = to_pull.iter().filter_map(|m| self.seen.pulls.get(m)).find(|pull| pull.error.is_some());
        let given_up = failed.filter(|pull| pull.for_human());
        if let Some(pull) = given_up {
            let error = pull.error.as_deref().unwrap_or_default();
            let next = match pull.retry_at() {
                Some(_) => "it is tried again each hour",
                None => "correct the name in spec.models, or pull it by hand",
            };
            let message = format!("{names} cannot be pulled: {error}; {next}");
            let mut failed = self.judgement(BackendState::ModelsMissing, "PullFailed", message);
            failed.models_ready = Aspect::new(ConditionStatus::False, "PullFailed");
            failed.to_pull = to_pull;
            return Some(failed.for_human());
        }
        if to_pull.len() == missing.len() {
            let message = match failed.and_then(|pull| pull.error.as_deref()) {
                Some(error) => format!("pulling {names} failed and is tried again: {error}"),
                None => format!("pulling {names}"),
            };
            let mut pulling = self.judgement(BackendState::Proving, "Pulling", message);
            pulling.models_ready = Aspect::new(ConditionStatus::False, "Pulling");
            pulling.to_pull = to_pull;
            return Some(pulling);
        }
        let mut lacking = match self.wrong_user() {
            Some((is, wanted)) => self.judgement(
                BackendState::WrongUser,
                "WrongUser",
                format!("lacks {names}, and runs as {is}, not {wanted}: another user has another models folder"),
            ),
            None => {
                let hint = if listing.models.is_empty() {
                    "it lists no models at all: does it run as the user that has them, with their folder?"
                } else {
                    "pull them there, or correct spec.models"
                };
                self.judgement(BackendState::ModelsMissing, "ModelsMissing", format!("lacks {names}: {hint}"))
            }
        };
        lacking.models_ready = Aspect::new(ConditionStatus::False, lacking.reason);
        lacking.to_pull = to_pull;
        Some(lacking.for_human())
    }

    fn wrong_user(&self) -> Option<(String, String)> {
        let service = self.seen.agent.service()?;
        let (is, wanted) = (service.report.user.clone()?, service.wanted_user.clone()?);
        (is != wanted).then_some((is, wanted))
    }

    /// A declared model that needs more memory than there is: no restart can help, and nothing else proves it.
    pub(super) fn too_large(&self) -> Option<BackendAssessment> {
        let since = self.failing_after();
        let failures = self.seen.evidence.failures(since, self.now, &[CallFault::ModelTooLarge]);
        let canary = self.seen.canary.failure_since(since).and_then(|(_, failure)| match failure {
            Failure::ModelTooLarge { detail } => Some(detail.clone()),
            _ => None,
        });
        let detail = canary.or_else(|| failures.last().map(|call| call.message.clone()))?;
        let message = format!("{detail}: free memory, or declare a smaller model");
        let mut lacking = self.judgement(BackendState::ModelsMissing, "ModelTooLarge", message);
        lacking.models_ready = Aspect::new(ConditionStatus::False, "ModelTooLarge");
        // What somebody frees is found by asking again.
        lacking.needs_proof = true;
        Some(lacking.for_human())
    }

    pub(super) fn models_aspect(&self) -> Aspect {
        match self.seen.probes.listed() {
            Some(_) => Aspect::new(ConditionStatus::True, "Listed"),
            None if self.is_proved() => Aspect::new(ConditionStatus::True, "ProvedByInference"),
            None => Aspect::new(ConditionStatus::Unknown, "NoListing"),
        }
    }
}

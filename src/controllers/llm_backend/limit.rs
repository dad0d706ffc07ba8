//! How many calls at once: what was adapted to the pace of tokens, and lowered by one for each lack of memory, for an hour before
//! it rises by one again.

use jiff::{SignedDuration, Timestamp};

use crate::{api::LLMBackendSpec, store::CallFault};

use super::{facts::BackendFacts, memory::Lowered, plan::PlanNote};

/// Words of lack of memory that come within this time are of one death.
const SAME_DEATH: SignedDuration = SignedDuration::from_secs(60);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// The limit in force now, from what is declared, what was adapted, and the out-of-memory deaths that the agent reports.
pub fn effective(
    spec: &LLMBackendSpec,
    seen: &BackendFacts,
    lowered: &mut Option<Lowered>,
    now: Timestamp,
) -> (i32, Option<PlanNote>) {
    let max = spec.max_concurrency();
    let most = (max - spec.concurrency.min.clamp(1, max)).max(0);
    while let Some(low) = lowered.as_mut().filter(|l| now >= l.until && l.by > 0) {
        low.by -= 1;
        low.until += HOUR;
    }
    let by_agent = seen.agent.service().and_then(|s| s.report.out_of_memory_at);
    let by_calls = seen.evidence.newest(CallFault::OutOfMemory).map(|call| call.ended_at);
    // Both may tell of one death.
    let died_at = by_agent.max(by_calls);
    let known = lowered.as_ref().map(|l| l.seen_at);
    let mut note = None;
    if let Some(at) = died_at.filter(|at| known.is_none_or(|known| *at > known + SAME_DEATH) && now < *at + HOUR) {
        let by = (lowered.as_ref().map_or(0, |l| l.by) + 1).min(most);
        *lowered = Some(Lowered { by, until: now + HOUR, seen_at: at });
        note = Some(PlanNote::LimitLowered { to: max - by });
    }
    let adapted = seen.adapted.filter(|_| spec.concurrency.adaptive).unwrap_or(max).clamp(max - most, max);
    (adapted.min(max - lowered.as_ref().map_or(0, |l| l.by).min(most)), note)
}

/// Why the limit in force is below the declared maximum, if it is.
pub fn why(spec: &LLMBackendSpec, seen: &BackendFacts, lowered: Option<&Lowered>, limit: i32) -> Option<String> {
    let max = spec.max_concurrency();
    if limit >= max {
        return None;
    }
    let memory = lowered.filter(|low| low.by > 0 && limit >= max - low.by);
    match memory {
        Some(low) => {
            let until = Timestamp::from_second(low.until.as_second()).unwrap_or(low.until);
            Some(format!("it ran out of memory; one more at {until}"))
        }
        None => seen.limited_by.clone().or_else(|| Some("calls were slower with more of them".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_adapted_holds_within_the_declared_bounds_and_below_what_memory_allows() {
        let now = Timestamp::from_second(1_000).unwrap();
        let lowered = |by| Lowered { by, until: now + HOUR, seen_at: now };
        for (concurrency, adapted, lowered, wanted) in [
            ("max: 8, min: 2", None, None, 8),
            ("max: 8, min: 2", Some(5), None, 5),
            ("max: 8, min: 2", Some(1), None, 2),
            ("max: 8, min: 2", Some(20), None, 8),
            ("max: 8, min: 2", Some(5), Some(lowered(1)), 5),
            ("max: 8, min: 2", Some(5), Some(lowered(5)), 3),
            ("max: 8, adaptive: false", Some(5), None, 8),
        ] {
            let yaml = format!("{{engine: Ollama, url: 'http://127.0.0.1:11434', concurrency: {{{concurrency}}}}}");
            let spec: LLMBackendSpec = serde_saphyr::from_str(&yaml).unwrap();
            let seen = BackendFacts { adapted, ..BackendFacts::default() };
            let (limit, _) = effective(&spec, &seen, &mut lowered.clone(), now);
            assert_eq!(limit, wanted, "{concurrency}, adapted to {adapted:?}, lowered {lowered:?}");
            let why = why(&spec, &seen, lowered.as_ref(), limit);
            assert_eq!(why.is_some(), limit < 8, "{concurrency}: a limit below the declared one has a reason");
            let by_memory = lowered.as_ref().is_some_and(|low| limit >= 8 - low.by);
            assert_eq!(why.is_some_and(|why| why.contains("memory")), by_memory, "{concurrency}, {lowered:?}");
        }
    }
}

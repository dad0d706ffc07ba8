//! How far a limit of memory is raised, and when.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::api::{MemoryPolicy, OutOfMemory, quantity};

use super::{
    super::{
        container::{Container, ContainerLife},
        memory::ContainerMemory,
    },
    CheckInput,
};

/// Runs of a pod's container that are waited for, to raise its limit while it runs.
const MISSED: u32 = 3;
/// After its limit was raised for a process in it, a container that lived on gets no more for so long: its first process starts
/// what was killed again at once, and each of these dies in turn until the limit is in force.
const RAISED_ALIVE: SignedDuration = SignedDuration::from_mins(5);

/// So long a person is told that it has all the memory that it may have.
const TOLD: SignedDuration = SignedDuration::from_hours(24);

/// What a container that ran out of memory should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// In bytes.
    To(i64),
    /// It has all that it may have: a person's turn.
    AtMax,
}

/// The next limit, for one that ran out of memory under `limit`. Without a limit its own use was not the matter, but the
/// host's: nothing to raise.
pub fn raised(policy: &OutOfMemory, limit: Option<i64>) -> Option<Raised> {
    let limit = limit.filter(|limit| *limit > 0)?;
    let bytes = |text: &str| quantity::bytes(text).and_then(|bytes| i64::try_from(bytes).ok());
    let by_percent = i128::from(limit) * i128::from(100 + policy.increase_percent) / 100;
    let least = i128::from(limit) + i128::from(bytes(&policy.min_increase).unwrap_or_default());
    let wanted = i64::try_from(by_percent.max(least)).unwrap_or(i64::MAX);
    Some(match policy.max.as_deref().and_then(bytes) {
        Some(max) if limit >= max => Raised::AtMax,
        Some(max) => Raised::To(wanted.min(max)),
        None => Raised::To(wanted),
    })
}

/// A kubelet gives what it starts its new limit, but leaves the pod as a whole where it was, so that it dies again under that;
/// only for what runs it raises both (kubernetes/kubernetes#138760). What never runs long enough is not waited for without end.
pub fn awaits_run(facts: &CheckInput<'_>, container: &Container, missed: u32) -> bool {
    let in_place = facts.spec.out_of_memory.policy == MemoryPolicy::Resize;
    in_place && facts.starts_by_itself && container.life != ContainerLife::Running && missed < MISSED
}

/// Counts what ran out of memory since the last look, and decides the limit that it should have.
pub fn take_memory(
    facts: &CheckInput<'_>,
    container: &Container,
    one: &mut ContainerMemory,
    limits: &mut BTreeMap<String, i64>,
    now: Timestamp,
) -> Option<Raised> {
    let policy = &facts.spec.out_of_memory;
    if !container.instance.is_empty() && one.instance != container.instance {
        (one.instance, one.oom_seen, one.enough_since, one.missed) = (container.instance.clone(), 0, None, 0);
    }
    let next = raised(policy, container.memory_limit);
    let has = container.memory_limit.unwrap_or(i64::MAX);
    let enough = limits.get(&container.alike).map(|limit| has >= *limit);
    if container.oom_count > one.oom_seen {
        // A kubelet tells of the last end only, whatever came before it.
        one.oom_total += if facts.starts_by_itself { 1 } else { container.oom_count - one.oom_seen };
        one.oom_seen = container.oom_count;
        one.missed = if enough == Some(false) { one.missed.saturating_add(1) } else { 0 };
        one.last_oom_at = container.last_oom_at.or(Some(now));
        one.peak = one.peak.max(container.memory_peak);
        // A raised limit is told before or after what died under the old one: what has it is only raised for an end that came
        // after it was seen to have it.
        let under_this = one.enough_since.zip(one.last_oom_at).is_some_and(|(since, at)| since < at);
        let alive = one.last_oom_at.is_some_and(|at| container.outlived_out_of_memory(at));
        let paused = alive && one.raised_alive_at.is_some_and(|at| now < at + RAISED_ALIVE);
        if let Some(Raised::To(limit)) = next.filter(|_| !paused && (enough != Some(true) || under_this)) {
            limits.insert(container.alike.clone(), limit);
            one.raised_alive_at = alive.then_some(now);
        }
    }
    one.enough_since = one.enough_since.filter(|_| enough != Some(false)).or_else(|| enough?.then_some(now));
    // What a person raised as far is no proposal any more.
    if policy.policy == MemoryPolicy::Propose && limits.get(&container.alike).is_some_and(|limit| has >= *limit) {
        limits.remove(&container.alike);
    }
    let lately = one.last_oom_at.is_some_and(|at| now < at + TOLD);
    next.filter(|next| *next == Raised::AtMax && lately)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MI: i64 = 1 << 20;

    #[test]
    fn a_limit_grows_by_percent_at_least_by_so_much_and_never_past_its_max() {
        let policy = |increase_percent, min_increase: &str, max: Option<&str>| OutOfMemory {
            increase_percent,
            min_increase: min_increase.into(),
            max: max.map(str::to_owned),
            ..OutOfMemory::default()
        };
        for (policy, limit, expected) in [
            (policy(20, "100Mi", None), Some(1000 * MI), Some(Raised::To(1200 * MI))),
            (policy(20, "100Mi", None), Some(20 * MI), Some(Raised::To(120 * MI))),
            (policy(20, "100Mi", Some("64Mi")), Some(20 * MI), Some(Raised::To(64 * MI))),
            (policy(20, "100Mi", Some("64Mi")), Some(64 * MI), Some(Raised::AtMax)),
            (policy(20, "100Mi", Some("64Mi")), Some(65 * MI), Some(Raised::AtMax)),
            (policy(20, "100Mi", Some("64Mi")), None, None),
            (policy(1000, "1", None), Some(i64::MAX), Some(Raised::To(i64::MAX))),
        ] {
            assert_eq!(raised(&policy, limit), expected, "{policy:?} {limit:?}");
        }
    }
}

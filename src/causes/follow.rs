//! What becomes of known causes by what is seen now. It is asked again and again with the same facts: then nothing changes.

use jiff::{SignedDuration, Timestamp};

use super::{
    Cause, CauseFact, CauseFacts, CauseHealth, CauseSeverity, DerivedCause, WhoActs,
    cause::{MOST_MEMBERS, is_group},
};
use crate::api::ObjectKey;

/// Back within this time it is the same cause.
pub const AGAIN_WITHIN: SignedDuration = SignedDuration::from_hours(1);
/// So long must it be well to be resolved; each time that it comes back, twice as long, up to [`AGAIN_WITHIN`].
const WELL: SignedDuration = SignedDuration::from_secs(300);
/// How many tasks wait is written along with something else, or so often.
const COUNTED: SignedDuration = SignedDuration::from_secs(60);

/// Causes that changed, and new ones. `known` has the open ones and those that were resolved within [`AGAIN_WITHIN`].
pub fn follow(known: &[Cause], derived: &[DerivedCause], facts: &CauseFacts, now: Timestamp) -> Vec<Cause> {
    let mut changed: Vec<Cause> = derived.iter().filter_map(|seen| seen_again(known, seen, now)).collect();
    let is_seen = |cause: &&Cause| derived.iter().any(|seen| seen.key == cause.key);
    changed.extend(known.iter().filter(|cause| cause.is_open() && !is_seen(cause)).filter_map(|cause| {
        let next = unseen(cause, derived, facts, now);
        (next != *cause).then_some(Cause { updated_at: now, ..next })
    }));
    changed
}

/// `None`: nothing is new.
fn seen_again(known: &[Cause], seen: &DerivedCause, now: Timestamp) -> Option<Cause> {
    let last = known.iter().filter(|cause| cause.key == seen.key).max_by_key(|cause| cause.opened_at);
    let is_same = |cause: &&Cause| cause.resolved_at.is_none_or(|at| now.duration_since(at) < AGAIN_WITHIN);
    let Some(cause) = last.filter(is_same) else { return Some(opened(seen, now)) };
    let mut next = merged(cause, seen, now);
    if let Some(resolved_at) = next.resolved_at.take() {
        next.times += 1;
        next.since = seen.since.max(resolved_at).min(now);
        next.ended = None;
        next.worst = CauseSeverity::Info;
        next.most = 0;
    }
    next.well_since = None;
    next.folded_into = None;
    next.severity = next.severity_at(now);
    next.worst = next.worst.max(next.severity);
    next.note_most();
    let is_counted = now.duration_since(cause.updated_at) >= COUNTED;
    let steady = Cause { waiting: if is_counted { next.waiting } else { cause.waiting }, ..next };
    (steady != *cause).then_some(Cause { updated_at: now, ..steady })
}

fn opened(seen: &DerivedCause, now: Timestamp) -> Cause {
    // As the databases keep times.
    let opened_at = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
    let cause = Cause {
        key: seen.key.clone(),
        opened_at,
        root: seen.root.clone(),
        class: seen.class,
        severity: CauseSeverity::Info,
        worst: CauseSeverity::Info,
        acts: seen.acts,
        title: String::new(),
        evidence: String::new(),
        tried: Vec::new(),
        next: String::new(),
        members: Vec::new(),
        member_count: 0,
        most: 0,
        most_title: String::new(),
        waiting: 0,
        since: seen.since.min(now),
        times: 1,
        well_since: None,
        resolved_at: None,
        ended: None,
        folded_into: None,
        updated_at: now,
    };
    let mut cause = merged(&cause, seen, now);
    cause.note_most();
    let severity = cause.severity_at(now);
    Cause { severity, worst: severity, ..cause }
}

/// With what is seen of it now.
fn merged(cause: &Cause, seen: &DerivedCause, now: Timestamp) -> Cause {
    Cause {
        root: seen.root.clone(),
        class: seen.class,
        acts: seen.acts,
        title: seen.title.clone(),
        evidence: seen.evidence.clone(),
        tried: seen.tried.clone(),
        next: seen.next.clone(),
        members: seen.members.iter().take(MOST_MEMBERS).cloned().collect(),
        member_count: seen.members.len(),
        waiting: seen.waiting,
        since: cause.since.min(now),
        ..cause.clone()
    }
}

/// An open cause that is none now: a symptom of another one, or on its way to be well.
fn unseen(cause: &Cause, derived: &[DerivedCause], facts: &CauseFacts, now: Timestamp) -> Cause {
    let mut next = cause.clone();
    if let Some(other) = derived.iter().find(|other| is_symptom(cause, other)) {
        next.well_since = None;
        next.folded_into = Some(other.key.clone());
        return next;
    }
    let (how, at_once) = match rest(cause, facts) {
        Rest::Unknown => return next,
        Rest::Well => ("it is well again", false),
        Rest::Gone => ("it is not declared any more", true),
        Rest::Wished => ("a person suspended, stopped or held it", true),
    };
    let well_since = *next.well_since.get_or_insert(now);
    let needed = WELL.saturating_mul(1 << cause.times.saturating_sub(1).min(10)).min(AGAIN_WITHIN);
    if at_once || now.duration_since(well_since) >= needed {
        next.resolved_at = Some(now);
        next.severity = next.worst;
        next.title.clone_from(&next.most_title);
        next.member_count = next.most;
        next.ended = Some(how.to_owned());
    }
    next
}

/// Whether what the cause was about has another cause now.
fn is_symptom(cause: &Cause, other: &DerivedCause) -> bool {
    if is_group(&cause.root) {
        return cause.members.iter().any(|member| *member == other.root || other.members.contains(member));
    }
    other.root == cause.root || other.members.contains(&cause.root)
}

enum Rest {
    Unknown,
    Well,
    Gone,
    Wished,
}

fn rest(cause: &Cause, facts: &CauseFacts) -> Rest {
    if cause.acts == WhoActs::Wished {
        return Rest::Wished;
    }
    let health =
        |key: &ObjectKey| facts.objects.iter().find(|fact: &&CauseFact| fact.key == *key).map(|fact| &fact.health);
    if is_group(&cause.root) {
        let unknown = |key: &ObjectKey| matches!(health(key), Some(CauseHealth::Unknown | CauseHealth::Unwell(_)));
        if cause.members.iter().all(|key| health(key).is_none()) {
            return Rest::Gone;
        }
        return if cause.members.iter().any(unknown) { Rest::Unknown } else { Rest::Well };
    }
    match health(&cause.root) {
        None => Rest::Gone,
        Some(CauseHealth::Wished) => Rest::Wished,
        Some(CauseHealth::Unknown | CauseHealth::Unwell(_)) => Rest::Unknown,
        Some(CauseHealth::Well | CauseHealth::Waiting) => Rest::Well,
    }
}

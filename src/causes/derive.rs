//! Which objects have one cause: an unhealthy object that points to no unhealthy object, or what several of them share.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{
    CauseClass, CauseFact, CauseFacts, CauseHealth, WhoActs,
    cause::{HOST, NETWORK, clean, group_key, group_title, is_group, object_key},
};
use crate::api::{Kind, ObjectKey, number_of};

/// Backends of one host that fell silent within this time have one cause.
const TOGETHER: SignedDuration = SignedDuration::from_secs(60);

/// A cause as it is seen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedCause {
    pub key: String,
    pub root: ObjectKey,
    pub class: CauseClass,
    pub acts: WhoActs,
    pub title: String,
    pub evidence: String,
    pub tried: Vec<String>,
    pub next: String,
    /// Without the root, sorted.
    pub members: Vec<ObjectKey>,
    pub waiting: i64,
    pub since: Timestamp,
}

/// The causes of what is unhealthy, by key.
pub fn derive(facts: &CauseFacts, now: Timestamp) -> Vec<DerivedCause> {
    let objects: BTreeMap<&ObjectKey, &CauseFact> = facts.objects.iter().map(|fact| (&fact.key, fact)).collect();
    let mut by_root: BTreeMap<ObjectKey, Vec<&CauseFact>> = BTreeMap::new();
    for fact in objects.values() {
        if let Some(root) = root(fact, &objects) {
            by_root.entry(root.clone()).or_default().push(fact);
        }
    }
    let roots: Vec<&CauseFact> = by_root.keys().filter_map(|key| objects.get(key).copied()).collect();
    for (root, group) in groups(&roots, &objects, facts, now) {
        for part in group {
            let symptoms = by_root.remove(&part).unwrap_or_default();
            by_root.entry(root.clone()).or_default().extend(symptoms);
        }
    }
    by_root.into_iter().map(|(root, symptoms)| cause(root, &symptoms, &objects, now)).collect()
}

/// Follows what an object points to up to the last unhealthy one. In a ring the first by name is taken.
fn root<'a>(fact: &'a CauseFact, objects: &BTreeMap<&'a ObjectKey, &'a CauseFact>) -> Option<&'a ObjectKey> {
    if !matches!(fact.health, CauseHealth::Unwell(_) | CauseHealth::Waiting) {
        return None;
    }
    let mut path = vec![fact];
    loop {
        let last = path[path.len() - 1];
        let next = last.points_to.iter().filter_map(|key| objects.get(key).copied()).find(|next| {
            matches!(next.health, CauseHealth::Unwell(_) | CauseHealth::Wished | CauseHealth::Waiting)
                && next.key != last.key
        });
        let Some(next) = next.filter(|_| last.health != CauseHealth::Wished) else { break };
        if let Some(begin) = path.iter().position(|seen| seen.key == next.key) {
            let ring = path[begin..].iter().filter(|seen| seen.trouble().is_some());
            return ring.map(|seen| &seen.key).min().or_else(|| last_unwell(&path[..begin]));
        }
        path.push(next);
    }
    last_unwell(&path)
}

fn last_unwell<'a>(path: &[&'a CauseFact]) -> Option<&'a ObjectKey> {
    let is_root = |fact: &&&CauseFact| matches!(fact.health, CauseHealth::Unwell(_) | CauseHealth::Wished);
    path.iter().rev().find(is_root).map(|fact| &fact.key)
}

/// What several roots share, with those roots.
fn groups(
    roots: &[&CauseFact],
    objects: &BTreeMap<&ObjectKey, &CauseFact>,
    facts: &CauseFacts,
    now: Timestamp,
) -> Vec<(ObjectKey, Vec<ObjectKey>)> {
    let is_open = |root: &ObjectKey| facts.open.contains(&object_key(root, CauseClass::Down));
    let silent = |fact: &&CauseFact| fact.trouble().is_some_and(|trouble| trouble.silent);
    let mut groups = Vec::new();
    let agents: Vec<&CauseFact> = roots.iter().copied().filter(|f| is_of(f, Kind::HostAgent)).filter(silent).collect();
    let heard = objects.values().filter(|fact| is_of(fact, Kind::HostAgent) && fact.health != CauseHealth::Wished);
    let network = group_key(NETWORK, "");
    if !agents.is_empty() && (agents.len() > 1 && heard.count() == agents.len() || is_open(&network)) {
        groups.push((network, agents.iter().map(|agent| agent.key.clone()).collect()));
    }
    let mut by_host: BTreeMap<&str, Vec<(&CauseFact, Timestamp)>> = BTreeMap::new();
    for fact in roots.iter().copied().filter(|f| is_of(f, Kind::LLMBackend)).filter(silent) {
        let since = fact.trouble().and_then(|trouble| trouble.since).unwrap_or(now);
        if let Some(host) = &fact.host {
            by_host.entry(host).or_default().push((fact, since));
        }
    }
    for (host, mut silent) in by_host {
        let root = group_key(HOST, host);
        if !is_open(&root) {
            silent.sort_by_key(|(fact, since)| (*since, &fact.key));
            let together = |first: usize| {
                let from = silent[first].1;
                silent[first..].iter().take_while(|(_, since)| since.duration_since(from) <= TOGETHER).count()
            };
            let Some(first) = (0..silent.len()).find(|first| together(*first) > 1) else { continue };
            let count = together(first);
            silent = silent[first..first + count].to_vec();
        }
        groups.push((root, silent.into_iter().map(|(fact, _)| fact.key.clone()).collect()));
    }
    groups
}

fn is_of(fact: &CauseFact, kind: Kind) -> bool {
    fact.key.kind == kind.as_str()
}

fn cause(
    root: ObjectKey,
    symptoms: &[&CauseFact],
    objects: &BTreeMap<&ObjectKey, &CauseFact>,
    now: Timestamp,
) -> DerivedCause {
    let members: BTreeSet<ObjectKey> =
        symptoms.iter().map(|fact| fact.key.clone()).filter(|key| *key != root).collect();
    let waiting = symptoms.iter().map(|fact| fact.waiting).sum();
    let members: Vec<ObjectKey> = members.into_iter().collect();
    let troubles = || symptoms.iter().filter_map(|fact| fact.trouble());
    if is_group(&root) {
        let kind = if root.kind == HOST { Kind::LLMBackend } else { Kind::HostAgent };
        let parts = symptoms.iter().filter(|fact| is_of(fact, kind)).count();
        let first = symptoms.iter().filter(|fact| is_of(fact, kind)).find_map(|fact| fact.trouble());
        let since = troubles().filter_map(|trouble| trouble.since).min().unwrap_or(now);
        return DerivedCause {
            key: object_key(&root, CauseClass::Down),
            class: CauseClass::Down,
            acts: troubles().map(|trouble| trouble.acts).max().unwrap_or(WhoActs::Nobody),
            title: group_title(&root, parts),
            evidence: first.map(|trouble| clean(&trouble.message)).unwrap_or_default(),
            tried: Vec::new(),
            next: match root.kind.as_str() {
                HOST => format!("see that host {} is up, and what its servers log", root.name),
                _ => "see that this machine reaches the hosts of the agents".to_owned(),
            },
            members,
            waiting,
            since,
            root,
        };
    }
    let fact = objects.get(&root).copied();
    let Some(trouble) = fact.and_then(CauseFact::trouble) else {
        // A person wants it so, and something waits for it.
        return DerivedCause {
            key: object_key(&root, CauseClass::Work),
            class: CauseClass::Work,
            acts: WhoActs::Wished,
            title: format!("{root} is left alone, and {} for it", waits(members.len())),
            evidence: "a person suspended, stopped or held it".to_owned(),
            tried: Vec::new(),
            next: format!("`ostler resume {}` ends a suspension", short(&root)),
            since: troubles().filter_map(|trouble| trouble.since).min().unwrap_or(now),
            members,
            waiting,
            root,
        };
    };
    DerivedCause {
        key: object_key(&root, trouble.class),
        class: trouble.class,
        acts: trouble.acts,
        title: title(&root, trouble.class, &trouble.reason),
        evidence: clean(&trouble.message),
        tried: trouble.tried.iter().map(|tried| clean(tried)).collect(),
        next: match trouble.next.as_str() {
            "" => format!("`ostler describe {}` shows it", short(&root)),
            next => clean(next),
        },
        members,
        waiting,
        since: trouble.since.unwrap_or(now),
        root,
    }
}

fn waits(count: usize) -> String {
    if count == 1 { "1 object waits".to_owned() } else { format!("{} wait", number_of(count, "object")) }
}

fn title(root: &ObjectKey, class: CauseClass, reason: &str) -> String {
    match class {
        CauseClass::Down if root.kind == Kind::HostAgent.as_str() => format!("{root} does not answer"),
        CauseClass::Down => format!("{root} is down"),
        CauseClass::Config => format!("{root} needs a person ({})", clean(reason)),
        CauseClass::Memory => format!("{root} is out of memory"),
        CauseClass::Work => format!("{root} is stuck"),
    }
}

/// As the command line names it: `llm/mlx`, with the namespace where it is not `default`.
fn short(root: &ObjectKey) -> String {
    let kind =
        root.kind.parse::<Kind>().map_or_else(|_| root.kind.to_ascii_lowercase(), |kind| kind.short().to_owned());
    let namespace = if root.namespace == "default" { String::new() } else { format!(" -n {}", root.namespace) };
    format!("{kind}/{}{namespace}", root.name)
}

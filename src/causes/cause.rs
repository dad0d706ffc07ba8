//! A cause as it is recorded.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::{
    api::{Kind, ObjectKey},
    base::escape,
};

/// Kind of the cause that several backends of one host share.
pub const HOST: &str = "host";
/// Kind of the cause that all host agents share.
pub const NETWORK: &str = "network";
/// Of a text from outside, in characters.
const MOST_TEXT: usize = 600;
/// Objects that a cause names.
pub const MOST_MEMBERS: usize = 200;
/// Healing that takes longer than this is worth a word.
pub const HEALING: SignedDuration = SignedDuration::from_secs(600);
const PERSON: SignedDuration = SignedDuration::from_secs(30);
const NOBODY: SignedDuration = SignedDuration::from_secs(300);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr, ToSchema)]
pub enum CauseSeverity {
    /// It heals by itself, or is as a person wants it: only the report has it.
    Info,
    /// Healing takes long, or work is stuck.
    Warning,
    /// Only a person can act.
    Critical,
}

/// What sort of trouble it is. It changes seldom while reasons change with each probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr, ToSchema)]
pub enum CauseClass {
    /// It does not answer, or answers wrongly.
    Down,
    /// It is declared or set up wrongly.
    Config,
    /// It ran out of memory.
    Memory,
    /// Tasks do not get on.
    Work,
}

/// Who does something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum WhoActs {
    /// A person wants it so, or it is only observed.
    Wished,
    /// A controller heals it.
    Healing,
    /// Nobody for now: what would act can't be reached.
    Nobody,
    /// Only a person can.
    Person,
}

/// One cause from its first moment until it is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// `KIND/NAMESPACE/NAME/CLASS`, `host/NAME/Down` or `network/Down`.
    pub key: String,
    /// When it was first seen; with `key` it names this cause for ever.
    pub opened_at: Timestamp,
    pub root: ObjectKey,
    pub class: CauseClass,
    pub severity: CauseSeverity,
    /// The worst that it was this time; once it is over, that is its severity.
    pub worst: CauseSeverity,
    pub acts: WhoActs,
    pub title: String,
    pub evidence: String,
    /// What was done about it and what came of that, oldest first.
    #[serde(default)]
    pub tried: Vec<String>,
    /// What a person does next.
    pub next: String,
    /// Objects that are unhealthy because of it, at most [`MOST_MEMBERS`]; and how many there are.
    #[serde(default)]
    pub members: Vec<ObjectKey>,
    pub member_count: usize,
    /// The most that there were this time, and the title then; once it is over, that is what it was.
    pub most: usize,
    pub most_title: String,
    /// Tasks that wait because of it.
    #[serde(default)]
    pub waiting: i64,
    /// Since when, this time.
    pub since: Timestamp,
    /// How often it came, in all.
    pub times: u32,
    pub well_since: Option<Timestamp>,
    pub resolved_at: Option<Timestamp>,
    /// How it ended.
    pub ended: Option<String>,
    /// The cause that it turned out to be a symptom of.
    pub folded_into: Option<String>,
    /// When anything here changed.
    pub updated_at: Timestamp,
}

impl Cause {
    pub fn is_open(&self) -> bool {
        self.resolved_at.is_none()
    }

    /// Remembers how far it reached.
    pub fn note_most(&mut self) {
        if self.member_count >= self.most {
            self.most = self.member_count;
            self.most_title.clone_from(&self.title);
        }
    }

    /// Whether it stands for itself: it is open, and a symptom of nothing.
    pub fn is_root(&self) -> bool {
        self.is_open() && self.folded_into.is_none()
    }

    /// From when on somebody is told. `None`: nobody is.
    pub fn told_from(&self) -> Option<Timestamp> {
        let wait = match (self.acts, self.class) {
            (WhoActs::Wished, _) => return None,
            (_, CauseClass::Work) | (WhoActs::Nobody, _) => NOBODY,
            (WhoActs::Healing, _) => HEALING,
            (WhoActs::Person, _) => PERSON,
        };
        self.since.checked_add(wait).ok()
    }

    /// By who acts, and for how long.
    pub fn severity_at(&self, now: Timestamp) -> CauseSeverity {
        let lasts = now.duration_since(self.since);
        match (self.acts, self.class) {
            (WhoActs::Wished, _) => CauseSeverity::Info,
            (_, CauseClass::Work) => CauseSeverity::Warning,
            (WhoActs::Person, _) => CauseSeverity::Critical,
            // An agent that is silent while everything is well wakes nobody.
            (WhoActs::Nobody, _) if self.member_count > 0 => CauseSeverity::Critical,
            (WhoActs::Nobody, _) => CauseSeverity::Warning,
            (WhoActs::Healing, _) if lasts >= HEALING => CauseSeverity::Warning,
            (WhoActs::Healing, _) => CauseSeverity::Info,
        }
    }

    /// Whether it is about something of a namespace. `None`: of all.
    pub fn concerns(&self, namespace: Option<&str>) -> bool {
        namespace.is_none_or(|wanted| {
            self.root.namespace == wanted || self.members.iter().any(|member| member.namespace == wanted)
        })
    }

    /// Without what is of other namespaces.
    #[must_use]
    pub fn within(&self, namespace: Option<&str>) -> Self {
        let Some(wanted) = namespace else { return self.clone() };
        let mut cause = self.clone();
        let foreign = cause.members.iter().filter(|member| member.namespace != wanted).count();
        if foreign == 0 {
            return cause;
        }
        cause.members.retain(|member| member.namespace == wanted);
        cause.member_count = cause.members.len();
        if is_group(&cause.root) {
            let kind = if cause.root.kind == HOST { Kind::LLMBackend } else { Kind::HostAgent };
            let parts = cause.members.iter().filter(|member| member.kind == kind.as_str()).count();
            cause.title = group_title(&cause.root, parts);
            cause.evidence = String::new();
        }
        cause
    }
}

/// Who has taken a cause into their hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgment {
    pub by: String,
    /// Until then it is not repeated.
    pub until: Timestamp,
}

/// A cause with what people said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCause {
    pub cause: Cause,
    pub acknowledged: Option<Acknowledgment>,
}

/// `LLMBackend/default/mlx/Down`
pub fn object_key(root: &ObjectKey, class: CauseClass) -> String {
    let class: &str = class.into();
    match root.kind.as_str() {
        HOST => format!("{HOST}/{}/{class}", root.name),
        NETWORK => format!("{NETWORK}/{class}"),
        kind => format!("{kind}/{}/{}/{class}", root.namespace, root.name),
    }
}

/// The root of a cause that several objects share.
pub fn group_key(kind: &str, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "", name)
}

pub fn is_group(root: &ObjectKey) -> bool {
    matches!(root.kind.as_str(), HOST | NETWORK)
}

/// As people read it: `LLMBackend default/mlx`, `host mac.lan`, `the network`.
pub fn named(root: &ObjectKey) -> String {
    match root.kind.as_str() {
        HOST => format!("host {}", root.name),
        NETWORK => "the network".to_owned(),
        _ => root.to_string(),
    }
}

pub fn group_title(root: &ObjectKey, count: usize) -> String {
    match root.kind.as_str() {
        HOST if count == 1 => format!("1 backend of host {} is down", root.name),
        HOST => format!("{count} backends of host {} are down", root.name),
        _ => format!("the network is suspected: {count} host agents do not answer"),
    }
}

/// A text from outside, in one line without control characters, and bounded.
pub fn clean(text: &str) -> String {
    let bounded: String = text.chars().take(MOST_TEXT).collect();
    escape::for_line(&bounded).into_owned()
}

//! What several kinds share: references, modes, conditions, and numbers in sentences.

use std::fmt::Display;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Annotation that forces a pass; its value is echoed in `status.lastHandledReconcileAt` (Flux's convention).
pub const RECONCILE_REQUESTED_AT: &str = "ostler.dev/reconcile-requested-at";

/// An IPv4 address, or an IPv6 address in brackets.
macro_rules! address {
    () => {
        concat!(
            r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
            r"|\[([0-9A-Fa-f]{0,4}:){2,7}([0-9.]{7,15}|[0-9A-Fa-f]{0,4})\]",
        )
    };
}

/// A port from 1 to 65535.
macro_rules! port {
    () => {
        r"0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}

/// Scheme, host and port of an http or https URL, without credentials. The last label of a name is no number: that would be an
/// IPv4 address.
macro_rules! origin {
    () => {
        concat!(r"^https?://(([A-Za-z0-9_-]+\.)*[0-9]*[A-Za-z_-][A-Za-z0-9_-]*\.?|", address!(), ")(:", port!(), ")?")
    };
}

/// An http or https URL of printable ASCII, without credentials, query or fragment. No `\s`: engines of regular
/// expressions differ about the white space beyond ASCII.
pub(super) const URL: &str = concat!(origin!(), r"(/[!$->A-~]*)?$");
/// The same without a path.
pub(super) const ORIGIN: &str = concat!(origin!(), r"/?$");
/// The same with a path and a query.
pub(super) const WEBHOOK_URL: &str = concat!(origin!(), r"([/?][!-~]*)?$");
/// An address and a port to listen on; 0 takes a free one.
pub(super) const LISTEN: &str = concat!("^(", address!(), "):(0|", port!(), ")$");

/// Name of a resource (RFC 1123 subdomain): no slash, no `..`.
pub(super) const NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Name of a service of an agent's file.
pub(super) const SERVICE: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Key of a Secret or ConfigMap.
pub(super) const KEY: &str = r"^\.?[-_A-Za-z0-9][-._A-Za-z0-9]*$";
/// Name of a container, or of a service of a compose project.
pub(super) const CONTAINER: &str = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$";
/// Key and value of a label.
pub(super) const LABEL: &str = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
pub(super) const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
/// A time zone, as the IANA names them.
pub(super) const ZONE: &str = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$";
/// Text of one line. What begins or ends with a space, or contains a control character, was written by mistake.
pub(super) const LINE: &str = r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?$";
/// Type of a condition.
const CONDITION: &str = r"^[A-Za-z][A-Za-z0-9]*$";

/// What a URL's pattern wants, for people.
pub fn url_wording(pattern: &str) -> Option<&'static str> {
    match pattern {
        URL => Some("http(s)://HOST[:PORT][/PATH], without user or query"),
        ORIGIN => Some("http(s)://HOST[:PORT], without user, path or query"),
        WEBHOOK_URL => Some("http(s)://HOST[:PORT][/PATH][?QUERY], without user or fragment"),
        _ => None,
    }
}

/// A resource of a known kind in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalRef {
    /// Name of the resource, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
}

/// Kinds of workloads whose pods can be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
}

impl WorkloadKind {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A workload in the cluster, in the same namespace. Its pods are deleted by uid, one at a time, each replacement awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadRef {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
}

/// Somebody's webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Where it is sent (POST).
    #[schemars(length(min = 8, max = 2048), regex(pattern = WEBHOOK_URL))]
    pub url: String,
    /// Secret whose key `signingSecret` signs it, as Standard Webhooks has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// Kinds whose conditions can be waited for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, IntoStaticStr,
)]
pub enum RequiredKind {
    LLMBackend,
    HostAgent,
    Expert,
    TaskQueue,
    WorkerPool,
    ContainerHealthCheck,
}

impl RequiredKind {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What must hold first: a condition of another resource, in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Kind of the resource.
    pub kind: RequiredKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// The condition that must be True.
    #[serde(default = "ready")]
    #[schemars(length(min = 1, max = 63), regex(pattern = CONDITION))]
    pub condition: String,
    /// For how many seconds it must have been. Absent: now is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604800))]
    pub for_seconds: Option<i32>,
}

fn ready() -> String {
    "Ready".into()
}

/// Whether a resource's controller acts, or only says what it would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Act.
    #[default]
    Enforce,
    /// Say what would be done, and do nothing.
    Observe,
}

/// `True`, `False` or `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(yes: bool) -> Self {
        if yes { Self::True } else { Self::False }
    }
}

/// One aspect of the state of a resource, as `meta/v1.Condition` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition, in CamelCase.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub type_: String,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// The reason as one CamelCase word.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// What a person should know. It never contains an age.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When the status last changed.
    pub last_transition_time: Time,
    /// The generation of the spec that this was computed from.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub observed_generation: i64,
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Sets a condition, keeping its transition time while its status stays the same (`meta.SetStatusCondition`).
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// `1 model`, `2 models`.
pub fn number_of(count: impl Display, what: &str) -> String {
    let count = count.to_string();
    let end = if count == "1" { "" } else { "s" };
    format!("{count} {what}{end}")
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};

    use super::*;

    fn of(pattern: &str) -> impl Strategy<Value = String> + use<> {
        string_regex(pattern.trim_start_matches('^').trim_end_matches('$')).unwrap()
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|n| number_of(n, "model")), ["0 models", "1 model", "2 models"]);
    }

    proptest! {
        // What is admitted must not turn out to be no URL when it is used; the regular expression does not count the parts of an
        // IPv6 address, nor does it know Punycode.
        #[test]
        fn what_the_patterns_admit_is_a_url(
            url in prop_oneof![of(URL), of(ORIGIN), of(WEBHOOK_URL)].prop_filter("IPv6", |url| !url.contains('['))
        ) {
            let exotic = url.to_ascii_lowercase();
            prop_assume!(!exotic.contains("xn--") && !exotic.contains("0x"));
            let parsed = reqwest::Url::parse(&url);
            prop_assert!(parsed.as_ref().is_ok_and(|u| u.host().is_some() && u.username().is_empty()), "{url}: {parsed:?}");
        }

        #[test]
        fn an_address_to_listen_on_is_one(listen in of(LISTEN).prop_filter("IPv6", |listen| !listen.contains('['))) {
            prop_assert!(listen.parse::<std::net::SocketAddr>().is_ok(), "{listen}");
        }
    }
}

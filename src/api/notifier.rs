//! Notifier: who is told of causes, and how.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{SecretRef, StatusBase, common::ZONE};

/// `22:30`
const TIME_OF_DAY: &str = r"^([01][0-9]|2[0-3]):[0-5][0-9]$";
/// Name or address of a mail server.
const MAIL_HOST: &str = r"^[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$|^::1$";
/// An address of a mailbox, without a display name.
const MAILBOX: &str = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$";

/// Which service is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum NotifierType {
    /// An incoming webhook; Mattermost, Rocket.Chat and Discord (`/slack`) take the same.
    Slack,
    /// A bot.
    Telegram,
    /// A topic of ntfy.
    Ntfy,
    /// Mail.
    Email,
    /// JSON, signed as Standard Webhooks has it.
    Webhook,
    /// A URL that is called while all is well: whoever watches it tells of its silence.
    Heartbeat,
}

impl NotifierType {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The least that is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MinSeverity {
    /// Healing takes long, or work is stuck.
    Warning,
    /// Only a person can act.
    #[default]
    Critical,
}

/// Who is told of causes, and how.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "Notifier",
    plural = "notifiers",
    shortname = "nt",
    category = "ostler",
    namespaced,
    status = "NotifierStatus",
    derive = "PartialEq",
    doc = "Who is told of causes, and how. One in the namespace where Ostler runs is told of all namespaces, others of their own.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Held back", type_ = "integer", json_path = ".status.heldBack"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(self.type == 'Email') == has(self.smtp)",
     "message": "mail goes by a mail server, and nothing else does: set smtp with type Email, or remove it", "fieldPath": ".smtp"},
    {"rule": "self.type == 'Email' || has(self.secretRef)",
     "message": "nobody knows where to send it: set secretRef to the Secret that has the address", "fieldPath": ".secretRef"},
    {"rule": "self.type == 'Heartbeat' || !has(self.periodSeconds)",
     "message": "only a Heartbeat has a period: remove periodSeconds, or set type to Heartbeat", "fieldPath": ".periodSeconds"}
]))]
pub struct NotifierSpec {
    /// Which service is told.
    #[serde(rename = "type")]
    pub type_: NotifierType,
    /// Secret in the same namespace. Slack and Heartbeat: key `url`. Telegram: `token` and `chat`, and `url` for a Bot API server of
    /// your own. Ntfy: `url` with the topic, and `token` where it asks for one. Webhook: `url`, and `signingSecret` (`whsec_…`). Email:
    /// `user` and `password`, and `ca.crt` for a mail server whose certificate is your own; absent: without a login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// The mail server, and who writes to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smtp: Option<Smtp>,
    /// The least that is told.
    #[serde(default)]
    pub min_severity: MinSeverity,
    /// What is not over is told again after so many seconds, unless somebody acknowledged it.
    #[serde(default = "default_repeat")]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub repeat_seconds: i32,
    /// Warnings wait for the end of these hours and come as one message; what only a person can mend does not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// A Heartbeat's URL is called so often. Absent: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86400))]
    pub period_seconds: Option<i32>,
    /// Nothing is sent.
    #[serde(default)]
    pub suspend: bool,
}

/// A mail server, and who writes to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.tls != 'None' || self.host in ['localhost', '127.0.0.1', '::1']",
     "message": "mail leaves this machine encrypted or not at all: set tls to StartTLS or Implicit", "fieldPath": ".tls"}
]))]
pub struct Smtp {
    /// Name or address of the mail server.
    #[schemars(length(min = 1, max = 253), regex(pattern = MAIL_HOST))]
    pub host: String,
    /// Its port: 587 for StartTLS, 465 for Implicit, mostly.
    #[serde(default = "default_mail_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// How it is encrypted. A server that does not offer it is not spoken to.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Whom it is from.
    #[schemars(length(min = 3, max = 254), regex(pattern = MAILBOX))]
    pub from: String,
    /// Whom it is for.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 3, max = 254), regex(pattern = MAILBOX)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub to: Vec<String>,
}

/// How mail is encrypted on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SmtpTls {
    /// TLS from the first byte.
    Implicit,
    /// The connection begins in the open and must change to TLS.
    #[default]
    StartTLS,
    /// Not at all: for a mail server on this machine.
    None,
}

/// Hours of each day in which only what cannot wait is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.from != self.to",
     "message": "quiet hours begin when they end: set from and to to different times", "fieldPath": ".to"}
]))]
pub struct QuietHours {
    /// When they begin: 22:00.
    #[schemars(length(min = 5, max = 5), regex(pattern = TIME_OF_DAY))]
    pub from: String,
    /// When they end: 07:00, on the next day where that is before `from`.
    #[schemars(length(min = 5, max = 5), regex(pattern = TIME_OF_DAY))]
    pub to: String,
    /// Where these times are told.
    #[serde(default = "default_zone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = ZONE))]
    pub time_zone: String,
}

fn default_zone() -> String {
    "UTC".to_owned()
}

const fn default_repeat() -> i32 {
    14_400
}

const fn default_mail_port() -> i32 {
    587
}

/// The one word for how a Notifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum NotifierState {
    /// What is due goes out.
    Active,
    /// Something is due and could not be sent; it is tried again.
    Failing,
    /// Its address refuses for good.
    AddressGone,
    /// A Secret is not there, or lacks what is needed.
    SecretMissing,
    /// Its time zone is unknown.
    InvalidSpec,
    Suspended,
}

/// How the Notifier is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotifierStatus {
    #[serde(flatten)]
    pub base: StatusBase<NotifierState>,
    /// Causes of the last 30 days that it was told of, when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub told: Option<i32>,
    /// Causes that it is still to be told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub held_back: Option<i32>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub last_error: Option<String>,
    /// Since when attempts fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,
}

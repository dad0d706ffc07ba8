//! The host agent's protocol: messages, signatures, client.
//!
//! An agent does what its own file lists and nothing else. Requests are signed as Standard Webhooks describe
//! (<https://www.standardwebhooks.com>), over more than the body, or carry a bearer token; those that change something carry the
//! installation and the leader's epoch too. Outgoing webhooks are signed by the same means.

mod client;
mod container_work;
mod containers;
mod credentials;
mod error;
pub mod mask;
mod messages;
mod report;
pub mod sign;

pub use client::HttpHost;
pub use container_work::{
    ContainerAction, ContainerExecRequest, ContainerExecResult, ContainerFailure, ContainerLogs, ContainerLogsRequest,
    ContainerOperation, ContainerOperationRequest, MAX_LOG_BYTES,
};
pub use containers::{
    ComposeIdentity, ComposeService, ComposeServices, ContainerHealth, ContainerList, ContainerQuery, ContainerReport,
    ContainerSelector, ContainerState, ContainerStop, ContainerTarget, DependencyCondition, ServiceDependency,
    StoppedBy,
};
pub use credentials::{Caller, Credentials, Token};
pub use error::{AgentRefusal, ErrorBody, HostError, HostErrorKind};
pub use messages::{
    Action, CareRequest, HoldOwner, LogPart, LogRequest, MOST_LOG_BYTES, OperationRequest, OperationStatus, Phase,
};
pub use report::{
    AgentReport, CheckReport, ContainerRuntime, DiskSpace, Hold, Instance, LastExit, MAX_FAILURE_CHARS, Manager,
    PortOwner, SelfStarts, ServiceReport, ServiceState,
};
pub use sign::{SigningSecret, SigningSecretError};

/// Names of the request headers beside those of a signature.
pub mod header {
    /// UUID of the installation whose leader asks.
    pub const INSTALLATION: &str = "ostler-installation";
    /// That leader's epoch, a decimal integer that only rises.
    pub const EPOCH: &str = "ostler-epoch";
    /// The agent that is meant, by the name in its own file.
    pub const AGENT: &str = "ostler-agent";
    /// The same key is the same operation, however often it is sent.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
}

/// The longest time that `GET /v1/report?after=…&waitSeconds=…` waits for a change, in seconds.
pub const MAX_WAIT_SECONDS: u32 = 60;

/// The largest request body that an agent reads, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The longest message of an agent that a caller keeps, in characters.
const MAX_MESSAGE_CHARS: usize = 1000;

/// The longest reason that is taken, in characters; a HostAgent's status shows it.
pub const MAX_REASON_CHARS: usize = 1024;

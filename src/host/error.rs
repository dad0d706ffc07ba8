//! What can go wrong between a caller and an agent, and what to do about each.

use super::refusal::AgentRefusal;

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The request may or may not have arrived: ask again with the same `Idempotency-Key`.
    #[error(
        "host agent {url} did not answer: {cause}; see that `ostler agent` runs there and that its port is open to this machine"
    )]
    Unreachable { url: String, cause: String },
    /// Nothing was sent.
    #[error(
        "host agent {url} is not trusted: {cause}; put the authority that signed its certificate into a Secret's ca.crt and name it as caSecretRef"
    )]
    Untrusted { url: String, cause: String },
    /// What answers is no agent: a redirect, no TLS, no HTTP.
    #[error("host agent {url} can't be asked there: {cause}; correct the HostAgent's url")]
    Misconfigured { url: String, cause: String },
    #[error(
        "host agent {url} refused the credentials ({}): {message}; give both sides the same signing secret or token",
        .reason.as_str()
    )]
    Unauthorized { url: String, reason: AgentRefusal, message: String },
    /// Another leader took over: the caller must stop acting.
    #[error("host agent {url} has heard a newer leader: {message}")]
    StaleEpoch { url: String, message: String },
    #[error("host agent {url} lists no service {service}: add it to the agent's file, or correct the reference")]
    UnknownService { url: String, service: String },
    #[error(
        "host agent {url} may not touch container {container}: {message}; add it to spec.docker.allow of the agent's file, or correct the target"
    )]
    ContainerNotAllowed { url: String, container: String, message: String },
    #[error("the engine of host agent {url} has no container {container}: {message}")]
    UnknownContainer { url: String, container: String, message: String },
    /// Nothing is known of its containers, and nothing was done.
    #[error("the container engine of host agent {url} does not answer: {message}; see that it runs")]
    EngineUnavailable { url: String, message: String },
    #[error("host agent {url} knows no operation {id}: it is over and forgotten, or the agent lost its state folder")]
    UnknownOperation { url: String, id: String },
    #[error("service {service} is held: {message}; `ostler start {service}` clears a person's hold")]
    Held { service: String, message: String },
    #[error("host agent {url} answered {status} ({}): {message}", .reason.as_str())]
    Refused { url: String, status: u16, reason: AgentRefusal, message: String },
    #[error(
        "host agent {url} answered what no agent answers ({cause}): see that the URL is an `ostler agent` of this release"
    )]
    BadReply { url: String, cause: String },
    #[error("{url:?} is no URL of a host agent ({cause}): write http:// or https://, host and port")]
    BadUrl { url: String, cause: String },
}

/// Which error it is, without its details: what callers decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostErrorKind {
    Unreachable,
    Untrusted,
    Misconfigured,
    Unauthorized,
    StaleEpoch,
    UnknownService,
    ContainerNotAllowed,
    UnknownContainer,
    EngineUnavailable,
    UnknownOperation,
    Held,
    Refused,
    BadReply,
    BadUrl,
}

impl HostErrorKind {
    /// The CamelCase word for a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "HostAgentUnreachable",
            Self::Untrusted => "HostAgentUntrusted",
            Self::Misconfigured => "HostAgentMisconfigured",
            Self::Unauthorized => "HostAgentUnauthorized",
            Self::StaleEpoch => "StaleEpoch",
            Self::UnknownService => "ServiceUnknown",
            Self::ContainerNotAllowed => "ContainerNotAllowed",
            Self::UnknownContainer => "ContainerUnknown",
            Self::EngineUnavailable => "ContainerEngineUnavailable",
            Self::UnknownOperation => "OperationUnknown",
            Self::Held => "Held",
            Self::Refused => "HostAgentRefused",
            Self::BadReply => "HostAgentBadReply",
            Self::BadUrl => "HostAgentBadURL",
        }
    }
}

impl HostError {
    pub fn kind(&self) -> HostErrorKind {
        match self {
            Self::Unreachable { .. } => HostErrorKind::Unreachable,
            Self::Untrusted { .. } => HostErrorKind::Untrusted,
            Self::Misconfigured { .. } => HostErrorKind::Misconfigured,
            Self::Unauthorized { .. } => HostErrorKind::Unauthorized,
            Self::StaleEpoch { .. } => HostErrorKind::StaleEpoch,
            Self::UnknownService { .. } => HostErrorKind::UnknownService,
            Self::ContainerNotAllowed { .. } => HostErrorKind::ContainerNotAllowed,
            Self::UnknownContainer { .. } => HostErrorKind::UnknownContainer,
            Self::EngineUnavailable { .. } => HostErrorKind::EngineUnavailable,
            Self::UnknownOperation { .. } => HostErrorKind::UnknownOperation,
            Self::Held { .. } => HostErrorKind::Held,
            Self::Refused { .. } => HostErrorKind::Refused,
            Self::BadReply { .. } => HostErrorKind::BadReply,
            Self::BadUrl { .. } => HostErrorKind::BadUrl,
        }
    }

    /// The CamelCase word for a condition.
    pub fn reason(&self) -> &'static str {
        self.kind().as_str()
    }

    /// Whether asking again later, unchanged, can help. Each variant is named, so that a new one is a decision.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::Misconfigured { .. }
            | Self::BadReply { .. }
            | Self::Held { .. }
            | Self::EngineUnavailable { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::Unauthorized { .. }
            | Self::StaleEpoch { .. }
            | Self::UnknownService { .. }
            | Self::ContainerNotAllowed { .. }
            | Self::UnknownContainer { .. }
            | Self::UnknownOperation { .. }
            | Self::BadUrl { .. } => false,
        }
    }
}

//! Why an agent refuses a request, and what a caller makes of it.

use serde::{Deserialize, Serialize};
use strum::{EnumDiscriminants, IntoStaticStr, VariantArray};

/// The word in an agent's reply, its log and its metric.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
pub enum AgentRefusal {
    /// Neither a signature nor a token.
    NoCredentials,
    BadToken,
    BadSignature,
    /// It is for another agent.
    WrongAgent,
    /// Signed more than five minutes ago, or by a clock that is more than five minutes ahead.
    StaleTimestamp,
    /// The same signed request came before.
    ReplayedId,
    /// A leader with a higher epoch has spoken since, or the epoch is missing.
    LowerEpoch,
    /// The agent's file does not list it.
    UnknownService,
    /// The agent's file does not permit this container, or permits none.
    ContainerNotAllowed,
    /// The engine has no such container.
    UnknownContainer,
    /// A command can be run in a running container only.
    ContainerNotRunning,
    /// The container engine does not answer.
    EngineUnavailable,
    /// No such operation, or one that is long over.
    UnknownOperation,
    BodyTooLarge,
    /// The body is not the JSON that is expected here.
    BadRequest,
    /// No such path, or one written to look like another.
    BadPath,
    /// The path exists, with another method.
    BadMethod,
    /// Somebody holds the service.
    Held,
    /// Its key came before, with another request.
    KeyReused,
    /// The agent can't write down what it is asked to do, so it doesn't do it.
    NotRecorded,
    /// One that this reader does not know.
    #[serde(other)]
    Other,
}

impl AgentRefusal {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::NoCredentials
            | Self::BadToken
            | Self::BadSignature
            | Self::WrongAgent
            | Self::StaleTimestamp
            | Self::ReplayedId => 401,
            Self::UnknownService
            | Self::ContainerNotAllowed
            | Self::UnknownContainer
            | Self::UnknownOperation
            | Self::BadPath => 404,
            Self::BadMethod => 405,
            Self::LowerEpoch | Self::Held | Self::ContainerNotRunning => 409,
            Self::BodyTooLarge => 413,
            Self::KeyReused => 422,
            Self::BadRequest | Self::Other => 400,
            Self::NotRecorded | Self::EngineUnavailable => 503,
        }
    }
}

/// Body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For people: what was refused and what to do.
    pub error: String,
    pub reason: AgentRefusal,
}

/// Why an agent did not do what it was asked. [`HostErrorKind`] is the same without details: what callers decide by.
#[derive(Debug, thiserror::Error, EnumDiscriminants)]
#[strum_discriminants(name(HostErrorKind), derive(Hash, IntoStaticStr))]
pub enum HostError {
    /// The request may or may not have arrived: ask again with the same `Idempotency-Key`.
    #[error(
        "host agent {url} did not answer: {cause}; see that `ostler agent` runs there and that its port is open to this machine"
    )]
    #[strum_discriminants(strum(serialize = "HostAgentUnreachable"))]
    Unreachable { url: String, cause: String },
    /// Nothing was sent.
    #[error(
        "host agent {url} is not trusted: {cause}; put the authority that signed its certificate into a Secret's ca.crt and name it as caSecretRef"
    )]
    #[strum_discriminants(strum(serialize = "HostAgentUntrusted"))]
    Untrusted { url: String, cause: String },
    /// What answers is no agent: a redirect, no TLS, no HTTP.
    #[error("host agent {url} can't be asked there: {cause}; correct the HostAgent's url")]
    #[strum_discriminants(strum(serialize = "HostAgentMisconfigured"))]
    Misconfigured { url: String, cause: String },
    #[error(
        "host agent {url} refused the credentials ({}): {message}; give both sides the same signing secret or token",
        .reason.as_str()
    )]
    #[strum_discriminants(strum(serialize = "HostAgentUnauthorized"))]
    Unauthorized { url: String, reason: AgentRefusal, message: String },
    /// Another leader took over: the caller must stop acting.
    #[error("host agent {url} has heard a newer leader: {message}")]
    StaleEpoch { url: String, message: String },
    #[error("host agent {url} lists no service {service}: add it to the agent's file, or correct the reference")]
    #[strum_discriminants(strum(serialize = "ServiceUnknown"))]
    UnknownService { url: String, service: String },
    #[error(
        "host agent {url} may not touch container {container}: {message}; add it to spec.docker.allow of the agent's file, or correct the target"
    )]
    ContainerNotAllowed { url: String, container: String, message: String },
    #[error("the engine of host agent {url} has no container {container}: {message}")]
    #[strum_discriminants(strum(serialize = "ContainerUnknown"))]
    UnknownContainer { url: String, container: String, message: String },
    /// Nothing is known of its containers, and nothing was done.
    #[error("the container engine of host agent {url} does not answer: {message}; see that it runs")]
    #[strum_discriminants(strum(serialize = "ContainerEngineUnavailable"))]
    EngineUnavailable { url: String, message: String },
    #[error("host agent {url} knows no operation {id}: it is over and forgotten, or the agent lost its state folder")]
    #[strum_discriminants(strum(serialize = "OperationUnknown"))]
    UnknownOperation { url: String, id: String },
    #[error("service {service} is held: {message}; `ostler start {service}` clears a person's hold")]
    Held { service: String, message: String },
    #[error("host agent {url} answered {status} ({}): {message}", .reason.as_str())]
    #[strum_discriminants(strum(serialize = "HostAgentRefused"))]
    Refused { url: String, status: u16, reason: AgentRefusal, message: String },
    #[error(
        "host agent {url} answered what no agent answers ({cause}): see that the URL is an `ostler agent` of this release"
    )]
    #[strum_discriminants(strum(serialize = "HostAgentBadReply"))]
    BadReply { url: String, cause: String },
    #[error("{url:?} is no URL of a host agent ({cause}): write http:// or https://, host and port")]
    #[strum_discriminants(strum(serialize = "HostAgentBadURL"))]
    BadUrl { url: String, cause: String },
}

impl HostErrorKind {
    /// The CamelCase word for a condition.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl HostError {
    pub fn kind(&self) -> HostErrorKind {
        self.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_travels_as_it_is_written() {
        for refusal in AgentRefusal::VARIANTS {
            let json = serde_json::to_string(refusal).unwrap();
            assert_eq!(json, format!("\"{}\"", refusal.as_str()));
            assert_eq!(serde_json::from_str::<AgentRefusal>(&json).unwrap(), *refusal);
        }
        assert_eq!(serde_json::from_str::<AgentRefusal>("\"Moonphase\"").unwrap(), AgentRefusal::Other);
    }
}

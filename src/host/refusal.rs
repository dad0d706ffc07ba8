//! Why an agent refuses a request: the word in its reply, its log and its metric.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
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
    pub const ALL: [Self; 20] = [
        Self::NoCredentials,
        Self::BadToken,
        Self::BadSignature,
        Self::WrongAgent,
        Self::StaleTimestamp,
        Self::ReplayedId,
        Self::LowerEpoch,
        Self::UnknownService,
        Self::ContainerNotAllowed,
        Self::UnknownContainer,
        Self::ContainerNotRunning,
        Self::EngineUnavailable,
        Self::UnknownOperation,
        Self::BodyTooLarge,
        Self::BadRequest,
        Self::BadPath,
        Self::BadMethod,
        Self::Held,
        Self::KeyReused,
        Self::NotRecorded,
    ];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_travels_as_it_is_written() {
        for refusal in AgentRefusal::ALL {
            let json = serde_json::to_string(&refusal).unwrap();
            assert_eq!(json, format!("\"{}\"", refusal.as_str()));
            assert_eq!(serde_json::from_str::<AgentRefusal>(&json).unwrap(), refusal);
        }
        assert_eq!(serde_json::from_str::<AgentRefusal>("\"Moonphase\"").unwrap(), AgentRefusal::Other);
    }
}

//! Bodies of claims and of what is claimed.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    http::ApiError,
    store::Slot,
    tasks::{Payload, TaskId},
};

const MOST_CLAIMS: i32 = 16;
const MOST_QUEUES: usize = 16;
const LONGEST_NAME: usize = 100;
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Body of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRequest {
    /// TaskQueues with `claimedBy: Clients`.
    #[schema(min_items = 1, max_items = 16)]
    pub queues: Vec<String>,
    /// The client's name, by which attempts remember it.
    #[schema(min_length = 1, max_length = 100)]
    pub worker: String,
    /// Tasks at most.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 16)]
    pub most: i32,
    /// How long to wait for the first one.
    #[serde(default)]
    #[schema(maximum = 30)]
    pub wait_seconds: u64,
}

fn one() -> i32 {
    1
}

/// Tasks that are the client's now.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ClaimReply {
    pub items: Vec<ClaimView>,
}

/// A task that is the client's, by heartbeats: `POST /api/v1/tasks/{id}/heartbeat` and `…/complete` with its `claim`.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimView {
    pub id: TaskId,
    /// To be sent with heartbeats and at the end.
    pub claim: String,
    /// After so long without a heartbeat it is somebody else's.
    pub lease_seconds: i64,
    pub namespace: String,
    pub queue: String,
    pub domain: String,
    pub role: String,
    pub payload: Payload,
    pub key: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub deadline: Option<Timestamp>,
    pub expert: String,
    /// Which of the queue's `maxAttempts` this is, from 1.
    pub attempt: i32,
    /// The call for which a slot is held until the end; absent where the expert is External.
    pub call: Option<CallView>,
}

/// A call that a client is to make.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallView {
    pub backend: String,
    /// `Ollama`, `MLX` or `OpenAI`.
    pub engine: String,
    pub url: String,
    /// The server's own name of the model.
    pub model: String,
    /// Of the expert.
    pub system_prompt: Option<String>,
    /// The call must have ended by then.
    pub timeout_seconds: i32,
    /// `spec.parameters` of the expert.
    #[schema(value_type = Object)]
    pub parameters: Value,
}

impl ClaimRequest {
    /// How long it may wait, where nothing is out of bounds.
    pub fn checked(&self) -> Result<Duration, ApiError> {
        let Self { queues, worker, most, wait_seconds } = self;
        let refused = |why: String| Err(ApiError::BadRequest(why));
        if queues.is_empty() || queues.len() > MOST_QUEUES {
            return refused(format!("queues: has {}, 1 to {MOST_QUEUES} are allowed", queues.len()));
        }
        if worker.trim().is_empty() || worker.chars().count() > LONGEST_NAME || worker.chars().any(char::is_control) {
            return refused(format!("worker: is no name of 1 to {LONGEST_NAME} characters on one line"));
        }
        if !(1..=MOST_CLAIMS).contains(most) {
            return refused(format!("most: is {most}: write 1 to {MOST_CLAIMS}"));
        }
        let wait = Duration::from_secs(*wait_seconds);
        if wait > LONGEST_WAIT {
            return refused(format!("waitSeconds: is {wait_seconds}: write 0 to {}", LONGEST_WAIT.as_secs()));
        }
        Ok(wait)
    }
}

/// What a client sends back with heartbeats and at the end: which execution it has, and what its attempt is remembered by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimToken {
    pub epoch: i64,
    pub worker: String,
    pub slot: Option<Slot>,
    pub backend: Option<String>,
    pub model: Option<String>,
}

impl ClaimToken {
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// As [`text`](Self::text) wrote it.
    pub fn read(text: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::BadRequest("claim: is none; send the one that came with the task".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written_and_nothing_else_is_one() {
        let slot = Slot { server_url: "http://h:1".into(), number: 2, holder: "claim/x".into(), epoch: 9 };
        let token = ClaimToken { epoch: 3, worker: "py".into(), slot: Some(slot), backend: None, model: None };
        assert_eq!(ClaimToken::read(&token.text()).unwrap(), token);
        for wrong in ["", "3", "e30", "%"] {
            let why = ClaimToken::read(wrong).expect_err(wrong).to_string();
            assert!(why.starts_with("claim: is none"), "{wrong}: {why}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let good = ClaimRequest { queues: vec!["q".into()], worker: "py".into(), most: 1, wait_seconds: 30 };
        assert_eq!(good.checked().unwrap(), LONGEST_WAIT);
        for (wrong, field) in [
            (ClaimRequest { queues: vec![], ..good.clone() }, "queues: has 0"),
            (ClaimRequest { worker: "a\nb".into(), ..good.clone() }, "worker: "),
            (ClaimRequest { most: 17, ..good.clone() }, "most: is 17"),
            (ClaimRequest { most: 0, ..good.clone() }, "most: is 0"),
            (ClaimRequest { wait_seconds: 31, ..good.clone() }, "waitSeconds: is 31"),
        ] {
            let why = wrong.checked().expect_err(field).to_string();
            assert!(why.starts_with(field), "{why}");
        }
    }
}

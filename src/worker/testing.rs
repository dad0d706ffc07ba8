//! Samples for the tests of this room.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use crate::{
    api::ExpertSpec,
    tasks::{Payload, Task, TaskId, TaskState},
};

pub fn task(id: TaskId) -> Task {
    Task {
        id,
        namespace: "default".into(),
        queue: "default".into(),
        domain: "backend".into(),
        role: "engineer".into(),
        payload: Payload { prompt: Some(format!("hello {id}")), ..Payload::default() },
        model: None,
        priority: 0,
        run_after: None,
        deadline: None,
        key: None,
        labels: BTreeMap::new(),
        state: TaskState::InProgress,
        created_at: Timestamp::UNIX_EPOCH,
        state_since: Timestamp::UNIX_EPOCH,
        expert: Some("igor".into()),
        assignment_reason: None,
        candidates: Vec::new(),
        assigned_model: Some("small".into()),
        attempts_used: 0,
        free_requeues: 0,
        leases_lost: 0,
        cycle: 1,
        epoch: 1,
        reason: None,
        attempts: Vec::new(),
        result: None,
    }
}

/// A chatting one, with every default.
pub fn expert() -> ExpertSpec {
    serde_json::from_value(json!({"model": "small"})).expect("an expert")
}

//! Samples for the tests of this room.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    api::ExpertSpec,
    tasks::{ClaimedTask, Payload, TaskId},
};

pub fn task(id: TaskId) -> ClaimedTask {
    ClaimedTask {
        id,
        epoch: 1,
        namespace: "default".into(),
        queue: "default".into(),
        domain: "backend".into(),
        role: "engineer".into(),
        payload: Payload { prompt: Some(format!("hello {id}")), ..Payload::default() },
        priority: 0,
        deadline: None,
        key: None,
        labels: BTreeMap::new(),
        expert: "igor".into(),
        assigned_model: Some("small".into()),
        attempts_used: 0,
        free_requeues: 0,
        cycle: 1,
        attempts: Vec::new(),
    }
}

/// A chatting one, with every default.
pub fn expert() -> ExpertSpec {
    serde_json::from_value(json!({"model": "small"})).expect("an expert")
}

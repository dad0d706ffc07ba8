//! The plain webhook of orchestrators that know nothing of Ostler: heals what is failing, and nothing else.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{
    app::{App, ServiceHandle},
    operate,
};
use crate::{
    agent::{gate::Refused, plan::ServiceObserved},
    host::{Action, AgentRefusal, HoldOwner, OperationRequest},
};

/// What was begun, and what was left alone and why.
#[derive(Debug, Default, Serialize)]
pub struct RecoverReply {
    pub operations: Vec<RecoverStarted>,
    pub left: Vec<RecoverSkipped>,
}

#[derive(Debug, Serialize)]
pub struct RecoverStarted {
    pub service: String,
    pub id: String,
}

#[derive(Debug, Serialize)]
pub struct RecoverSkipped {
    pub service: String,
    pub why: String,
}

/// Any body will do; a JSON object's `service` narrows it to that one, its `idempotencyKey` names the request.
pub async fn recover(app: &Arc<App>, body: &[u8], key: Option<String>) -> Result<RecoverReply, Refused> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let key = key.or_else(|| field("idempotencyKey").filter(|k| (1..=256).contains(&k.len())));
    let wanted: Vec<&ServiceHandle> = match field("service") {
        Some(name) => vec![app.service(&name)?],
        None => app.services.iter().collect(),
    };
    let mut done = RecoverReply::default();
    for runs in wanted {
        let service = runs.service.spec.name.clone();
        let key = key.as_ref().map(|k| format!("{k}/{service}"));
        match heal(app, runs, key).await? {
            Ok(id) => done.operations.push(RecoverStarted { service, id }),
            Err(why) => done.left.push(RecoverSkipped { service, why }),
        }
    }
    Ok(done)
}

/// The id of the operation that heals it, or why it is left alone.
async fn heal(app: &Arc<App>, runs: &ServiceHandle, key: Option<String>) -> Result<Result<String, String>, Refused> {
    let name = &runs.service.spec.name;
    // A webhook is often sent again before the first one's work is done.
    if let Some(running) = app.book.unfinished(name).first() {
        return Ok(Ok(running.status.id.clone()));
    }
    let left = |why: &str| Ok(Err(why.to_owned()));
    match runs.service.look(false).await {
        Err(error) => return Ok(Err(error.to_string())),
        Ok(ServiceObserved::Up) => return left("it is up"),
        Ok(ServiceObserved::Starting) => return left("it is starting"),
        Ok(ServiceObserved::Busy) => return left("its processes are at work"),
        Ok(ServiceObserved::Foreign) if !runs.service.spec.adopt => {
            return left("another process has its port, which this agent did not start");
        }
        Ok(ServiceObserved::Foreign | ServiceObserved::Down | ServiceObserved::Failing) => {}
    }
    let request = OperationRequest::new(name, Action::Restart, "asked by webhook").owned_by(HoldOwner::Person);
    match operate::accept(app, request, key).await {
        Ok(status) => Ok(Ok(status.id)),
        Err(refused) if refused.reason == AgentRefusal::Held => Ok(Err(refused.message)),
        Err(refused) => Err(refused),
    }
}

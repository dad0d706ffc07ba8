//! `/simulate`: faults at run time, and what was asked.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::asked::Lenient;
use super::calls::Log;
use super::reply;
use super::state::SimulatedState;
use super::totals::Totals;
use super::{ActiveFault, FaultError};

pub(super) const PREFIX: &str = "/simulate/";

/// `GET`, `PUT` (these and no others), `POST` (these as well) and `DELETE /simulate/faults`; `GET` and `DELETE /simulate/log`;
/// `GET /simulate/totals`, the counts of the log alone.
pub(super) fn router() -> Router<Arc<SimulatedState>> {
    Router::new()
        .route("/simulate/faults", get(list).put(replace).post(add).delete(clear))
        .route("/simulate/log", get(log).delete(clear_log))
        .route("/simulate/totals", get(totals))
}

async fn list(State(shared): State<Arc<SimulatedState>>) -> Response {
    shown(&shared)
}

async fn replace(State(shared): State<Arc<SimulatedState>>, Lenient(body): Lenient<Value>) -> Response {
    read(&body).map_or_else(refusal, |faults| {
        shared.faults.clear();
        shared.add_faults(faults);
        shown(&shared)
    })
}

async fn add(State(shared): State<Arc<SimulatedState>>, Lenient(body): Lenient<Value>) -> Response {
    read(&body).map_or_else(refusal, |faults| {
        shared.add_faults(faults);
        shown(&shared)
    })
}

async fn clear(State(shared): State<Arc<SimulatedState>>) -> StatusCode {
    shared.faults.clear();
    StatusCode::NO_CONTENT
}

async fn log(State(shared): State<Arc<SimulatedState>>) -> Json<Log> {
    Json(shared.ledger.read())
}

async fn totals(State(shared): State<Arc<SimulatedState>>) -> Json<Totals> {
    Json(shared.ledger.totals())
}

async fn clear_log(State(shared): State<Arc<SimulatedState>>) -> StatusCode {
    shared.ledger.clear();
    StatusCode::NO_CONTENT
}

fn shown(shared: &SimulatedState) -> Response {
    let faults: Vec<Value> = shared.faults.all().iter().map(ActiveFault::to_json).collect();
    reply::json(200, &Value::from(faults))
}

/// One fault or a list of them.
fn read(body: &Value) -> Result<Vec<ActiveFault>, FaultError> {
    let one = std::slice::from_ref(body);
    body.as_array().map_or(one, Vec::as_slice).iter().map(ActiveFault::from_json).collect()
}

fn refusal(error: FaultError) -> Response {
    reply::json(400, &json!({"error": error.to_string()}))
}

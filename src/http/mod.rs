//! REST API, health and metrics page. It reads the store and the platform, never a leader's memory, so that every replica
//! answers the same. docs/api.md and `/api/v1/openapi.json` say what can be asked.

mod auth;
mod calls;
mod causes;
mod controls;
mod error;
mod events;
mod extract;
mod health;
mod moment;
mod openapi;
mod resources;
mod routes;
mod services;
mod state;
mod status;
mod tasks;
mod types;
mod ui;

/// The longest reason of a person, in characters: it is shown beside what it is about.
const MOST_REASON_CHARS: usize = 1_024;

/// Refuses a longer text, by field.
fn bounded(field: &str, text: &str, most: usize) -> Result<(), ApiError> {
    match text.chars().count() {
        count if count > most => {
            Err(ApiError::BadRequest(format!("{field}: has {count} characters, {most} are allowed")))
        }
        _ => Ok(()),
    }
}

pub use auth::Access;
pub use auth::{AuthError, Authorizer, KubeAuthorizer, Person, TokenAuthorizer};
pub use calls::CallList;
pub use causes::{AcknowledgeRequest, CauseList, CauseView};
pub use error::{ApiError, ErrorReply};
pub use health::{Health, serve_health};
pub use moment::TimeOrDuration;
pub use routes::{serve, serve_by};
pub use state::{Api, ProblemSource, ResourceHome};
pub use status::{BackendLine, Level, Overview, QueueLine, ResourceLine};
pub use tasks::{
    CommandReply, CommandRequest, CompleteReply, CompleteRequest, ExpertList, Explanation, FROM_NOW, HeartbeatReply,
    HeartbeatRequest, InsertReply, MOST_TASKS, QueueList, ResultList, TaskChange, TaskList, TaskProblem, TaskRequest,
    TaskVerb, WorkerList, WorkerView,
};
pub use types::{
    Changed, Check, Event, EventList, Item, ItemList, LeaderView, Live, OperationView, PauseRequest, Problem,
    ProblemList, ReasonRequest, SuspensionView,
};
pub use ui::{
    ExternalUrl,
    sign::{LinkRequest, SignInLink},
};

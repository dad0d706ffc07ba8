//! The agent as a server: started, joined, ended.

mod admit;
mod app;
mod containers;
mod keys;
mod operate;
mod recover;
mod refusal_log;
mod routes;
mod start;

pub use start::{AgentError, AgentHandle, AgentSettings, check_client, start};

//! The host agent's server: services, operations and its own check loop.

mod callers;
pub mod config;
mod docker;
pub mod exec;
mod gate;
mod keep;
pub mod os;
mod plan;
mod report;
mod runner;
mod server;
mod service;

pub use config::{AgentFile, ConfigError, load, local_kind};
pub use server::{AgentError, AgentHandle, AgentSettings, check_client, start};
pub use service::{ServiceError, running_in};

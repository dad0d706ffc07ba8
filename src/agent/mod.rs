//! The host agent's server: services, operations and its own check loop.

pub mod config;
pub mod exec;
mod gate;
mod keep;
mod metrics;
mod os;
mod plan;
mod report;
mod runner;
mod server;
mod service;

pub use config::{AgentFile, ConfigError, load};
pub use server::{AgentError, AgentHandle, AgentSettings, start};
pub use service::ServiceError;

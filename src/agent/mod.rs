//! The host agent's server: services, operations and its own check loop.

pub mod config;
pub mod exec;
mod gate;
mod keep;
mod os;
mod plan;
mod service;

pub use config::{AgentFile, ConfigError, load};

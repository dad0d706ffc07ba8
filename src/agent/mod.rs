//! The host agent's server: services, operations and its own check loop.

pub mod config;
mod gate;
mod keep;
mod os;
mod plan;

pub use config::{AgentFile, ConfigError, load};

//! Ostler keeps a team's LLM servers as declared, and gets their queue of LLM tasks done: it compares what resources say with
//! what it observes, and acts until both agree. The rooms below form six storeys; each uses only those below its own
//! (docs/architecture.md).

pub mod cli;

pub mod agent;
pub mod controllers;
pub mod gateway;
pub mod http;
pub mod simulate;
pub mod worker;

pub mod calls;
pub mod notify;

pub mod engines;
pub mod platform;
pub mod runtimes;
pub mod store;

pub mod host;
pub mod json;
pub mod listener;
pub mod protocols;
pub mod tasks;
pub mod telemetry;

pub mod causes;
pub mod net;

pub mod api;
pub mod base;

#[cfg(test)]
mod testing;

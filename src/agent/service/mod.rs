//! A service of the agent's file: how it is seen, started, stopped and checked.

mod acts;
mod check;
mod contained;
mod error;
mod exits;
mod launch;
pub mod log;
mod oom;
mod process;
mod startup;
mod state;
mod wait;

pub use contained::{instance_of_run, running_seconds};
pub use error::ServiceError;
pub use launch::Launcher;
pub use process::{PortSight, running_in};
pub use state::{Means, Service, ServiceGlance};
pub use wait::WaitContext;

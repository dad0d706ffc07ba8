//! A service of the agent's file: how it is seen, started, stopped and checked.

mod acts;
mod check;
mod command;
mod error;
mod exits;
mod launch;
mod log;
mod oom;
mod process;
mod state;
mod wait;

pub use error::ServiceError;
pub use launch::Launcher;
pub use process::{PortSight, own as own_process, own_started};
pub use state::{Live, Service};
pub use wait::Patience;

//! A fake engine that misbehaves on demand, to rehearse a failure before it happens, and to count what an engine is asked.
//!
//! `faults` names what can go wrong and how streams break, `replies` what real servers were seen to send; `active` says how a fault is
//! written and when it is in force, `in_force` holds those that are set; `catalog` documents them. `state` holds one server's
//! memory: its models, its calls, its faults; `gate` applies faults to each request; `ollama` and `openai` answer in the
//! manner of each engine; `control` is the HTTP interface under `/simulate`; `server` and `wire` listen, and refuse or break
//! connections.

mod active;
mod asked;
mod calls;
mod catalog;
mod chat;
mod control;
mod faults;
mod gate;
mod generate;
mod in_force;
mod models;
mod ollama;
mod ollama_calls;
mod openai;
mod options;
mod other_protocols;
mod replies;
mod reply;
mod server;
mod state;
mod tools;
mod totals;
mod wire;

pub use active::{ActiveFault, FaultError, When};
pub use calls::{CallEnd, CallRecord, Log};
pub use catalog::{FAULTS, fault_help};
pub use faults::Fault;
pub use faults::Shape;
pub use options::{OnCrash, SimulateOptions};
pub use replies::Like;
pub use server::{SimulatedServer, StartError};
pub use totals::{StartsError, Totals, count_start};
pub use wire::TlsMode;

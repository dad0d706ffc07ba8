//! A fake engine that misbehaves on demand, to rehearse a failure before it happens, and to count what an engine is asked.
//!
//! `faults` says what can go wrong and how it is written; `state` holds one server's memory: its models, its log, its faults;
//! `gate` applies faults to each request; `ollama`, `mlx` and `openai` answer in the manner of each engine; `control` is the
//! HTTP interface under `/simulate`; `server` and `wire` listen, and refuse or break connections.

mod body;
mod calls;
mod chat;
mod control;
mod faults;
mod gate;
mod generate;
mod mlx;
mod models;
mod ollama;
mod ollama_calls;
mod openai;
mod options;
mod reply;
mod sample;
mod server;
mod state;
mod wire;

pub use calls::{CallEnd, CallRecord, Log};
pub use faults::{ActiveFault, Fault, FaultError, Trigger};
pub use options::{OnCrash, SimulateOptions};
pub use server::{Server, StartError};

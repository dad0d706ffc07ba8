//! The real program, as people type it.

mod bench;
mod initial;
mod misuse;
mod quickstart;
mod tasks;
mod telemetry;

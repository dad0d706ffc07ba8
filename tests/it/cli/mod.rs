//! The real program, as people type it.

mod bench;
mod declared;
mod docs;
mod following;
mod initial;
mod misuse;
mod quickstart;
mod readers;
mod readme;
mod tasks;
mod telemetry;

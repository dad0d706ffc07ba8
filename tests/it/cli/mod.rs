//! The real program, as people type it.

mod bench;
mod declared;
mod docs;
mod doctor;
mod following;
mod initial;
mod jobs;
mod misuse;
mod quickstart;
mod readers;
mod readme;
mod tasks;
mod telemetry;

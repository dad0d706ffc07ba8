//! The host agent over real HTTP, with real processes.

mod adopting;
mod bench;
mod command;
mod crashes;
mod docker;
mod doors;
mod failing;
mod healing;
mod holding;
mod logs;
mod ollama;
mod pushing;
mod refusing;
mod starting;
mod users;

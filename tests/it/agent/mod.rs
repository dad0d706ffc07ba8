//! The host agent over real HTTP, with real processes.

mod adopting;
mod bench;
mod command;
mod crashes;
mod docker;
mod doors;
mod healing;
mod holding;
mod logs;
mod ollama;
mod refusing;
mod users;

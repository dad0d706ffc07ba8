//! What every room needs: text (escapes, ages, durations, "did you mean …?"), and how often a loop may begin. Pure; it uses no other room.

mod burst;
pub mod escape;
mod text;

pub use burst::Burst;
pub use text::{age, closest, duration};

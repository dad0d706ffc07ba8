//! Text that every room needs: escapes, ages, durations, "did you mean …?". Pure; it uses no other room.

pub mod escape;
mod text;

pub use text::{age, closest, duration};

//! What every room needs: text (escapes, ages, durations, "did you mean …?"), how often a loop may begin, and
//! when it looks again; what a refusal of the API server asks for. It uses no other room.

mod burst;
pub mod escape;
pub mod rights;
mod text;
mod tick;

pub use burst::Burst;
pub use text::{age, closest, duration};
pub use tick::{Ticker, tick};

//! What every room needs: text (escapes, ages, durations, "did you mean …?"), how often a loop may begin, and
//! when it looks again; what a refusal of the API server asks for. It uses no other room.

pub mod escape;
mod text;
mod tick;

pub use text::{age, closest, duration, with_mend};
pub use tick::{Burst, Ticker, tick};

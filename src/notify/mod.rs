//! How people are told: a message written as each service wants it, and sent. What it says and when it is due is decided elsewhere
//! (`causes/`).

mod courier;
mod email;
mod render;

pub use courier::{Courier, SendError};

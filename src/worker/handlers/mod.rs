//! How a task is done: a chat, vectors of texts, or somebody's webhook. Each builds its request purely and says how it ended.

pub mod requests;
pub mod webhook;

//! The whole of `ostler up`, as a user runs it.

mod crashes;
mod harness;
mod healing;
mod manifests;
mod polite;
mod real_engines;
mod storms;
mod webhooks;

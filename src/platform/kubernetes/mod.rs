//! Resources in a cluster: watches, status by server-side apply, Events.
//!
//! [`connect`] makes the client, [`KubernetesPlatform`] speaks through it; [`merge`] joins the watches of several
//! namespaces into one, and is pure.

mod client;
mod error;
mod events;
mod failing;
mod home;
mod merge;
mod watch;

pub use client::{ConnectError, connect};
pub use home::KubernetesPlatform;

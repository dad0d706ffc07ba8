//! The one integration-test binary. Each module names the real parts it needs.

#![allow(clippy::disallowed_methods, reason = "a test asks as anybody may")]

mod agent;
mod alerts;
mod api;
mod chart;
mod cli;
mod controllers;
mod crds;
mod engines;
mod gateway;
mod gitops;
mod image;
mod installed;
mod layers;
mod namespaces;
mod parts;
mod platform;
mod pools;
mod real;
mod runtimes;
mod schedules;
mod simulate;
mod simulated;
mod store;
mod up;
mod validation;
mod worker;

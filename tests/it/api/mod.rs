//! The REST API on a real store and a real folder.

mod auth;
mod bench;
mod browser;
mod claims;
mod controls;
mod dashboard;
mod dashboard_acts;
mod doors;
mod real_cluster;
mod seeing;
mod services;
mod sql;
mod tasks;
mod tasks_following;

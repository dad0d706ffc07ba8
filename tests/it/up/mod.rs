//! The whole of `ostler up`, as a user runs it.

mod callbacks;
mod callers;
mod causes;
mod clients;
mod composed;
mod containers;
mod crashes;
mod declared;
mod full_disk;
mod gateway;
pub mod harness;
mod healing;
mod hostile;
mod killed_calls;
mod manifests;
mod outage;
mod polite;
mod queues;
mod real_client;
mod real_dashboard;
mod real_engines;
mod real_evidence;
mod real_mail;
mod schedules;
mod storms;
mod webhooks;

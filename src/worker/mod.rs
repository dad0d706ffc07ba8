//! Does the tasks of a pool's queues: claims them with a slot of the server that they need, calls it, and records how that
//! ended. It needs the database and the servers, nothing else.
//!
//! `run` has the loops, `report` what they tell the leader, and `claiming` the rounds that fill the room that `load` leaves. A slot in hand is a `lane`, in which
//! one `call` follows the other; `webhooks` sends tasks to others' agents; `handlers` build each request.
//! `leases` and `job` know until when something is ours, on a clock that counts sleep; `finish` records results, and `spool` keeps
//! them on disk while the database is away. `world` is what is declared. What the gateway needs too is in `calls`.

mod call;
mod claiming;
mod core;
mod finish;
mod handlers;
mod job;
mod kept;
mod lane;
mod leases;
pub mod load;
#[cfg(test)]
mod lost_answers;
mod outcome;
mod report;
mod run;
mod spool;
mod stats;
#[cfg(test)]
mod testing;
mod webhooks;
mod world;

pub use self::core::Timings;
pub use run::{SpoolError, Worker, WorkerParts};

//! A gateway on a database and simulated engines: what it does is counted at the engines and in the database.

mod aborts;
mod cache;
mod callers;
mod contexts;
mod doors;
mod ending;
mod failing;
mod fair;
mod gate;
mod limits;
mod listing;
mod passing;
mod process;
mod real;
mod translated;
mod turns;
mod waiting;

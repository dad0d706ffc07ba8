//! `ostler bench`.

mod queue;

use std::time::Duration;

use super::{CliError, output::print};
use crate::store::DatabaseUrl;

pub use queue::{Bench, Drained};

/// Measure how fast Ostler is on a database
///
/// It works in a schema of its own, which it drops again.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Queue(QueueArgs),
}

/// Drain tasks that do nothing, and print how many tasks a second were inserted, assigned, and claimed and completed
#[derive(Debug, clap::Args)]
struct QueueArgs {
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE, with a role that may make schemas
    #[arg(long, value_name = "URL", env = "OSTLER_DATABASE_URL", hide_env_values = true)]
    database_url: DatabaseUrl,
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    tasks: u32,
    /// Claimers at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    connections: u32,
    /// Tasks in a claim, and in a completion
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    batch: i32,
}

pub async fn run(args: BenchArgs) -> Result<(), CliError> {
    let What::Queue(QueueArgs { database_url, tasks, connections, batch }) = args.what;
    let bench = Bench::new(&database_url).await?;
    // Also after a Ctrl-C: the schema must not stay.
    let measured = tokio::select! {
        measured = measure(&bench, tasks, connections, batch) => measured,
        _ = tokio::signal::ctrl_c() => Err(CliError::failed("interrupted")),
    };
    let dropped = bench.drop_schema().await;
    print(&measured?)?;
    dropped
}

async fn measure(bench: &Bench, tasks: u32, connections: u32, batch: i32) -> Result<String, CliError> {
    let experts = 8;
    bench.declare(experts).await?;
    let inserted = bench.insert(tasks).await?;
    let assigned = bench.assign().await?;
    let drained = bench.drain(tasks, connections, batch).await?;
    Ok(format!(
        "inserted {:>10.0} tasks/s\nassigned {:>10.0} tasks/s, to {experts} experts\ndrained  {:>10.0} tasks/s, \
         {connections} claimers, {batch} in a claim\n",
        rate(tasks, inserted),
        rate(tasks, assigned),
        rate(drained.tasks, drained.took),
    ))
}

fn rate(tasks: u32, took: Duration) -> f64 {
    f64::from(tasks) / took.as_secs_f64().max(1e-9)
}

/// The middle one of some figures.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// `OSTLER_DATABASE_URL`, where it is set, with the schema of `url`: for another process, as a parsed URL does not show its password.
pub fn database_url(url: &DatabaseUrl) -> Option<String> {
    let database = std::env::var("OSTLER_DATABASE_URL").ok()?;
    let separator = if database.contains('?') { '&' } else { '?' };
    Some(format!("{database}{separator}ostler_schema={}", url.schema()))
}

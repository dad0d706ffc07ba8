//! `ostler version`.

use serde_json::Value;

use super::{CliError, Global, Target, output::print};

/// Show the version of this program, and of the system that it speaks to
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this program's
    #[arg(long)]
    client: bool,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    print(&format!("ostler {}\n", env!("CARGO_PKG_VERSION")))?;
    // Without a system there is none to ask; that is no failure of this command.
    let Some(target) = (if args.client { None } else { Target::of(global).await.ok() }) else { return Ok(()) };
    let description: Value = target.api.get(&["openapi.json"], &[]).await?;
    let version = description.pointer("/info/version").and_then(Value::as_str).unwrap_or("of an unknown release");
    print(&format!("server {version} · {}\n", target.place))
}

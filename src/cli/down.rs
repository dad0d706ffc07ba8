//! `ostler down`.

use std::time::{Duration, Instant};

use super::{CliError, DataDir, Global, TargetSystem, output::print};
use crate::{agent::os, http::Changed};

const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Stop the `ostler up` of this data folder and the services that it started; holds are released
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    /// How long to wait for its end
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::base::duration)]
    wait: Duration,
}

pub async fn run(args: DownArgs, global: &Global) -> Result<(), CliError> {
    if global.kube || global.server.is_some() {
        return Err(CliError::misused("`down` ends an `up` on this machine: name it by --data-dir"));
    }
    let dir = DataDir::of(global)?;
    let Some(endpoint) = dir.read_endpoint()? else {
        return print(&format!("no `ostler up` runs with data folder {}\n", dir.path().display()));
    };
    let target = TargetSystem::of(global).await?;
    let changed: Changed = match target.api.post(&["down"], &[], None::<&()>).await {
        Err(_) if !alive(endpoint.pid) => {
            return print(&format!("the `ostler up` of {} (pid {}) has ended already\n", target.place, endpoint.pid));
        }
        answer => answer?,
    };
    print(&format!("{} · {}\n", changed.message, target.place))?;
    let deadline = Instant::now() + args.wait;
    while alive(endpoint.pid) {
        if Instant::now() >= deadline {
            return Err(CliError::failed(format!(
                "`ostler up` (pid {}) is still there after {} s: its services take long to end; see its log",
                endpoint.pid,
                args.wait.as_secs()
            )));
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    print("down\n")
}

/// Whether a process of this id runs; one that ended and that its parent has not asked about (a zombie) does not.
fn alive(pid: u32) -> bool {
    os::instance_of(pid).is_some()
}

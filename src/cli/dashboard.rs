//! `ostler dashboard`: a link that signs in at the dashboard, once.

use std::process::{Command, Stdio};

use super::{CliError, Global, TargetSystem, output::print, process::signaled};
use crate::http::{LinkRequest, SignInLink};

/// Print a link to the dashboard, which signs in once, within a minute
#[derive(Debug, clap::Args)]
pub struct DashboardArgs {
    /// Open it in the browser of this machine
    #[arg(long)]
    open: bool,
    /// Sign in to look only: nothing can be changed
    #[arg(long)]
    look_only: bool,
}

pub async fn run(args: DashboardArgs, global: &Global) -> Result<(), CliError> {
    let DashboardArgs { open, look_only } = args;
    let target = TargetSystem::of(global).await?;
    let request = LinkRequest { look_only };
    let link: SignInLink = target.api.post(&["links"], &target.namespace_query(), Some(&request)).await?;
    // A forwarded port leads to the very process that made the link.
    let forwarded = target.api.loopback().map(|base| format!("{base}{}", link.path));
    let url = match (target.cluster.is_some(), link.url) {
        (false, Some(external)) => Some(external),
        _ => forwarded,
    };
    let url = url.ok_or_else(|| {
        CliError::failed(format!(
            "{} serves its dashboard by loopback addresses only: start it with --external-url, or forward a port, `ssh -L \
             9180:127.0.0.1:9180 HOST`, and name it with --server http://127.0.0.1:9180",
            target.place
        ))
    })?;
    let within = link.expires_in_seconds;
    print(&format!("{url}\nsigns in once, within {within} s · {}\n", target.place))?;
    if open {
        open_in_browser(&url)?;
    }
    if target.cluster.is_some() {
        print("the port is forwarded until Ctrl-C\n")?;
        signaled().await?;
    }
    Ok(())
}

fn open_in_browser(url: &str) -> Result<(), CliError> {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    let ended = command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(CliError::failed(format!("`{program}` can't open a browser ({status}): open the link by hand")))
        }
        Err(error) => Err(CliError::failed(format!(
            "can't start `{program}`, which opens a browser: {error}; open the link by hand"
        ))),
    }
}

//! What `up` says to whoever started it.

use std::{io::IsTerminal, path::Path};

use nix::sys::stat::fstat;
use tokio::sync::watch;

use super::{CliError, DataDir, UpAgents, UpEndpoint};
use crate::{
    api::Kind,
    cli::output::{announce, problem_line},
    platform::{Platform, PlatformProblem, Severity},
};

/// The first lines: what is served where, what is wrong with the manifests, what to type next. `gateway` is said of it; `None`: this
/// process only observes.
pub async fn welcome(
    folder: &Path,
    dir: &DataDir,
    endpoint: &UpEndpoint,
    platform: &dyn Platform,
    agents: &UpAgents,
    gateway: Option<&str>,
) -> Result<(), CliError> {
    let mut counts = Vec::new();
    for kind in Kind::ALL {
        let count = platform.list(kind.as_str()).await?.len();
        if count > 0 {
            counts.push(format!("{count} {}", kind));
        }
    }
    if counts.is_empty() {
        counts.push("nothing yet".to_owned());
    }
    let mut text = format!("serving {}: {}\n", folder.display(), counts.join(", "));
    text += &format!("API, health and metrics on {} · data in {}\n", endpoint.address, dir.path().display());
    for (name, url) in agents.urls() {
        text += &format!("agent {name} on {url}\n");
    }
    match gateway {
        Some(said) => text += &format!("{said}\n"),
        None => text += "observing only: nothing is started, stopped or healed, and no calls are served\n",
    }
    for problem in agents.problems().list() {
        text += &format!("✗ {}\n", problem_line(&problem));
    }
    for left in agents.left_behind() {
        text += &format!(
            "! {left} runs on, though nothing here declares that: an `ostler up` of its folder finds it again, and `ostler down` \
             ends it then\n"
        );
    }
    text += "next: `ostler status` or `ostler dashboard` in another terminal; Ctrl-C here ends this and leaves services up, `ostler down` ends both\n";
    announce(&text);
    Ok(())
}

/// Each problem of the manifests as it comes, and when the last is mended.
pub async fn changed_problems(mut problems: watch::Receiver<Vec<PlatformProblem>>) {
    let mut known: Vec<PlatformProblem> = Vec::new();
    loop {
        let now = problems.borrow_and_update().clone();
        for problem in now.iter().filter(|p| !known.contains(p)) {
            log(problem);
            announce(&format!("{} {problem}\n", if problem.severity == Severity::Error { "✗" } else { "!" }));
        }
        if now.is_empty() && !known.is_empty() {
            announce("✓ the manifests are in order\n");
        }
        known = now;
        if problems.changed().await.is_err() {
            return;
        }
    }
}

/// For whoever reads the log alone. Where both go to one place it would stand there twice.
fn log(problem: &PlatformProblem) {
    let (said, logged) = (std::io::stdout(), std::io::stderr());
    let place = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
    let same = matches!((fstat(&said).map(place), fstat(&logged).map(place)), (Ok(one), Ok(other)) if one == other);
    if same || said.is_terminal() && logged.is_terminal() {
        return;
    }
    let PlatformProblem { severity, place, about, field, message } = problem;
    let (file, line) = place.as_ref().map_or((None, None), |p| (Some(p.file.as_str()), Some(p.line)));
    if *severity == Severity::Error {
        tracing::warn!(file, line, about, field, why = message, "manifest is not in force");
    } else {
        tracing::info!(file, line, about, field, why = message, "manifest is noted");
    }
}

pub fn draining(down: bool) {
    announce(if down {
        "going down: stopping services …\n"
    } else {
        "ending: finishing running tasks, letting controllers come to rest …\n"
    });
}

/// What goes on without this process.
pub fn farewell(services: &[String], failed: &[String]) {
    for failure in failed {
        announce(&format!("✗ not stopped: {failure}\n"));
    }
    if services.is_empty() {
        announce("ended\n");
    } else {
        announce(&format!("ended; services stay up: {}. `ostler up` finds them again\n", services.join(", ")));
    }
}

//! `ostler completions SHELL`, and the names for it, as the running system has them.

use std::{ffi::OsStr, time::Duration};

use clap_complete::{CompletionCandidate, env::Shells};

use super::{CliError, Global, TargetSystem, output::print_ready};
use crate::{api::Kind, http::ItemList};

/// Whoever presses Tab does not wait for longer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Asked for by the shell that wants completion.
pub const VARIABLE: &str = "OSTLER_COMPLETE";

/// Print completions: `source <(ostler completions bash)`; names of resources are those of the running system
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

pub fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let shells = Shells::builtins();
    let shell =
        shells.completer(&args.shell).ok_or_else(|| CliError::misused(format!("{}: no such shell", args.shell)))?;
    let program = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned));
    let program = program.as_deref().unwrap_or("ostler");
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "ostler", "ostler", program, &mut script).map_err(CliError::failed)?;
    print_ready(&String::from_utf8_lossy(&script))
}

/// `KIND/NAME` of every resource.
pub fn resources(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, Kind::ALL, |kind, name| format!("{}/{name}", kind.short()))
}

/// Kinds until there is a slash, then the names of the kind.
pub fn kinds_and_resources(current: &OsStr) -> Vec<CompletionCandidate> {
    match current.to_string_lossy().split_once('/') {
        Some((kind, _)) => match Kind::find(kind) {
            Some(found) => candidates(current, &[found], |_, name| format!("{kind}/{name}")),
            None => Vec::new(),
        },
        None => {
            let kinds = Kind::ALL.iter().map(|kind| kind.plural().to_owned()).chain(["tasks".to_owned()]);
            beginning(current, kinds)
        }
    }
}

/// Names of TaskSchedules.
pub fn schedules(current: &OsStr) -> Vec<CompletionCandidate> {
    of(current, Kind::TaskSchedule)
}

/// Names of TaskQueues.
pub fn queues(current: &OsStr) -> Vec<CompletionCandidate> {
    of(current, Kind::TaskQueue)
}

/// Names of Experts.
pub fn experts(current: &OsStr) -> Vec<CompletionCandidate> {
    of(current, Kind::Expert)
}

/// Services of all agents.
pub fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    let items = ask(&[Kind::HostAgent]).unwrap_or_default();
    let names = items.iter().flat_map(|(_, list)| list.items.iter().flat_map(super::service::services));
    beginning(current, names.map(str::to_owned))
}

fn of(current: &OsStr, kind: Kind) -> Vec<CompletionCandidate> {
    candidates(current, &[kind], |_, name| name.to_owned())
}

fn candidates(current: &OsStr, kinds: &[Kind], word: impl Fn(Kind, &str) -> String) -> Vec<CompletionCandidate> {
    let items = ask(kinds).unwrap_or_default();
    let words = items.iter().flat_map(|(kind, list)| list.items.iter().map(|item| word(*kind, item.name())));
    beginning(current, words)
}

fn beginning(current: &OsStr, words: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let mut words: Vec<String> = words.filter(|word| word.starts_with(&*current)).collect();
    words.sort();
    words.dedup();
    words.into_iter().map(CompletionCandidate::new).collect()
}

/// From the system that commands would go to without options. A shell asks in a process of its own, so a runtime for it does no harm.
fn ask(kinds: &[Kind]) -> Option<Vec<(Kind, ItemList)>> {
    crate::net::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let asking = async {
            let target = TargetSystem::of(&Global::default()).await?;
            let mut all = Vec::new();
            for kind in kinds {
                all.push((*kind, target.api.get(&[kind.plural()], &[]).await?));
            }
            Ok::<_, CliError>(all)
        };
        tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()
    })
}

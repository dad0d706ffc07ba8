//! `ostler calls`: what waits and runs at gateways.

use std::time::Duration;

use clap::Subcommand;

use super::{
    CliError, Global, TargetSystem,
    output::{self, Format, Style, Table, print, print_ready},
};
use crate::{
    base::age,
    http::{CallList, Changed},
    store::{OpenCall, OpenCallState},
};

/// Gateways tell of their calls about as often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// List calls that wait or run at gateways, or cancel one
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CallsArgs {
    #[command(subcommand)]
    command: Option<CallsCommand>,
    /// Print them again and again, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

#[derive(Debug, Subcommand)]
enum CallsCommand {
    /// End a call: its client is told, and the engine stops
    Cancel {
        /// As `ostler calls` and the header Ostler-Call-Id have it
        id: String,
    },
}

pub async fn run(args: CallsArgs, global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let query = target.namespace_query();
    if let Some(CallsCommand::Cancel { id }) = args.command {
        let changed: Changed = target.api.post(&["calls", &id, "cancel"], &query, None::<&()>).await?;
        return print(&format!("{} · {}\n", changed.message, target.place));
    }
    let mut last: Option<Vec<OpenCall>> = None;
    loop {
        let list: CallList = target.api.get(&["calls"], &query).await?;
        if last.as_ref() != Some(&list.items) {
            tell(&list, &target, args.output)?;
        }
        last = Some(list.items);
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn tell(list: &CallList, target: &TargetSystem, format: Option<Format>) -> Result<(), CliError> {
    if output::print_value(format, list)? {
        return Ok(());
    }
    if list.items.is_empty() {
        return print("no calls\n");
    }
    print_ready(&table(&list.items, target.api.now()).render(Style::of_stdout()))
}

fn table(calls: &[OpenCall], now: jiff::Timestamp) -> Table {
    let mut table = Table::new(&["ID", "CALLER", "MODEL", "STATE", "BACKEND", "AGE", "PATH"]);
    for call in calls {
        let state = match call.state {
            OpenCallState::Waiting => "Waiting",
            OpenCallState::Running => "Running",
        };
        table.push([
            call.id.clone(),
            format!("{}/{}", call.namespace, call.caller),
            call.model.clone(),
            state.to_owned(),
            call.backend.clone().unwrap_or_else(|| "-".to_owned()),
            age(now.duration_since(call.asked_at).as_secs()),
            call.path.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_on_one_line() {
        let call = OpenCall {
            id: "01ab".into(),
            namespace: "team".into(),
            caller: "editor".into(),
            path: "/v1/messages".into(),
            model: "coder".into(),
            state: OpenCallState::Running,
            backend: Some("mlx".into()),
            asked_at: "2026-03-01T11:59:00Z".parse().unwrap(),
        };
        let waits = OpenCall { state: OpenCallState::Waiting, backend: None, ..call.clone() };
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        assert_eq!(
            table(&[call, waits], now).render(Style::default()),
            "ID     CALLER        MODEL   STATE     BACKEND   AGE   PATH\n\
             01ab   team/editor   coder   Running   mlx       60s   /v1/messages\n\
             01ab   team/editor   coder   Waiting   -         60s   /v1/messages\n"
        );
    }
}

//! `ostler causes`, `ack` and `report`.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

use super::{
    CliError, Global, TargetSystem, bundle,
    output::{self, Format, Style, Table, print, print_ready},
};
use crate::{
    api::number_of,
    base::{age, duration, escape},
    causes::NightReport,
    http::{AcknowledgeRequest, CauseList, CauseView, Changed, TimeOrDuration},
};

/// Show what is wrong, each cause once, worst first
#[derive(Debug, clap::Args)]
pub struct CausesArgs {
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: CausesArgs, global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let list: CauseList = target.api.get(&["causes"], &target.namespace_query()).await?;
    if output::print_value(args.output, &list.items)? {
        return Ok(());
    }
    if list.items.is_empty() {
        return print("nothing is wrong\n");
    }
    let mut table = Table::new(&["CAUSE", "SEVERITY", "FOR", "WHAT"]);
    for cause in &list.items {
        let lasts = age(list.now.duration_since(cause.since).as_secs());
        table.push([cause.key.clone(), <&str>::from(cause.severity).to_owned(), lasts, cause.title.clone()]);
        table.note(&details(cause));
    }
    print_ready(&table.render(Style::of_stdout()))
}

/// Why, what it affects, and who has it in their hands.
pub fn details(cause: &CauseView) -> String {
    let mut parts = Vec::new();
    if !cause.evidence.is_empty() {
        parts.push(cause.evidence.clone());
    }
    if cause.affected > 0 {
        parts.push(format!("{} affected", cause.affected));
    }
    if cause.waiting > 0 {
        let wait = if cause.waiting == 1 { "waits" } else { "wait" };
        parts.push(format!("{} {wait}", number_of(cause.waiting, "task")));
    }
    if let Some(by) = &cause.acknowledged {
        parts.push(format!("acknowledged by {}", by.by));
    }
    parts.push(cause.next.clone());
    parts.join(" · ")
}

/// Acknowledge a cause: no reminders of it for this long, only that it is over
#[derive(Debug, clap::Args)]
pub struct AckArgs {
    /// Its key as `ostler causes` shows it, or what it is about: llm/mlx, host/mac.lan
    cause: String,
    /// For 30m, 2h, 1d, ...
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "8h")]
    for_: Duration,
}

pub async fn acknowledge(args: AckArgs, global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let for_seconds = Some(i64::try_from(args.for_.as_secs()).map_err(CliError::misused)?);
    let body = AcknowledgeRequest { cause: args.cause, for_seconds };
    let path = ["causes", "acknowledge"];
    let changed: Changed = target.api.post(&path, &target.namespace_query(), Some(&body)).await?;
    print(&format!("{} · {}\n", changed.message, target.place))
}

/// Show what went wrong in a span of time, what was done about it, and what is left to do
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The last 30m, 12h, 2d, ...; causes are kept for 30 days
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "12h")]
    since: Duration,
    #[arg(long, short, value_enum, default_value_t)]
    output: ReportFormat,
    /// Write it to a new folder, with status, resources, events, logs of services, versions and what `doctor` says, for whoever helps
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    bundle: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    #[default]
    Text,
    Markdown,
    Json,
}

pub async fn report(args: ReportArgs, global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let mut query = target.namespace_query();
    query.push(("since", TimeOrDuration::Away(args.since).to_string()));
    let report: NightReport = target.api.get(&["report"], &query).await?;
    if let Some(folder) = args.bundle {
        return bundle::write(&folder, &report, &target, global).await;
    }
    match args.output {
        ReportFormat::Json => output::print_value(Some(Format::Json), &report).map(drop),
        ReportFormat::Text => print_ready(&escape::for_terminal(&report.text())),
        ReportFormat::Markdown => print_ready(&escape::for_terminal(&report.markdown())),
    }
}

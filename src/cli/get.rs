//! `ostler get`.

use jiff::Timestamp;

use super::{
    CliError, Global, Target, names,
    output::{self, Format, Style, print},
    tasks,
};
use crate::http::{Item, ItemList, Kind};

/// List resources with their status, or one of them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND or KIND/NAME: llmbackends (llm), hostagents (ha), experts (exp), queues (tq), pools (wp), schedules (ts), or tasks
    kind: String,
    /// One resource
    name: Option<String>,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Args { kind, name, output } = args;
    if matches!(kind.as_str(), "task" | "tasks") {
        return tasks(name, output, global).await;
    }
    let (kind, name) = names::kind_and_name(&kind, name)?;
    let target = Target::of(global).await?;
    match name {
        Some(name) => {
            let namespace = target.namespace_of_one();
            let item: Item = target.api.get(&[kind.plural, namespace, &name], &[]).await?;
            if output::print_value(output, &item)? { Ok(()) } else { table(kind, &[item], Timestamp::now(), output) }
        }
        None => {
            let list: ItemList = target.api.get(&[kind.plural], &target.namespace_query()).await?;
            if output::print_value(output, &list.items)? {
                return Ok(());
            }
            if list.items.is_empty() {
                return print(&format!("no {} is declared\n", kind.kind));
            }
            table(kind, &list.items, list.now, output)
        }
    }
}

/// Tasks are no resources, but people look for them here.
async fn tasks(id: Option<String>, output: Option<Format>, global: &Global) -> Result<(), CliError> {
    let Some(id) = id else { return tasks::list(output, global).await };
    let id = id.parse().map_err(|_| CliError::misused(format!("{id:?} is no number of a task")))?;
    tasks::show(id, output, global).await
}

fn table(kind: Kind, items: &[Item], now: Timestamp, format: Option<Format>) -> Result<(), CliError> {
    let wide = format == Some(Format::Wide);
    print(&output::resource_table(kind, items, now, wide).render(Style::of_stdout()))
}

//! `ostler get`.

use jiff::Timestamp;

use super::{
    CliError, Global, Target, names,
    output::{self, Format, Style, print},
};
use crate::http::{Item, ItemList, Kind};

/// List resources with their status, or one of them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND or KIND/NAME: llmbackends (llm), hostagents (ha)
    kind: String,
    /// One resource
    name: Option<String>,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Args { kind, name, output } = args;
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

fn table(kind: Kind, items: &[Item], now: Timestamp, format: Option<Format>) -> Result<(), CliError> {
    let wide = format == Some(Format::Wide);
    print(&output::resource_table(kind, items, now, wide).render(Style::of_stdout()))
}

//! `ostler events`.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    CliError, Global, Target, names,
    output::{self, Format, Style, Table, print},
};
use crate::http::{EventList, age};

/// Show what happened, newest last; 30 days are kept
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND, or KIND/NAME: only what happened to these
    about: Option<String>,
    /// Only the last 30m, 12h, 2d, ...
    #[arg(long, value_name = "DURATION", value_parser = names::duration)]
    since: Option<Duration>,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Args { about, since, output } = args;
    let target = Target::of(global).await?;
    let mut query = target.namespace_query();
    if let Some(about) = about {
        let (kind, name) = names::kind_and_name(&about, None)?;
        query.push(("kind", kind.plural.to_owned()));
        query.extend(name.map(|name| ("name", name)));
    }
    if let Some(since) = since {
        let from = Timestamp::now().checked_sub(since).map_err(|e| CliError::misused(format!("--since: {e}")))?;
        query.push(("since", from.to_string()));
    }
    let list: EventList = target.api.get(&["events"], &query).await?;
    if output::print_value(output, &list.items)? {
        return Ok(());
    }
    if list.items.is_empty() {
        return print("nothing happened\n");
    }
    let mut table = Table::new(&["AGO", "ABOUT", "REASON", "MESSAGE"]);
    for event in list.items.iter().rev() {
        let ago = age(list.now.duration_since(event.at).as_secs());
        let about = format!("{}/{}", event.kind.to_ascii_lowercase(), event.name);
        table.push([ago, about, event.reason.clone(), event.message.clone()]);
        if event.warning {
            table.color_last("33");
        }
    }
    print(&table.render(Style::of_stdout()))
}

//! `ostler events`.

use std::time::Duration;

use clap_complete::ArgValueCompleter;
use jiff::Timestamp;

use super::{
    CliError, Global, TargetSystem, complete, names,
    output::{self, Format, Outage, Style, Table, print, print_ready, until_unread},
};
use crate::{
    base::{age, duration},
    http::{Event, EventList, Item, TimeOrDuration},
};

const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Show events, newest last; they are kept for 30 days
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Only events about KIND, KIND/NAME, or NAME if it is unique
    #[arg(value_name = "KIND[/NAME]|NAME", add = ArgValueCompleter::new(complete::kinds_and_resources))]
    about: Option<String>,
    /// Follow events from now on (or since --since), until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only the last 30m, 12h, 2d, ...
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: EventsArgs, global: &Global) -> Result<(), CliError> {
    let EventsArgs { about, since, follow, output } = args;
    // A name alone is looked for; whatever says its kind needs nobody's word.
    let typed = about.as_deref().map(|about| names::kind_and_name(about, None));
    let named = match (typed, about) {
        (Some(Err(error)), Some(about)) if about.contains('/') => return Err(error),
        (Some(Err(_)), Some(about)) => Err(about),
        (typed, _) => Ok(typed.transpose()?),
    };
    let target = TargetSystem::of(global).await?;
    let about = match named {
        Ok(about) => about,
        Err(name) => names::resolve(&name, &target).await.map(|(kind, name)| Some((kind, Some(name))))?,
    };
    let mut query = target.namespace_query();
    if let Some((kind, name)) = &about {
        query.push(("kind", kind.plural().to_owned()));
        query.extend(name.clone().map(|name| ("name", name)));
    }
    if follow {
        return until_unread(following(&target, &query, since.map(TimeOrDuration::Away), output)).await;
    }
    query.extend(since.map(|since| ("since", TimeOrDuration::Away(since).to_string())));
    let list: EventList = target.api.get(&["events"], &query).await?;
    if output::print_value(output, &list.items)? {
        return Ok(());
    }
    if list.items.is_empty() {
        if let Some((kind, Some(name))) = about {
            // What is not there has none, either, and the name may be mistyped.
            target.api.get::<Item>(&[kind.plural(), target.namespace_of_one(), &name], &[]).await?;
        }
        return print("no events\n");
    }
    print_ready(&table(&list.items, list.now).render(Style::of_stdout()))
}

/// The newest last.
pub fn table(newest_first: &[Event], now: Timestamp) -> Table {
    let mut table = Table::new(&["AGO", "ABOUT", "REASON", "MESSAGE"]);
    for event in newest_first.iter().rev() {
        let ago = age(now.duration_since(event.at).as_secs());
        let about = format!("{}/{}", event.kind.to_ascii_lowercase(), event.name);
        table.push([ago, about, event.reason.clone(), event.message.clone()]);
        if event.warning {
            table.color_last("33");
        }
    }
    table
}

/// Each event as it happens, with its time; through restarts of the server.
async fn following(
    target: &TargetSystem,
    query: &[(&'static str, String)],
    from: Option<TimeOrDuration>,
    output: Option<Format>,
) -> Result<(), CliError> {
    // From now on: by the server's clock, as the times of events are.
    let mut since = match from {
        Some(from) => from,
        None => TimeOrDuration::At(target.api.get::<EventList>(&["events"], &[("limit", "1".to_owned())]).await?.now),
    };
    // Those at `since` itself, which the next answer holds again.
    let (mut told, mut outage): (Vec<Event>, _) = (Vec::new(), Outage::default());
    loop {
        let query: Vec<_> = query.iter().cloned().chain([("since", since.to_string())]).collect();
        match target.api.get::<EventList>(&["events"], &query).await {
            Ok(list) => {
                outage.is_over();
                for event in list.items.iter().rev().filter(|event| !told.contains(event)) {
                    tell(event, output)?;
                }
                if let Some(newest) = list.items.iter().map(|event| event.at).max() {
                    since = TimeOrDuration::At(newest);
                    told = list.items.into_iter().filter(|event| event.at >= newest).collect();
                }
            }
            Err(error) => outage.report(&error),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn tell(event: &Event, output: Option<Format>) -> Result<(), CliError> {
    match output {
        Some(Format::Json) => print_ready(&output::json_line(event)?),
        Some(Format::Yaml) => print_ready(&format!("---\n{}", output::yaml(event)?)),
        _ => {
            let Event { at, kind, name, reason, message, .. } = event;
            let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
            print(&format!("{at}  {}/{name}  {reason}  {message}\n", kind.to_ascii_lowercase()))
        }
    }
}

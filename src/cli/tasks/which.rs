//! Which tasks are meant: filters as people type them.

use std::{collections::BTreeMap, time::Duration};

use clap::{ValueEnum, builder::PossibleValue};
use clap_complete::ArgValueCompleter;

use crate::{
    base::duration,
    cli::{CliError, TargetSystem, complete},
    http::{QueueList, TimeOrDuration},
    tasks::TaskState,
};

/// A state as it is typed: with `-` or `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateArg(pub TaskState);

impl ValueEnum for StateArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [StateArg; 6] = [
            StateArg(TaskState::Pending),
            StateArg(TaskState::InProgress),
            StateArg(TaskState::DeferredToHuman),
            StateArg(TaskState::Completed),
            StateArg(TaskState::Failed),
            StateArg(TaskState::Cancelled),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let value = PossibleValue::new(self.0.as_str());
        Some(match self.0 {
            TaskState::InProgress => value.aliases(["in-progress", "running"]),
            TaskState::DeferredToHuman => value.aliases(["deferred-to-human", "deferred"]),
            _ => value,
        })
    }
}

/// Filters. All that is given must match.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilterArgs {
    /// Only tasks of this queue
    #[arg(long, short, add = ArgValueCompleter::new(complete::queues))]
    pub queue: Option<String>,
    /// Only tasks in these states, apart by commas
    #[arg(long, short, value_enum, value_delimiter = ',')]
    pub state: Vec<StateArg>,
    #[arg(long)]
    pub domain: Option<String>,
    #[arg(long)]
    pub role: Option<String>,
    /// Only tasks of this expert
    #[arg(long, add = ArgValueCompleter::new(complete::experts))]
    pub expert: Option<String>,
    /// Only tasks without an expert
    #[arg(long, conflicts_with = "expert")]
    pub unassigned: bool,
    #[arg(long)]
    pub key: Option<String>,
    /// Only tasks with this label; several must all match
    #[arg(long = "label", short = 'l', value_name = "NAME=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Only tasks that ended, or came into their state, in the last 30m, 12h, 2d, ...
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// Only tasks that ended, or came into their state, more than 30m, 12h, 2d, ... ago
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub older_than: Option<Duration>,
}

/// `name=value`
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains(',') => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: write NAME=VALUE, without commas")),
    }
}

impl TaskFilterArgs {
    /// The query of a list.
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let Self { queue, state, domain, role, expert, unassigned, key, labels, since: _, older_than: _ } = self;
        let mut query: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in [("queue", queue), ("domain", domain), ("role", role), ("expert", expert), ("key", key)] {
            query.extend(value.iter().map(|v| (name, v.clone())));
        }
        if !state.is_empty() {
            query.push(("state", state.iter().map(|s| s.0.as_str()).collect::<Vec<_>>().join(",")));
        }
        if *unassigned {
            query.push(("unassigned", "true".to_owned()));
        }
        if !labels.is_empty() {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            query.push(("labels", labels.join(",")));
        }
        query.extend(self.from().map(|since| ("since", since.to_string())));
        query.extend(self.until().map(|until| ("until", until.to_string())));
        query
    }

    /// Refuses a queue that is neither declared nor has tasks: it is mistyped.
    pub async fn check_queue(&self, target: &TargetSystem) -> Result<(), CliError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let list: QueueList = target.api.get(&["tasks", "queues"], &target.namespace_query()).await?;
        if list.items.iter().any(|counts| counts.queue == *queue) {
            return Ok(());
        }
        let mut known: Vec<&str> = list.items.iter().map(|counts| counts.queue.as_str()).collect();
        known.dedup();
        let known =
            if known.is_empty() { "none is declared".to_owned() } else { format!("there are {}", known.join(", ")) };
        Err(CliError::failed(format!("there is no queue {queue:?}: {known}")))
    }

    /// `--since`; the server's clock counts.
    pub fn from(&self) -> Option<TimeOrDuration> {
        self.since.map(TimeOrDuration::Away)
    }

    /// `--older-than`.
    pub fn until(&self) -> Option<TimeOrDuration> {
        self.older_than.map(TimeOrDuration::Away)
    }

    /// Nothing is given: every task is meant.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    pub fn label_map(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        which: TaskFilterArgs,
    }

    fn which(args: &[&str]) -> TaskFilterArgs {
        Line::try_parse_from([&["x"], args].concat()).map(|l| l.which).unwrap()
    }

    #[test]
    fn filters_become_a_query() {
        assert!(which(&[]).is_open() && which(&[]).query().is_empty());
        let some = which(&["-q", "nightly", "-s", "pending,running", "-l", "a=b", "-l", "c=", "--unassigned"]);
        assert!(!some.is_open());
        let query: Vec<String> = some.query().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(query, ["queue=nightly", "state=pending,in_progress", "unassigned=true", "labels=a=b,c="]);
        assert_eq!(which(&["--since", "2h"]).query()[0].0, "since");
        assert_eq!(which(&["--older-than", "2h"]).query()[0].0, "until");
        assert!(!which(&["--older-than", "2h"]).is_open());
    }

    #[test]
    fn every_state_can_be_typed() {
        assert_eq!(StateArg::value_variants().len(), TaskState::ALL.len());
        for state in TaskState::ALL {
            assert_eq!(which(&["-s", state.as_str()]).state, [StateArg(state)]);
        }
        assert_eq!(which(&["-s", "deferred"]).state, [StateArg(TaskState::DeferredToHuman)]);
    }

    #[test]
    fn a_label_has_a_name() {
        for bad in ["a", "=b", "a=b,c"] {
            assert!(label(bad).is_err(), "{bad}");
        }
    }
}

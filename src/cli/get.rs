//! `ostler get`.

use std::{collections::HashMap, time::Duration};

use clap_complete::ArgValueCompleter;
use jiff::Timestamp;

use super::{
    CliError, Global, TargetSystem, complete, names,
    output::{self, Format, Outage, Style, print, print_ready, until_unread},
    tasks,
};
use crate::{
    api::Kind,
    http::{Item, ItemList},
};

const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// List resources with their status, or one of them
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// KIND, KIND/NAME, or a NAME alone where one resource only is called so. Kinds: llmbackends (llm), hostagents (ha), experts
    /// (exp), queues (tq), pools (wp), schedules (ts), containerhealthchecks (chc), callers (cl), notifiers (nt),
    /// tasks
    #[arg(value_name = "KIND[/NAME]|NAME", add = ArgValueCompleter::new(complete::kinds_and_resources))]
    kind: String,
    /// One resource
    name: Option<String>,
    /// Follow changes, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

/// What is shown.
struct Shown {
    kind: Kind,
    name: Option<String>,
    output: Option<Format>,
}

pub async fn run(args: GetArgs, global: &Global) -> Result<(), CliError> {
    let GetArgs { kind, name, watch, output } = args;
    if let Some(id) = task(&kind, name.as_deref())? {
        if watch {
            return Err(CliError::misused("tasks are followed by `ostler tasks results --follow`"));
        }
        return match id {
            Some(id) => tasks::show(id, output, global).await,
            None => tasks::list(output, global).await,
        };
    }
    let (target, kind, name) = match names::kind_and_name(&kind, name.clone()) {
        Ok((kind, name)) => (TargetSystem::of(global).await?, kind, name),
        // A name alone, unless it can't be one.
        Err(error) if kind.contains('/') || name.is_some() => return Err(error),
        Err(error) => {
            let target = TargetSystem::of(global).await.map_err(|_| error)?;
            let (kind, name) = names::resolve(&kind, &target).await?;
            (target, kind, Some(name))
        }
    };
    let shown = Shown { kind, name, output };
    if watch {
        return until_unread(shown.watch(&target)).await;
    }
    shown.once(&target).await
}

/// Tasks are no resources, but people look for them here: `tasks`, `tasks/7`, `task 7`.
fn task(kind: &str, name: Option<&str>) -> Result<Option<Option<i64>>, CliError> {
    let (kind, inner) = kind.split_once('/').map_or((kind, None), |(kind, id)| (kind, Some(id)));
    if !matches!(kind, "task" | "tasks") {
        return Ok(None);
    }
    let number = |id: &str| id.parse().map_err(|_| CliError::misused(format!("{id:?} is no number of a task")));
    Ok(Some(inner.or(name).map(number).transpose()?))
}

impl Shown {
    async fn read(&self, target: &TargetSystem) -> Result<(Vec<Item>, Timestamp), CliError> {
        match &self.name {
            Some(name) => {
                let namespace = target.namespace_of_one();
                let item = target.api.get(&[self.kind.plural(), namespace, name], &[]).await?;
                Ok((vec![item], target.api.now()))
            }
            None => {
                let list: ItemList = target.api.get(&[self.kind.plural()], &target.namespace_query()).await?;
                Ok((list.items, list.now))
            }
        }
    }

    async fn once(&self, target: &TargetSystem) -> Result<(), CliError> {
        let (items, now) = self.read(target).await?;
        let is_written = match (&self.name, items.as_slice()) {
            (Some(_), [one]) => output::print_value(self.output, one)?,
            // As kubectl writes several, so that a folder takes it back.
            _ => output::print_value(
                self.output,
                &serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}),
            )?,
        };
        if is_written {
            return Ok(());
        }
        if items.is_empty() {
            return print(&format!("no {} is declared\n", self.kind));
        }
        print_ready(&self.table(&items, now))
    }

    fn table(&self, items: &[Item], now: Timestamp) -> String {
        let wide = self.output == Some(Format::Wide);
        output::resource_table(self.kind, items, now, wide).render(Style::of_stdout())
    }

    /// All of them, then each that changed: a line of the table, or a document. Through restarts of the server.
    async fn watch(&self, target: &TargetSystem) -> Result<(), CliError> {
        let mut known: HashMap<(String, String), Item> = HashMap::new();
        let (mut first, mut outage) = (true, Outage::default());
        loop {
            match self.read(target).await {
                Ok((items, now)) => {
                    outage.is_over();
                    let key = |item: &Item| (item.namespace().to_owned(), item.name().to_owned());
                    let changed: Vec<Item> =
                        items.iter().filter(|i| known.get(&key(i)).is_none_or(|k| !alike(k, i))).cloned().collect();
                    self.tell(&changed, now, first)?;
                    let now_known: HashMap<_, _> = items.into_iter().map(|item| (key(&item), item)).collect();
                    for (_, name) in known.keys().filter(|key| !now_known.contains_key(*key)) {
                        print(&format!("{name} is deleted\n"))?;
                    }
                    (known, first) = (now_known, false);
                }
                Err(error) if first => return Err(error),
                Err(error) => outage.report(&error),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn tell(&self, changed: &[Item], now: Timestamp, first: bool) -> Result<(), CliError> {
        if changed.is_empty() {
            return Ok(());
        }
        match self.output {
            Some(Format::Json | Format::Yaml) => {
                for item in changed {
                    if self.output == Some(Format::Yaml) {
                        print_ready("---\n")?;
                    }
                    output::print_value(self.output, item)?;
                }
                Ok(())
            }
            _ => {
                let table = self.table(changed, now);
                // The heading once.
                let lines = if first { table.as_str() } else { table.split_once('\n').map_or("", |(_, rest)| rest) };
                print_ready(lines)
            }
        }
    }
}

/// Whether nothing changed but what does so with every call and probe.
fn alike(a: &Item, b: &Item) -> bool {
    (&a.metadata, &a.spec, &a.status) == (&b.metadata, &b.spec, &b.status)
        && (a.live.slots_in_use, a.live.limit, &a.live.admission, &a.live.suspension)
            == (b.live.slots_in_use, b.live.limit, &b.live.admission, &b.live.suspension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_asked_for_by_its_number_in_any_way() {
        let task = |kind: &str, name: Option<&str>| task(kind, name).map_err(|e| e.to_string());
        assert_eq!(task("tasks", None), Ok(Some(None)));
        assert_eq!(task("tasks/7", None), Ok(Some(Some(7))));
        assert_eq!(task("task", Some("7")), Ok(Some(Some(7))));
        assert_eq!(task("llm/7", None), Ok(None));
        assert!(task("tasks/x", None).unwrap_err().contains("number"));
    }
}

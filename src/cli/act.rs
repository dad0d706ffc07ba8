//! `ostler reconcile`, `suspend`, `resume` and `run`.

use clap_complete::ArgValueCompleter;

use super::{CliError, Global, Target, complete, names, output::print};
use crate::http::{Changed, Kind};

/// What is done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Reconcile,
    Suspend,
    Resume,
    Run,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND/NAME, such as llm/ollama; or NAME alone where one resource only is called so
    #[arg(value_name = "[KIND/]NAME", add = ArgValueCompleter::new(complete::resources))]
    resource: String,
}

/// A TaskSchedule.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A TaskSchedule: NAME or ts/NAME
    #[arg(value_name = "[ts/]NAME", add = ArgValueCompleter::new(complete::schedules))]
    schedule: String,
}

pub async fn run_schedule(args: RunArgs, global: &Global) -> Result<(), CliError> {
    run(Verb::Run, Args { resource: args.schedule }, global).await
}

pub async fn run(verb: Verb, args: Args, global: &Global) -> Result<(), CliError> {
    // What is misspelled is told before anybody is asked.
    names::whole(&args.resource)?;
    let target = Target::of(global).await?;
    let schedules: Vec<Kind> = Kind::find("ts").into_iter().collect();
    let (kind, name) = match verb {
        Verb::Run => names::resolve_among(&args.resource, &schedules, &target).await?,
        _ => names::resolve(&args.resource, &target).await?,
    };
    if verb == Verb::Run && kind.kind != "TaskSchedule" {
        return Err(CliError::misused(format!("a {} is not run: name a TaskSchedule, such as ts/{name}", kind.kind)));
    }
    let namespace = target.namespace_of_one();
    let message = match &target.cluster {
        Some(cluster) => in_cluster(verb, cluster, kind, namespace, &name).await?,
        None => {
            let word = match verb {
                Verb::Reconcile => "reconcile",
                Verb::Suspend => "suspend",
                Verb::Resume => "resume",
                Verb::Run => "run",
            };
            let path = [kind.plural, namespace, &name, word];
            let changed: Changed = target.api.post(&path, &[], None::<&()>).await?;
            changed.message
        }
    };
    print(&format!("{message} · {}\n", target.place))
}

/// By the caller's own kubeconfig, so that the API server decides and records who it was.
async fn in_cluster(
    verb: Verb,
    cluster: &super::kube::Cluster,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<String, CliError> {
    let about = format!("{} {namespace}/{name}", kind.kind);
    Ok(match verb {
        Verb::Reconcile => {
            cluster.request_reconcile(kind, namespace, name).await?;
            format!("{about} is looked at now")
        }
        Verb::Run => {
            cluster.request_run(kind, namespace, name).await?;
            format!("{about} fires now")
        }
        Verb::Suspend => {
            cluster.suspend(kind, namespace, name, true).await?;
            format!("{about} is suspended (spec.suspend: true)")
        }
        Verb::Resume => {
            cluster.suspend(kind, namespace, name, false).await?;
            if kind.kind == "ContainerHealthCheck" {
                // What a person stopped at its engine is held without any word here: this is that person's word.
                cluster.request_reconcile(kind, namespace, name).await?;
            }
            format!("{about} is resumed (spec.suspend: false)")
        }
    })
}

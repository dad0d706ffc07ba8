//! `ostler reconcile`, `suspend`, `resume`, `run`, `pause` and `unpause`.

use std::time::Duration;

use clap_complete::ArgValueCompleter;

use super::{CliError, Global, TargetSystem, complete, names, output::print};
use crate::{
    api::Kind,
    base::duration,
    http::{Changed, PauseRequest},
};

/// What is done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceVerb {
    Reconcile,
    Suspend,
    Resume,
    Run,
}

#[derive(Debug, clap::Args)]
pub struct ResourceArgs {
    /// KIND/NAME, such as llm/ollama, or NAME if it is unique
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
    run(ResourceVerb::Run, ResourceArgs { resource: args.schedule }, global).await
}

pub async fn run(verb: ResourceVerb, args: ResourceArgs, global: &Global) -> Result<(), CliError> {
    // What is misspelled is told before anybody is asked.
    names::whole(&args.resource)?;
    let target = TargetSystem::of(global).await?;
    let (kind, name) = match verb {
        ResourceVerb::Run => names::resolve_among(&args.resource, &[Kind::TaskSchedule], &target).await?,
        _ => names::resolve(&args.resource, &target).await?,
    };
    if verb == ResourceVerb::Run && kind != Kind::TaskSchedule {
        return Err(CliError::misused(format!("a {kind} is not run: name a TaskSchedule, such as ts/{name}")));
    }
    let namespace = target.namespace_of_one();
    let message = match &target.cluster {
        Some(cluster) => in_cluster(verb, cluster, kind, namespace, &name).await?,
        None => {
            let word = match verb {
                ResourceVerb::Reconcile => "reconcile",
                ResourceVerb::Suspend => "suspend",
                ResourceVerb::Resume => "resume",
                ResourceVerb::Run => "run",
            };
            let path = [kind.plural(), namespace, &name, word];
            let changed: Changed = target.api.post(&path, &[], None::<&()>).await?;
            changed.message
        }
    };
    print(&format!("{message} · {}\n", target.place))
}

/// By the caller's own kubeconfig, so that the API server decides and records who it was.
async fn in_cluster(
    verb: ResourceVerb,
    cluster: &super::kube::Cluster,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<String, CliError> {
    let about = format!("{} {namespace}/{name}", kind);
    Ok(match verb {
        ResourceVerb::Reconcile => {
            cluster.request_reconcile(kind, namespace, name).await?;
            format!("{about} is looked at now")
        }
        ResourceVerb::Run => {
            cluster.request_run(kind, namespace, name).await?;
            format!("{about} fires now")
        }
        ResourceVerb::Suspend => {
            cluster.suspend(kind, namespace, name, true).await?;
            format!("{about} is suspended (spec.suspend: true)")
        }
        ResourceVerb::Resume => {
            cluster.suspend(kind, namespace, name, false).await?;
            if kind == Kind::ContainerHealthCheck {
                // What a person stopped at its engine is held without any word here: this is that person's word.
                cluster.request_reconcile(kind, namespace, name).await?;
            }
            format!("{about} is resumed (spec.suspend: false)")
        }
    })
}

/// Pause recovery everywhere until `unpause`: probes and tasks continue, nothing is restarted, unloaded or pulled
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// End the pause after 30m, 2h, 1d, ...
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    for_: Option<Duration>,
}

pub async fn pause(args: PauseArgs, global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let for_seconds = args.for_.map(|d| i64::try_from(d.as_secs())).transpose().map_err(CliError::misused)?;
    let changed: Changed = target.api.post(&["pause"], &[], Some(&PauseRequest { for_seconds })).await?;
    print(&format!("{} · {}\n", changed.message, target.place))
}

pub async fn unpause(global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let changed: Changed = target.api.delete(&["pause"]).await?;
    print(&format!("{} · {}\n", changed.message, target.place))
}

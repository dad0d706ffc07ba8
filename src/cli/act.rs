//! `ostler reconcile`, `suspend`, `resume`, `run`, `pause` and `unpause`.

use std::time::Duration;

use clap_complete::ArgValueCompleter;
use jiff::Timestamp;
use serde_json::json;

use super::{CliError, Global, TargetSystem, complete, kube::Cluster, names, output::print};
use crate::{
    api::{Kind, RECONCILE_REQUESTED_AT, RUN_REQUESTED_AT},
    base::duration,
    http::{Changed, PauseRequest},
};

/// What is done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
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
            let path = [kind.plural(), namespace, &name, verb.into()];
            let changed: Changed = target.api.post(&path, &[], None::<&()>).await?;
            changed.message
        }
    };
    print(&format!("{message} · {}\n", target.place))
}

/// By the caller's own kubeconfig, so that the API server decides and records who it was.
async fn in_cluster(
    verb: ResourceVerb,
    cluster: &Cluster,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<String, CliError> {
    let requested = |annotation: &str| json!({"metadata": {"annotations": {annotation: Timestamp::now().to_string()}}});
    let suspend = |suspend: bool| json!({"spec": {"suspend": suspend}});
    let (patch, done) = match verb {
        ResourceVerb::Reconcile => (requested(RECONCILE_REQUESTED_AT), "is looked at now"),
        ResourceVerb::Run => (requested(RUN_REQUESTED_AT), "is to run, once its gate is open"),
        ResourceVerb::Suspend => (suspend(true), "is suspended (spec.suspend: true)"),
        ResourceVerb::Resume => (suspend(false), "is resumed (spec.suspend: false)"),
    };
    cluster.patch(kind, namespace, name, &patch).await?;
    if verb == ResourceVerb::Resume && kind == Kind::ContainerHealthCheck {
        // What a person stopped at its engine is held without any word here: this is that person's word.
        cluster.patch(kind, namespace, name, &requested(RECONCILE_REQUESTED_AT)).await?;
    }
    Ok(format!("{kind} {namespace}/{name} {done}"))
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

//! `ostler crds`: the CustomResourceDefinitions as manifests, and their reference for people.

mod reference;

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::{CliError, output::print};
use crate::api;

/// Print the CustomResourceDefinitions, or write one file for each
#[derive(Debug, clap::Args)]
pub struct CrdsArgs {
    /// Folder to write them to, one file each; `-` prints them
    #[arg(short, long, value_name = "DIR", default_value = "-")]
    output: PathBuf,
    /// Print the reference of all fields (Markdown) instead
    #[arg(long)]
    docs: bool,
}

pub fn run(args: &CrdsArgs) -> Result<(), CliError> {
    if args.docs {
        return match args.output.as_os_str() == "-" {
            true => print(&reference_text()),
            false => write(&args.output, "resources.md", &reference_text()),
        };
    }
    let files = files()?;
    if args.output.as_os_str() == "-" {
        let all: Vec<String> = files.into_iter().map(|(_, text)| text).collect();
        return print(&all.join("---\n"));
    }
    files.iter().try_for_each(|(name, text)| write(&args.output, name, text))
}

/// Name and text of each CRD's file: `crds/`.
pub fn files() -> Result<Vec<(String, String)>, CliError> {
    api::crds().into_iter().map(|crd| Ok((file_name(&crd), yaml(&crd)?))).collect()
}

/// The reference of all fields: `docs/resources.md`.
pub fn reference_text() -> String {
    reference::markdown(&api::crds(), &api::agent_config_definition())
}

/// As controller-gen names them.
fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}

fn yaml(crd: &CustomResourceDefinition) -> Result<String, CliError> {
    let failed = |error: String| CliError::Failed(format!("can't write {} as YAML: {error}", file_name(crd)));
    let value: Value = serde_json::to_value(crd).map_err(|error| failed(error.to_string()))?;
    let value = reference::with_whole_numbers(value);
    serde_saphyr::to_string(&value).map_err(|error| failed(error.to_string()))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), CliError> {
    let path = folder.join(name);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, text))
        .map_err(|error| CliError::Failed(format!("can't write {}: {error}", path.display())))
}

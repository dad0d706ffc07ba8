//! examples/gitops: the manifests are what they say, and Argo CD's scripts judge as a person would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::real::{Chart, cache};

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gitops").join(path)
}

fn documents(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(example(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let read = |one: &str| serde_saphyr::from_str(one).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.split("\n---\n").map(read).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |one: &&Value| one["kind"] == kind && one["metadata"]["name"] == name;
    documents.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn flux_waits_for_the_controller_and_not_for_servers_that_may_sleep() {
    let sync = documents("flux/sync.yaml");
    let (controller, resources) =
        (of_kind(&sync, "Kustomization", "ostler"), of_kind(&sync, "Kustomization", "ostler-resources"));
    assert_eq!((&controller["spec"]["wait"], &resources["spec"]["wait"]), (&true.into(), &false.into()));
    assert_eq!(resources["spec"]["dependsOn"][0]["name"], "ostler");
}

#[test]
fn real_chart_takes_the_values_of_both_examples() {
    let (flux, argo) = (documents("flux/release.yaml"), documents("argo-cd/application.yaml"));
    let release = of_kind(&flux, "HelmRelease", "ostler");
    let application = of_kind(&argo, "Application", "ostler");
    for values in [&release["spec"]["values"], &application["spec"]["source"]["helm"]["valuesObject"]] {
        let values: Vec<String> =
            values.as_object().expect("values").iter().map(|(name, value)| format!("{name}={value}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let rendered =
            Chart::new("ostler-system", &values).render(&[]).unwrap_or_else(|why| panic!("{values:?}: {why}"));
        assert!(rendered.contains("name: ostler-worker-default"), "the workers of the example");
    }
}

#[test]
fn real_scripts_for_argo_cd_judge_their_test_data_and_ask_for_a_pass() {
    let folder = example("argo-cd/resource_customizations/ostler.dev/_");
    let run = Command::new(cache().join("bin/argo-scripts")).arg(&folder).output().expect("run argo-scripts");
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    let data = fs::read_dir(folder.join("testdata")).expect("read the folder").count();
    assert!(data >= 5 && said.matches(": reconcile 2").count() == data, "each with a time: {said}");
}

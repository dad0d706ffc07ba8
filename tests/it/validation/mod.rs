//! One table of manifests, good and bad, in both homes of resources: the folder and a real API server with
//! `fieldValidation=Strict` accept and refuse the same ones, and fill in the same defaults.

mod cases;
mod others;
mod random;
mod work;

use std::{fs, sync::Arc};

use axum::http::Request;
use kube::{Client, api::DynamicObject};
use ostler::platform::{
    Platform, PlatformProblem, Severity,
    local::{LocalConfig, LocalPlatform},
};
use serde_json::Value;

use crate::{
    platform::local::{Folder, Kept},
    real::ApiServer,
};
use cases::{Case, Verdict};

/// What a home made of a manifest: its defaulted spec, or why it refused.
type Outcome = Result<Value, String>;

async fn in_the_folder(cases: &[Case]) -> Vec<Outcome> {
    let manifests: Vec<_> = cases.iter().enumerate().map(|(at, case)| (case.kind(), case.manifest(at))).collect();
    of_a_folder(&manifests).await
}

/// Every manifest, with its kind, as a file of one folder. The name of each is [`name`] of its number.
async fn of_a_folder(manifests: &[(&str, String)]) -> Vec<Outcome> {
    let folder = Folder::new();
    for (number, (_, manifest)) in manifests.iter().enumerate() {
        fs::write(folder.path().join(file(number)), manifest).expect("write a manifest");
    }
    let kept = Arc::new(Kept::default());
    let platform = LocalPlatform::open(LocalConfig::new(folder.path()), kept.clone(), kept).await.expect("open");
    let problems = platform.problems();
    let mut objects = Vec::new();
    for kind in [
        "LLMBackend",
        "HostAgent",
        "Expert",
        "TaskQueue",
        "WorkerPool",
        "TaskSchedule",
        "ContainerHealthCheck",
        "Caller",
        "Notifier",
    ] {
        objects.extend(platform.list(kind).await.expect("list"));
    }
    let mut outcomes = Vec::new();
    for (number, (kind, _)) in manifests.iter().enumerate() {
        let is_of = |problem: &&PlatformProblem| problem.place.as_ref().is_some_and(|place| place.file == file(number));
        let said: Vec<String> = problems
            .iter()
            .filter(is_of)
            .inspect(|problem| assert_eq!(problem.severity, Severity::Error, "{problem}"))
            .map(ToString::to_string)
            .collect();
        outcomes.push(match (said.is_empty(), *kind) {
            (false, _) => Err(said.join("\n")),
            (true, "Secret") => platform.secret("default", &name(number)).await.map(|_| Value::Null).map_err(text),
            (true, _) => spec_of(&objects, &name(number)),
        });
    }
    outcomes
}

fn spec_of(objects: &[DynamicObject], name: &str) -> Outcome {
    let found = objects.iter().find(|object| object.metadata.name.as_deref() == Some(name));
    found.map(|object| object.data["spec"].clone()).ok_or_else(|| "neither accepted nor refused".to_owned())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn file(number: usize) -> String {
    format!("{number:03}.yaml")
}

pub fn name(number: usize) -> String {
    format!("case-{number}")
}

/// One manifest as the API server takes it, unread, from a POST.
async fn at_the_api_server(client: &Client, namespace: &str, kind: &str, manifest: String) -> Outcome {
    let collection = match kind {
        "Secret" => format!("/api/v1/namespaces/{namespace}/secrets"),
        kind => format!("/apis/ostler.dev/v1alpha1/namespaces/{namespace}/{}s", kind.to_lowercase()),
    };
    let request = Request::post(format!("{collection}?fieldValidation=Strict&dryRun=All"))
        .header("Content-Type", "application/yaml")
        .body(manifest.into_bytes())
        .expect("a request");
    match client.request_text(request).await {
        Ok(answer) => {
            let object: Value = serde_json::from_str(&answer).expect("the API server speaks JSON");
            Ok(object["spec"].clone())
        }
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("the API server: {other}"),
    }
}

/// What is wrong with an outcome, if anything.
fn misjudged(case: &Case, outcome: &Outcome) -> Option<String> {
    match (&case.verdict, outcome) {
        (Verdict::Accepted, Ok(_)) => None,
        (Verdict::Accepted, Err(why)) => Some(format!("refused: {why}")),
        (Verdict::Refused(_), Ok(spec)) => Some(format!("accepted as {spec}")),
        (Verdict::Refused(word), Err(why)) => {
            (!why.contains(word)).then(|| format!("refused without naming {word}: {why}"))
        }
    }
}

fn report(misjudged: Vec<(usize, String)>, cases: &[Case]) {
    let lines: Vec<String> = misjudged.iter().map(|(at, why)| format!("{}: {why}", cases[*at].what)).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[tokio::test]
async fn the_folder_judges_every_manifest_as_it_should() {
    let cases = cases::all();
    let outcomes = in_the_folder(&cases).await;
    let judged = cases.iter().zip(&outcomes).enumerate();
    report(judged.filter_map(|(at, (case, outcome))| Some((at, misjudged(case, outcome)?))).collect(), &cases);
}

#[tokio::test]
async fn real_api_server_and_folder_judge_and_default_every_manifest_alike() {
    let server = ApiServer::shared();
    server.install_crds();
    let namespace = server.namespace();
    let client = ApiServer::client(server.kubeconfig(), &namespace).await;
    let cases = cases::all();
    let local = in_the_folder(&cases).await;
    let mut wrong = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let outcome = at_the_api_server(&client, &namespace, case.kind(), case.manifest(at)).await;
        wrong.extend(misjudged(case, &outcome).map(|why| (at, format!("the API server {why}"))));
        if let (Ok(there), Ok(here)) = (&outcome, &local[at])
            && case.kind() != "Secret"
            && there != here
        {
            wrong.push((at, format!("the API server has {there}, the folder {here}")));
        }
    }
    report(wrong, &cases);
}

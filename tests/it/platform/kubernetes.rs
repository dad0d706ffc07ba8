//! A cluster as a home of resources.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::events::v1::Event as Published;
use kube::{Api, ResourceExt, api::DynamicObject, runtime::watcher::Event};
use ostler::api::Kind;
use ostler::platform::{Note, ObjectId, Platform, PlatformError, kubernetes::KubernetesPlatform};
use serde_json::json;

use super::local::{Watch, backend, next};
use crate::real::{ApiServer, Chart};

fn backend_in(namespace: &str, name: &str, port: u16) -> String {
    backend(name, port).replace("metadata: {", &format!("metadata: {{namespace: {namespace}, "))
}

/// The API server that all tests share, and a platform over namespaces of its own.
async fn platform(namespaces: usize) -> (&'static ApiServer, Vec<String>, KubernetesPlatform) {
    let server = ApiServer::shared();
    server.install_crds();
    let namespaces: Vec<String> = (0..namespaces).map(|_| server.namespace()).collect();
    // As the controller: what the chart grants must do.
    let watched: Vec<&str> = namespaces.iter().map(String::as_str).collect();
    let account = Chart::able(&namespaces[0], &watched).service_account(server);
    let client = ApiServer::client(&account, &namespaces[0]).await;
    (server, namespaces.clone(), KubernetesPlatform::new(client, namespaces, "test-0"))
}

async fn only(platform: &KubernetesPlatform) -> DynamicObject {
    let mut all = platform.list("LLMBackend").await.expect("list");
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[tokio::test]
async fn real_watch_of_two_namespaces_is_complete_and_follows_both() {
    let (server, namespaces, platform) = platform(2).await;
    let [one, two] = namespaces.as_slice() else { unreachable!("two were made") };
    let elsewhere = server.namespace();
    server.apply(&backend_in(one, "a", 1));
    server.apply(&backend_in(two, "b", 1));
    server.apply(&backend_in(&elsewhere, "c", 1));
    let mut watch: Watch = platform.watch(Kind::LLMBackend);
    for event in ["init", "has a", "has b", "done"] {
        assert_eq!(next(&mut watch).await, event);
    }
    server.apply(&backend_in(two, "d", 1));
    assert_eq!(next(&mut watch).await, "apply d");
    server.kubectl(&["--namespace", one, "delete", "llm", "a"]);
    assert_eq!(next(&mut watch).await, "delete a");
    let names: Vec<String> =
        platform.list("LLMBackend").await.expect("list").iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["b", "d"]);
    assert_eq!(platform.problems(), []);
}

#[tokio::test]
async fn real_objects_come_without_what_nobody_reads_and_with_their_defaults() {
    let (server, namespaces, platform) = platform(1).await;
    server.apply(&backend_in(&namespaces[0], "a", 1));
    let mut watch: Watch = platform.watch(Kind::LLMBackend);
    assert_eq!(next(&mut watch).await, "init");
    let Some(Ok(Event::InitApply(object))) = watch.next().await else { panic!("the object") };
    assert!(object.metadata.managed_fields.is_none_or(|fields| fields.is_empty()));
    assert_eq!(object.data["spec"]["probe"]["periodSeconds"], 10);
    assert_eq!(object.data["status"], json!({"observedGeneration": -1}));
    assert_eq!(only(&platform).await.types.expect("types").kind, "LLMBackend");
}

#[tokio::test]
async fn real_status_is_applied_whole_and_refused_for_another_version() {
    let (server, namespaces, platform) = platform(1).await;
    server.apply(&backend_in(&namespaces[0], "a", 1));
    let first = ObjectId::of(&only(&platform).await);
    let full = json!({"observedGeneration": 1, "state": "Serving", "effectiveLimit": 4});
    platform.apply_status(&first, &full).await.expect("the first");
    assert_eq!(only(&platform).await.data["status"], full);

    let stale = platform.apply_status(&first, &full).await;
    assert!(matches!(stale, Err(PlatformError::Conflict(_))), "{stale:?}");
    let now = ObjectId::of(&only(&platform).await);
    let gone = ObjectId { name: "b".to_owned(), ..now.clone() };
    let missing = platform.apply_status(&gone, &full).await;
    assert!(matches!(missing, Err(PlatformError::NotFound(_) | PlatformError::Conflict(_))), "{missing:?}");
    for unknown in [json!({"observedGeneration": 1, "state": "Fine"}), json!({"observedGeneration": 1, "mood": "fine"})]
    {
        let wrong = platform.apply_status(&now, &unknown).await;
        let named = |said: &str| said.contains("status.state") || said.contains(".status.mood");
        assert!(matches!(&wrong, Err(PlatformError::OlderSchema { said, .. }) if named(said)), "{wrong:?}");
        assert!(platform.problems().iter().any(|p| p.message.contains("older than this controller")));
    }

    platform.apply_status(&now, &full).await.expect("the same again");
    assert_eq!(platform.problems(), []);
    assert_eq!(ObjectId::of(&only(&platform).await), now, "writing the same changes nothing");
    let less = json!({"observedGeneration": 1, "state": "Down"});
    platform.apply_status(&now, &less).await.expect("less");
    assert_eq!(only(&platform).await.data["status"], less, "what is left out is gone");

    let old = ObjectId::of(&only(&platform).await);
    server.kubectl(&["--namespace", &namespaces[0], "delete", "llm", "a"]);
    server.apply(&backend_in(&namespaces[0], "a", 1));
    let replaced = platform.apply_status(&old, &less).await;
    assert!(matches!(replaced, Err(PlatformError::Conflict(_))), "{replaced:?}");
}

#[tokio::test]
async fn real_watch_that_is_not_allowed_says_so_and_goes_on_once_it_is() {
    let (server, namespaces, _) = platform(1).await;
    let namespace = &namespaces[0];
    let account = server.service_account(namespace, "watcher");
    let client = ApiServer::client(&account, namespace).await;
    let platform = KubernetesPlatform::new(client, namespaces.clone(), "test-0");
    let mut watch: Watch = platform.watch(Kind::LLMBackend);
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("in time") {
            Some(Err(error)) => break error.to_string(),
            Some(Ok(Event::Init)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(error.contains("not allowed") && error.contains("llmbackends.ostler.dev"), "{error}");
    let problems = platform.problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("grant list and watch"), "{problems:?}");
    let secret = platform.secret(namespace, "s").await;
    assert!(matches!(secret, Err(PlatformError::Forbidden(_))), "{secret:?}");

    let verbs = [
        "--namespace",
        namespace,
        "create",
        "role",
        "watcher",
        "--verb=list,watch",
        "--resource=llmbackends.ostler.dev",
    ];
    server.kubectl(&verbs);
    let account = format!("--serviceaccount={namespace}:watcher");
    server.kubectl(&["--namespace", namespace, "create", "rolebinding", "watcher", "--role=watcher", &account]);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let event = tokio::time::timeout_at(deadline, watch.next()).await.expect("allowed in time");
        if matches!(event, Some(Ok(Event::InitDone))) {
            break;
        }
    }
    assert_eq!(platform.problems(), []);
}

#[tokio::test]
async fn real_watch_of_several_namespaces_leaves_out_the_one_that_is_shut_until_it_is_opened() {
    let (server, namespaces, platform) = platform(3).await;
    let [good, shut, other] = namespaces.as_slice() else { unreachable!("three were made") };
    for (namespace, name) in [(good, "a"), (shut, "b"), (other, "c")] {
        server.apply(&backend_in(namespace, name, 1));
    }
    server.kubectl(&["--namespace", shut, "delete", "rolebinding", "ostler"]);
    let mut watch: Watch = platform.watch(Kind::LLMBackend);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| event != "done") {
        let event =
            tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("in time").expect("never ends");
        match event {
            Ok(Event::InitApply(object)) => seen.push(object.name_any()),
            Ok(Event::InitDone) => seen.push("done".to_owned()),
            Ok(_) | Err(_) => {}
        }
    }
    assert_eq!(seen, ["a", "c", "done"]);
    let unreadable = platform.unreadable(Kind::LLMBackend);
    assert_eq!(unreadable.keys().collect::<Vec<_>>(), [shut]);
    assert!(unreadable[shut].unknown && unreadable[shut].why.contains("not allowed"), "{unreadable:?}");
    let listed: Vec<String> =
        platform.list("LLMBackend").await.expect("list").iter().map(ResourceExt::name_any).collect();
    assert_eq!(listed, ["a", "c"]);

    let watched: Vec<&str> = namespaces.iter().map(String::as_str).collect();
    server.apply(&Chart::able(&namespaces[0], &watched).render(&["role.yaml"]).expect("render"));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let event = tokio::time::timeout_at(deadline, watch.next()).await.expect("opened in time").expect("never ends");
        if matches!(event, Ok(Event::InitApply(object)) if object.name_any() == "b") {
            break;
        }
    }
    assert!(platform.unreadable(Kind::LLMBackend).is_empty());
}

#[tokio::test]
async fn real_secrets_that_are_the_clusters_own_or_do_not_consent_are_not_read() {
    let (server, namespaces, platform) = platform(1).await;
    let namespace = &namespaces[0];
    server.kubectl(&[
        "--namespace",
        namespace,
        "create",
        "secret",
        "generic",
        "s",
        "--from-literal=systemPrompt=hunter2",
    ]);
    let refused = platform.prompt_secret(namespace, "s").await;
    assert!(
        matches!(&refused, Err(PlatformError::Forbidden(why)) if why.contains("ostler.dev/system-prompt=true")),
        "{refused:?}"
    );
    server.kubectl(&["--namespace", namespace, "label", "secret", "s", "ostler.dev/system-prompt=true"]);
    assert_eq!(platform.prompt_secret(namespace, "s").await.expect("consents")["systemPrompt"], b"hunter2");
    server.apply(&format!(
        "apiVersion: v1\nkind: Secret\ntype: bootstrap.kubernetes.io/token\nmetadata: {{name: own, namespace: {namespace}}}\nstringData: {{token: x}}\n"
    ));
    let own = platform.secret(namespace, "own").await;
    assert!(matches!(&own, Err(PlatformError::Forbidden(why)) if why.contains("Opaque")), "{own:?}");
}

#[tokio::test]
async fn real_events_are_counted_and_secrets_are_read() {
    let (server, namespaces, platform) = platform(1).await;
    let namespace = &namespaces[0];
    server.apply(&backend_in(namespace, "a", 1));
    server.kubectl(&["--namespace", namespace, "create", "secret", "generic", "s", "--from-literal=token=hunter2"]);
    assert_eq!(platform.secret(namespace, "s").await.expect("the secret")["token"], b"hunter2");
    let missing = platform.secret(namespace, "t").await;
    assert!(matches!(missing, Err(PlatformError::NotFound(_))), "{missing:?}");

    let id = ObjectId::of(&only(&platform).await);
    let note = Note {
        warning: true,
        reason: "Down".to_owned(),
        action: "Probe".to_owned(),
        message: "connection refused".to_owned(),
    };
    for _ in 0..3 {
        platform.publish(&id, &note).await.expect("publish");
    }
    let other = Note { message: "timed out".to_owned(), ..note };
    platform.publish(&id, &other).await.expect("publish");
    let client = ApiServer::client(server.kubeconfig(), namespace).await;
    let mut events =
        Api::<Published>::default_namespaced(client).list(&Default::default()).await.expect("list events").items;
    events.sort_by_key(|event| event.note.clone());
    let said: Vec<&str> = events.iter().filter_map(|event| event.note.as_deref()).collect();
    assert_eq!(said, ["connection refused", "timed out"]);
    assert_eq!(events[0].series.as_ref().map(|series| series.count), Some(3));
    assert_eq!(events[0].regarding.as_ref().and_then(|object| object.uid.clone()), Some(id.uid));
    assert_eq!(events[0].type_.as_deref(), Some("Warning"));
}

#[tokio::test]
async fn real_watch_goes_on_after_the_api_server_was_away() {
    let server = ApiServer::start();
    server.install_crds();
    let namespace = server.namespace();
    let client = ApiServer::client(server.kubeconfig(), &namespace).await;
    let platform = KubernetesPlatform::new(client, vec![namespace.clone()], "test-0");
    let mut watch: Watch = platform.watch(Kind::LLMBackend);
    assert_eq!(next(&mut watch).await, "init");
    assert_eq!(next(&mut watch).await, "done");
    server.stop();
    let away = platform.list("LLMBackend").await;
    assert!(matches!(away, Err(PlatformError::Unavailable(_))), "{away:?}");
    server.resume();
    server.apply(&backend_in(&namespace, "a", 1));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let event =
            tokio::time::timeout_at(deadline, watch.next()).await.expect("an event in time").expect("it never ends");
        if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
            assert_eq!(object.name_any(), "a");
            break;
        }
    }
}

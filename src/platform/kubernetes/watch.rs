//! Watches of one kind: with a backoff, with what nobody reads left out, and with errors that are told, not swallowed.
//!
//! A watch that failed begins anew with a listing: only an answer shows that it works again.

use std::{fmt::Display, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, DefaultBackoff, Event, watcher},
    },
};

use super::{
    error::causes,
    failing::{Failing, WatchFailure},
    merge::{Merge, MergeEvent},
};
use crate::platform::WatchError;

/// Written by `kubectl apply`, and as large as the object itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// A page of a listing that takes longer has failed: one namespace must not hold up the others.
const PAGE: Duration = Duration::from_secs(30);
/// The longest wait before a failed watch begins anew: what is mended must be noticed soon.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// What a watch yields.
pub type Watched = Result<Event<DynamicObject>, WatchError>;

/// All objects of a kind in some namespaces (none: in all), and their changes.
pub fn watch(
    client: &Client,
    resource: &ApiResource,
    namespaces: &[String],
    failing: &Failing,
) -> BoxStream<'static, Watched> {
    let one = |namespace: Option<&String>| One::new(client, resource, namespace.cloned(), failing.clone()).stream();
    match namespaces {
        [] => plain(one(None)),
        several => merged(several.iter().map(|namespace| one(Some(namespace))).collect()),
    }
}

/// What one place tells, and how it failed.
type Tale = (MergeEvent, Option<WatchError>);

fn plain(stream: BoxStream<'static, Tale>) -> BoxStream<'static, Watched> {
    let results = stream.filter_map(async |tale| match tale {
        (MergeEvent::Event(event), _) => Some(Ok(*event)),
        (MergeEvent::Failed | MergeEvent::Gone, error) => error.map(Err),
    });
    results.boxed()
}

fn merged(streams: Vec<BoxStream<'static, Tale>>) -> BoxStream<'static, Watched> {
    let mut merge = Merge::new(streams.len());
    let numbered = streams.into_iter().enumerate().map(|(at, stream)| stream.map(move |tale| (at, tale)).boxed());
    stream::select_all(numbered)
        .flat_map(move |(at, (told, error))| {
            let events = merge.feed(at, told).into_iter().map(Ok);
            stream::iter(error.map(Err).into_iter().chain(events).collect::<Vec<_>>())
        })
        .boxed()
}

/// The watch of one namespace, or of all.
struct One {
    api: Api<DynamicObject>,
    /// To tell whether it exists.
    namespaces: Api<Namespace>,
    namespace: Option<String>,
    kind: String,
    /// `llmbackends.ostler.dev in team-a`.
    what: String,
    failing: Failing,
    /// `None`: to be begun.
    watcher: Option<BoxStream<'static, watcher::Result<Event<DynamicObject>>>>,
    backoff: DefaultBackoff,
    wait: Option<Duration>,
    /// Since it was begun.
    is_listed: bool,
    was_listed: bool,
}

impl One {
    fn new(client: &Client, resource: &ApiResource, namespace: Option<String>, failing: Failing) -> Self {
        let (api, place) = match &namespace {
            Some(namespace) => (Api::namespaced_with(client.clone(), namespace, resource), format!(" in {namespace}")),
            None => (Api::all_with(client.clone(), resource), String::new()),
        };
        Self {
            api,
            namespaces: Api::all(client.clone()),
            namespace,
            kind: resource.kind.clone(),
            what: format!("{}.{}{place}", resource.plural, resource.group),
            failing,
            watcher: None,
            backoff: DefaultBackoff::default(),
            wait: None,
            is_listed: false,
            was_listed: false,
        }
    }

    fn stream(self) -> BoxStream<'static, Tale> {
        stream::unfold(self, |mut one| async move { Some((one.next().await, one)) }).boxed()
    }

    async fn next(&mut self) -> Tale {
        if let Some(wait) = self.wait.take() {
            tokio::time::sleep(wait).await;
        }
        let begin = || watcher(self.api.clone(), Config::default()).modify(prune).boxed();
        let watcher = self.watcher.get_or_insert_with(begin);
        let next =
            if self.is_listed { Ok(watcher.next().await) } else { tokio::time::timeout(PAGE, watcher.next()).await };
        match next {
            Ok(Some(Ok(event))) => {
                if matches!(event, Event::InitDone) {
                    self.listed();
                }
                (MergeEvent::Event(Box::new(event)), None)
            }
            Ok(Some(Err(error))) => self.failed(explain(&error, &self.what), is_refusal(&error)).await,
            Ok(None) => self.failed("the watch ended".to_owned(), false).await,
            Err(_) => self.failed(format!("the API server gave no answer within {} s", PAGE.as_secs()), false).await,
        }
    }

    fn listed(&mut self) {
        (self.is_listed, self.was_listed) = (true, true);
        self.backoff = DefaultBackoff::default();
        self.failing.mended(&self.what);
    }

    async fn failed(&mut self, mut why: String, refused: bool) -> Tale {
        (self.watcher, self.is_listed) = (None, false);
        self.wait = Some(self.backoff.next().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT));
        let gone = match &self.namespace {
            Some(namespace) if refused && is_gone(&self.namespaces, namespace).await => Some(namespace.clone()),
            _ => None,
        };
        if let Some(namespace) = &gone {
            self.was_listed = true;
            why = format!(
                "namespace {namespace} does not exist: create it, or take it out of the namespaces that the controller watches"
            );
        }
        let error = WatchError { kind: self.kind.clone(), message: format!("{}: {why}", self.what) };
        self.failing.failed(
            &self.what,
            WatchFailure {
                kind: self.kind.clone(),
                namespace: self.namespace.clone().unwrap_or_default(),
                why,
                unknown: !self.was_listed,
                gone: gone.is_some(),
            },
        );
        (if gone.is_some() { MergeEvent::Gone } else { MergeEvent::Failed }, Some(error))
    }
}

/// Whether the API server says so. It answers a listing in a namespace that does not exist like one in an empty namespace, but
/// the rights to list went with it.
async fn is_gone(namespaces: &Api<Namespace>, name: &str) -> bool {
    let answer = tokio::time::timeout(PAGE, namespaces.get_metadata(name)).await;
    matches!(answer, Ok(Err(kube::Error::Api(status))) if status.code == 404)
}

fn prune(object: &mut DynamicObject) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove(LAST_APPLIED);
}

fn status_of(error: &watcher::Error) -> Option<&kube::core::Status> {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => None,
    }
}

fn is_refusal(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| matches!(status.code, 401 | 403 | 404))
}

fn explain(error: &watcher::Error, what: impl Display) -> String {
    match status_of(error) {
        Some(status) if status.code == 403 || status.code == 401 => {
            format!("not allowed: {}; grant list and watch on {what}, as the chart does", status.message)
        }
        Some(status) if status.code == 404 => {
            format!("{what} is not served: install the CRDs (`ostler crds | kubectl apply --server-side -f -`)")
        }
        Some(status) => status.message.clone(),
        None => causes(error),
    }
}

//! Watches of one kind: with a backoff, with what nobody reads left out, and with errors that are told, not swallowed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event, watcher},
    },
};

use super::{error::causes, merge::Merge};
use crate::platform::{Problem, WatchError};

/// Written by `kubectl apply`, and as large as the object itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a watch yields.
pub type Watched = Result<Event<DynamicObject>, WatchError>;

/// What goes wrong now.
#[derive(Clone, Default)]
pub struct Failing(Arc<Mutex<Wrong>>);

#[derive(Default)]
struct Wrong {
    /// Why a watch fails, by what it watches.
    watches: BTreeMap<String, String>,
    /// Objects that can't be decoded, by kind.
    undecodable: BTreeMap<&'static str, Vec<Problem>>,
}

impl Failing {
    pub fn problems(&self) -> Vec<Problem> {
        let wrong = self.lock();
        let watches = wrong.watches.iter().map(|(what, why)| Problem::error(format!("can't watch {what}: {why}")));
        watches.chain(wrong.undecodable.values().flatten().cloned()).collect()
    }

    pub fn undecodable(&self, kind: &'static str, problems: Vec<Problem>) {
        self.lock().undecodable.insert(kind, problems);
    }

    fn note(&self, what: &str, result: &Watched) {
        let mut wrong = self.lock();
        match result {
            Ok(_) => wrong.watches.remove(what),
            Err(error) => wrong.watches.insert(what.to_owned(), error.message.clone()),
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wrong> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All objects of a kind in some namespaces (none: in all), and their changes.
pub fn watch(
    client: &Client,
    resource: &ApiResource,
    namespaces: &[String],
    failing: &Failing,
) -> BoxStream<'static, Watched> {
    let one = |namespace: Option<&String>| {
        let (api, place) = match namespace {
            Some(namespace) => (Api::namespaced_with(client.clone(), namespace, resource), format!(" in {namespace}")),
            None => (Api::all_with(client.clone(), resource), String::new()),
        };
        let what = format!("{}.{}{place}", resource.plural, resource.group);
        of_api(api, resource.kind.clone(), what, failing.clone())
    };
    match namespaces {
        [] => one(None),
        [namespace] => one(Some(namespace)),
        several => merged(several.iter().map(|namespace| one(Some(namespace))).collect()),
    }
}

fn of_api(api: Api<DynamicObject>, kind: String, what: String, failing: Failing) -> BoxStream<'static, Watched> {
    watcher(api, Config::default())
        .modify(prune)
        .default_backoff()
        .map(move |result| {
            let result = result.map_err(|error| WatchError { kind: kind.clone(), message: explain(&error, &what) });
            failing.note(&what, &result);
            result
        })
        .boxed()
}

fn merged(streams: Vec<BoxStream<'static, Watched>>) -> BoxStream<'static, Watched> {
    let mut merge = Merge::new(streams.len());
    let numbered = streams.into_iter().enumerate().map(|(at, stream)| stream.map(move |event| (at, event)).boxed());
    stream::select_all(numbered)
        .flat_map(move |(at, result)| {
            let events = match result {
                Ok(event) => merge.feed(at, event).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(events)
        })
        .boxed()
}

fn prune(object: &mut DynamicObject) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove(LAST_APPLIED);
}

fn explain(error: &watcher::Error, what: &str) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    let status = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => None,
    };
    match status {
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

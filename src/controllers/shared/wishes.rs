//! What people asked for outside of manifests: pause, and locally suspend, resume and reconcile.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Kind, ObjectKey},
    store::{ControlSet, Store, StoreError, Topics},
    telemetry::Beat,
};

use super::NamespacedName;

/// Wishes are read as soon as one is told, and so often in case that it was not.
const PERIOD: Duration = Duration::from_secs(30);
/// After an error.
const AGAIN: Duration = Duration::from_secs(1);

/// The controls as they were last read.
#[derive(Clone)]
pub struct Wishes {
    store: Arc<dyn Store>,
    known: Arc<watch::Sender<Arc<ControlSet>>>,
    controls: watch::Receiver<Arc<ControlSet>>,
}

impl Wishes {
    /// Reads the controls now, and again when they change. While the database is away the last ones hold.
    pub async fn start(store: Arc<dyn Store>, beat: Beat, shutdown: CancellationToken) -> Self {
        let mut told = store.follow(Topics::WISHES);
        let first = store.controls().await;
        let mut wait = if first.is_ok() { PERIOD } else { AGAIN };
        let first = first.unwrap_or_default();
        let (sender, controls) = watch::channel(Arc::new(first));
        let wishes = Self { store, known: Arc::new(sender), controls };
        let periodic = wishes.clone();
        tokio::spawn(async move {
            while shutdown.run_until_cancelled(told.changed(wait)).await.is_some() {
                beat.beat();
                wait = PERIOD;
                if let Err(error) = periodic.read().await {
                    tracing::debug!(%error, "could not read controls; will retry");
                    wait = AGAIN;
                }
            }
        });
        wishes
    }

    /// Reads the controls now; returns whether they have changed. Whoever acts asks first: what a person was told is in force
    /// must not be overtaken by a pass that began before.
    pub async fn read(&self) -> Result<bool, StoreError> {
        let read = self.store.controls().await?;
        Ok(self.known.send_if_modified(|known| {
            let changed = **known != read;
            if changed {
                *known = Arc::new(read);
            }
            changed
        }))
    }

    /// Waits until something changed.
    pub async fn changed(&mut self) -> bool {
        self.controls.changed().await.is_ok()
    }

    pub fn is_paused(&self, now: Timestamp) -> bool {
        self.controls.borrow().pause.as_ref().is_some_and(|p| p.until.is_none_or(|until| now < until))
    }

    /// A person's word on suspension, over the manifest's.
    pub fn suspended(&self, kind: Kind, key: &NamespacedName) -> Option<bool> {
        let controls = self.controls.borrow();
        controls.suspended.iter().find(|(k, _)| is(k, kind.as_str(), key)).map(|(_, s)| s.suspended)
    }

    /// The requests for a pass over an object, as one token: by its annotation, through the API, or both. Any text counts as
    /// a request; [`is_new`] tells whether one was handled already.
    pub fn requested(
        &self,
        object: &impl ResourceExt,
        annotation: &str,
        kind: Kind,
        key: &NamespacedName,
    ) -> Option<String> {
        let stored = self.reconcile_token(kind.as_str(), key);
        joined(object.annotations().get(annotation).map(String::as_str), stored.as_deref())
    }

    /// The latest of two requests that are points in time, by annotation and through the API. What is no time yields to what is. One
    /// through the API that is older than the object was made of another one of that name.
    pub fn requested_at(
        &self,
        object: &impl ResourceExt,
        annotation: &str,
        kind: &str,
        key: &NamespacedName,
    ) -> Option<String> {
        let time = |text: &String| text.parse::<Timestamp>().ok();
        let made = object.creation_timestamp().map(|made| made.0);
        let stored = self.reconcile_token(kind, key).filter(|token| made.is_none() || time(token) >= made);
        let all = [object.annotations().get(annotation).cloned(), stored];
        all.into_iter().flatten().max_by_key(time)
    }

    /// Every request of a kind that was asked through the API: namespace and token.
    pub fn requests_of(&self, kind: &str) -> Vec<(String, String)> {
        let controls = self.controls.borrow();
        let of_kind = controls.reconcile_requested.iter().filter(|(key, _)| key.kind == kind);
        of_kind.map(|(key, token)| (key.namespace.clone(), token.clone())).collect()
    }

    /// The last `reconcile` of a resource that was asked through the API.
    pub fn reconcile_token(&self, kind: &str, key: &NamespacedName) -> Option<String> {
        let controls = self.controls.borrow();
        controls.reconcile_requested.iter().find(|(k, _)| is(k, kind, key)).map(|(_, token)| token.clone())
    }
}

/// As long as a status may echo.
const LONGEST: usize = 253;
const BETWEEN: &str = ", ";

fn joined(annotation: Option<&str>, stored: Option<&str>) -> Option<String> {
    let requests: Vec<&str> = [annotation, stored].into_iter().flatten().filter(|text| !text.is_empty()).collect();
    let most = LONGEST / requests.len().max(1) - BETWEEN.len();
    // The end of a long one is what differs: people append a time.
    let tail = |text: &str| text.chars().skip(text.chars().count().saturating_sub(most)).collect::<String>();
    (!requests.is_empty()).then(|| requests.into_iter().map(tail).collect::<Vec<_>>().join(BETWEEN))
}

/// Whether a token holds a request that the handled one does not: any other value does, and one that was withdrawn does not.
pub fn is_new(requested: &str, handled: Option<&str>) -> bool {
    let handled: Vec<&str> = handled.unwrap_or_default().split(BETWEEN).collect();
    requested.split(BETWEEN).any(|request| !handled.contains(&request))
}

fn is(resource: &ObjectKey, kind: &str, key: &NamespacedName) -> bool {
    resource.kind == kind && resource.namespace == key.namespace && resource.name == key.name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_of_either_request_counts_once_whatever_it_looks_like() {
        let mut handled: Option<String> = None;
        for (annotation, stored, new) in [
            (None, None, false),
            (Some("2026-03-01T12:00:00Z"), None, true),
            (Some("2026-03-01T12:00:00Z"), None, false),
            // `date +%s` sorts below a date.
            (Some("1767225600"), None, true),
            (Some("1767225600"), Some("2026-01-01T00:00:00Z"), true),
            (Some("1767225600"), Some("2026-01-01T00:00:00Z"), false),
            (Some("1767225599"), Some("2026-01-01T00:00:00Z"), true),
            (Some("1767225599"), Some("2025-01-01T00:00:00Z"), true),
            // Withdrawing one is no request.
            (None, Some("2025-01-01T00:00:00Z"), false),
            (Some("now"), Some("2025-01-01T00:00:00Z"), true),
            (Some(""), Some("2025-01-01T00:00:00Z"), false),
        ] {
            let asked = joined(annotation, stored);
            let is_new = asked.as_deref().is_some_and(|asked| is_new(asked, handled.as_deref()));
            assert_eq!(is_new, new, "{annotation:?} {stored:?} after {handled:?}");
            handled = if is_new { asked } else { handled };
        }
    }

    #[test]
    fn a_token_fits_into_a_status_and_keeps_the_end_that_differs() {
        let long = |end: &str| format!("{}{end}", "x".repeat(300));
        let (first, second) = (joined(Some(&long("1")), Some(&long("1"))), joined(Some(&long("2")), Some(&long("1"))));
        assert!(first.as_ref().is_some_and(|token| token.chars().count() <= LONGEST));
        assert!(is_new(&second.unwrap(), first.as_deref()));
    }
}

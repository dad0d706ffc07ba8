//! What the handlers need.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{ExternalUrl, auth::Authorizer, types::Problem};
use crate::{
    api::ObjectKey,
    net::HttpClient,
    platform::Platform,
    store::{JournalEntry, Store, seal},
    telemetry::{Loops, Metrics},
};

/// Where the resources live: decides who keeps `suspend`, `resume` and `reconcile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceHome {
    /// A folder of manifests: kept in the store, never written into somebody's file.
    Folder,
    /// A cluster: its API server is asked, by the caller's own kubeconfig.
    Cluster,
}

/// Lists what is wrong with the manifests of the folder.
pub type ProblemSource = Arc<dyn Fn() -> Vec<Problem> + Send + Sync>;

/// Everything that the API works with.
#[derive(Clone)]
pub struct Api {
    pub store: Arc<dyn Store>,
    pub platform: Arc<dyn Platform>,
    pub authorizer: Arc<dyn Authorizer>,
    pub home: ResourceHome,
    /// Opens the Secrets that are sealed in the database; `None`: there are none.
    pub sealing: Option<seal::Key>,
    /// For calls to host agents.
    pub http: HttpClient,
    pub metrics: Metrics,
    pub loops: Loops,
    pub problems: ProblemSource,
    /// Cancelled by `POST /api/v1/down`; `None` where nobody may end the process that way.
    pub down: Option<CancellationToken>,
    /// By which the dashboard is reached, beside loopback.
    pub external_url: Option<ExternalUrl>,
}

impl Api {
    /// What a person should look at: in the manifests, and what this process can't do now.
    pub(super) fn all_problems(&self) -> Vec<Problem> {
        let troubles = self.metrics.troubles.all().into_iter().map(|trouble| Problem {
            error: trouble.vital,
            message: format!("{trouble}, since {}", super::controls::whole_seconds(trouble.since)),
            ..Problem::default()
        });
        troubles.chain((self.problems)()).collect()
    }

    /// Keeps what a person did, for whoever asks later. That it was done counts more than that it is kept.
    pub(super) async fn note(&self, about: ObjectKey, reason: &str, message: String) {
        let entry = JournalEntry { at: Timestamp::now(), about, warning: false, reason: reason.to_owned(), message };
        if let Err(error) = self.store.append(&entry).await {
            tracing::warn!(reason, %error, "event not kept");
        }
    }
}

//! What the database declares, as whoever calls servers needs it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    api::LLMBackendSpec,
    store::{Admission, BackendRow, ServerNow, Store, StoreError},
    tasks::route::Server,
};

/// A backend as it is projected.
#[derive(Clone, Debug)]
pub struct Backend {
    pub row: BackendRow,
    pub spec: Arc<LLMBackendSpec>,
}

impl Backend {
    /// `None`: another release wrote it, which the log says.
    pub fn of(row: BackendRow) -> Option<Self> {
        match serde_json::from_value(row.spec.clone()) {
            Ok(spec) => Some(Self { spec: Arc::new(spec), row }),
            Err(error) => {
                tracing::error!(backend = row.name, %error, "a projected backend can't be read: another release wrote it");
                None
            }
        }
    }
}

/// The servers as they are now. `cooling` are those that just refused a call of ours.
pub async fn servers(
    backends: &[Backend],
    store: &dyn Store,
    cooling: impl Fn(&str) -> bool,
) -> Result<Vec<Server>, StoreError> {
    if backends.is_empty() {
        return Ok(Vec::new());
    }
    let now: BTreeMap<String, ServerNow> =
        store.servers().await?.into_iter().map(|server| (server.row.url.clone(), server)).collect();
    let server = |Backend { row, spec }: &Backend| {
        let ServerNow { row: server, occupied, today, .. } = now.get(&row.server_url)?;
        let limit = match server.admission {
            Admission::Closed => 0,
            Admission::One => server.limit.min(1),
            Admission::Open => server.limit,
        };
        let ready = limit > 0 && !cooling(&row.server_url);
        let declared = Server::new(&row.namespace, &row.name, &row.server_url, spec);
        Some(declared.now(ready, limit, *occupied).today(*today))
    };
    Ok(backends.iter().filter_map(server).collect())
}

/// Of a declared number of seconds: one at least.
pub fn seconds(declared: i32) -> Duration {
    Duration::from_secs(u64::from(declared.max(1).unsigned_abs()))
}

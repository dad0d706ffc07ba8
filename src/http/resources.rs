//! Resources with status and live facts.

use std::collections::HashMap;

use axum::{Json, extract::State};
use jiff::Timestamp;
use kube::api::DynamicObject;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::{
    Api, ApiError,
    extract::{Path, Query},
    types::{Item, ItemList, Live, admission_word},
};
use crate::{
    api::Kind,
    store::{CallerDay, ControlSet, Observation, ServerRow, caller_id},
};

/// Which namespace; all when absent.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct InNamespace {
    /// Only resources of this namespace.
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    pub namespace: Option<String>,
}

/// Path of one resource.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Named {
    /// `llmbackends`, `hostagents`, `experts`, `taskqueues`, `workerpools`, `taskschedules`, `containerhealthchecks`, `callers` or `notifiers`; short names do as well.
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// All resources of a kind.
#[utoipa::path(get, path = "/api/v1/{kind}", params(("kind" = String, Path, description = "`llmbackends`, `hostagents`, `experts`, `taskqueues`, `workerpools`, `taskschedules`, `containerhealthchecks`, `callers` or `notifiers`; short names do as well."), InNamespace),
    responses((status = 200, body = ItemList), (status = 404, body = super::ErrorReply)))]
pub(super) async fn list(
    State(api): State<Api>,
    Path(kind): Path<String>,
    Query(query): Query<InNamespace>,
) -> Result<Json<ItemList>, ApiError> {
    let items = items(&api, known(&kind)?, query.namespace.as_deref()).await?;
    Ok(Json(ItemList { now: Timestamp::now(), items }))
}

/// One resource.
#[utoipa::path(get, path = "/api/v1/{kind}/{namespace}/{name}", params(Named),
    responses((status = 200, body = Item), (status = 404, body = super::ErrorReply)))]
pub(super) async fn get(State(api): State<Api>, Path(named): Path<Named>) -> Result<Json<Item>, ApiError> {
    find(&api, &named).await.map(Json)
}

pub(super) fn known(kind: &str) -> Result<Kind, ApiError> {
    Kind::find(kind).ok_or_else(|| ApiError::NotFound(format!("there is no kind {kind:?}")))
}

pub(super) async fn find(api: &Api, named: &Named) -> Result<Item, ApiError> {
    let kind = known(&named.kind)?;
    items(api, kind, Some(&named.namespace))
        .await?
        .into_iter()
        .find(|item| item.name() == named.name)
        .ok_or_else(|| ApiError::NotFound(format!("{} {}/{} does not exist", kind, named.namespace, named.name)))
}

/// The resources of a kind in a namespace, or in all, by namespace and name.
pub(super) async fn items(api: &Api, kind: Kind, namespace: Option<&str>) -> Result<Vec<Item>, ApiError> {
    let facts = Facts::read(api, kind).await?;
    let mut items = api
        .platform
        .list(kind.as_str())
        .await?
        .into_iter()
        .map(|object| item(object, kind, &facts))
        .collect::<Result<Vec<_>, _>>()?;
    items.retain(|item| namespace.is_none_or(|wanted| item.namespace() == wanted));
    items.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
    Ok(items)
}

/// What the store knows about the resources of a kind.
#[derive(Default)]
struct Facts {
    /// Server URL of each backend, by uid.
    server_of: HashMap<String, String>,
    servers: HashMap<String, ServerRow>,
    occupied: HashMap<String, i64>,
    last_byte: HashMap<String, Timestamp>,
    observed: HashMap<String, Observation>,
    /// What callers used, by [`caller_id`].
    used: HashMap<String, CallerDay>,
    controls: ControlSet,
}

impl Facts {
    async fn read(api: &Api, kind: Kind) -> Result<Self, ApiError> {
        let mut facts = Self { controls: api.store.controls().await?, ..Self::default() };
        if kind == Kind::Caller {
            let days = api.store.caller_days().await?;
            facts.used = days.into_iter().map(|day| (day.caller.clone(), day)).collect();
        }
        if kind != Kind::LLMBackend {
            return Ok(facts);
        }
        facts.observed = api.store.observations().await?.into_iter().collect();
        for server in api.store.servers().await? {
            facts.occupied.insert(server.row.url.clone(), server.occupied);
            facts.servers.insert(server.row.url.clone(), server.row);
        }
        facts.server_of = api.store.backends().await?.into_iter().map(|row| (row.uid, row.server_url)).collect();
        for (url, slot) in api.store.occupied_slots().await? {
            if let Some(at) = slot.last_byte_at {
                let last = facts.last_byte.entry(url).or_insert(at);
                *last = at.max(*last);
            }
        }
        Ok(facts)
    }

    fn live(&self, kind: Kind, uid: &str, namespace: &str, name: &str) -> Live {
        let mut live = Live {
            suspension: self
                .controls
                .suspended
                .iter()
                .find(|(key, _)| key.kind == kind.as_str() && key.namespace == namespace && key.name == name)
                .map(|(_, suspension)| suspension.clone().into()),
            ..Live::default()
        };
        if let Some(url) = self.server_of.get(uid) {
            live.slots_in_use = Some(self.occupied.get(url).copied().unwrap_or(0));
            live.last_byte_at = self.last_byte.get(url).copied();
            if let Some(server) = self.servers.get(url) {
                live.limit = Some(server.limit);
                live.admission = Some(admission_word(server.admission).to_owned());
            }
        }
        if let Some(seen) = self.observed.get(uid) {
            live.observed(seen);
        }
        if let Some(used) = self.used.get(&caller_id(namespace, name)) {
            live.calls_today = Some(used.calls);
            live.tokens_today = Some(used.tokens);
            live.last_used_at = Some(used.last_used_at);
        }
        live
    }
}

fn item(object: DynamicObject, kind: Kind, facts: &Facts) -> Result<Item, ApiError> {
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let value = |name: &str| object.data.get(name).and_then(Value::as_object).cloned();
    let metadata = serde_json::to_value(&object.metadata).map_err(|e| ApiError::Broken(e.to_string()))?;
    let mut metadata = metadata.as_object().cloned().unwrap_or_default();
    metadata.remove("managedFields");
    let text = |metadata: &Map<String, Value>, key: &str| {
        metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let live = facts.live(kind, &uid, &text(&metadata, "namespace"), &text(&metadata, "name"));
    Ok(Item {
        api_version: crate::api::API_VERSION.to_owned(),
        kind: kind.into(),
        spec: value("spec").unwrap_or_default(),
        status: value("status"),
        metadata,
        live,
    })
}

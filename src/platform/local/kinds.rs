//! Which kinds a folder may hold, and the schema of each.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::schema::{Schema, SchemaError};
use crate::{api, base::closest};

/// A kind beside the custom resources: the agent's own file, for example.
#[derive(Clone, Debug)]
pub struct LocalKind {
    pub api_version: String,
    pub kind: String,
    /// OpenAPI v3, as a CRD would have it.
    pub schema: Value,
}

/// What becomes of a document of some kind.
pub enum KindMatch<'a> {
    /// It is read with this schema.
    Resource(&'a Schema),
    Secret(&'a Schema),
    ConfigMap(&'a Schema),
    /// It belongs to the cluster, or to another program: left alone.
    Foreign,
    /// It is meant for us, and there is no such kind.
    Unknown(String),
}

/// The kinds and their schemas.
pub struct Kinds {
    resources: BTreeMap<(String, String), Schema>,
    secret: Schema,
    config_map: Schema,
}

impl Kinds {
    /// The custom resources, Secrets, ConfigMaps, and `extra` kinds.
    pub fn new(extra: &[LocalKind]) -> Result<Self, SchemaError> {
        let mut resources = BTreeMap::new();
        for crd in api::crds() {
            let kind = crd.spec.names.kind;
            for version in crd.spec.versions.into_iter().filter(|v| v.served) {
                let schema = version.schema.and_then(|s| s.open_api_v3_schema);
                let schema = serde_json::to_value(schema)
                    .map_err(|error| SchemaError { kind: kind.clone(), message: error.to_string() })?;
                let api_version = format!("{}/{}", crd.spec.group, version.name);
                let schema = Schema::compile(&kind, schema)?;
                resources.insert((api_version, kind.clone()), schema);
            }
        }
        for LocalKind { api_version, kind, schema } in extra {
            let compiled = Schema::compile(kind, schema.clone())?;
            resources.insert((api_version.clone(), kind.clone()), compiled);
        }
        Ok(Self {
            resources,
            secret: Schema::compile("Secret", secret_schema())?.hiding_values(),
            config_map: Schema::compile("ConfigMap", config_map_schema())?,
        })
    }

    /// What is done with a document.
    pub fn find(&self, api_version: &str, kind: &str) -> KindMatch<'_> {
        if let Some(schema) = self.resources.get(&(api_version.to_owned(), kind.to_owned())) {
            return KindMatch::Resource(schema);
        }
        if (api_version, kind) == ("v1", "Secret") {
            return KindMatch::Secret(&self.secret);
        }
        if (api_version, kind) == ("v1", "ConfigMap") {
            return KindMatch::ConfigMap(&self.config_map);
        }
        let ours = api_version.split('/').next() == Some(api::GROUP);
        if !ours && !self.resources.keys().any(|(_, known)| known == kind) {
            return KindMatch::Foreign;
        }
        KindMatch::Unknown(self.unknown(api_version, kind))
    }

    /// The schema of a kind in whatever version it has here.
    pub fn schema(&self, kind: &str) -> Option<&Schema> {
        self.resources.iter().find(|((_, known), _)| known == kind).map(|(_, schema)| schema)
    }

    fn unknown(&self, api_version: &str, kind: &str) -> String {
        if let Some((right, _)) = self.resources.keys().find(|(_, known)| known == kind) {
            return format!("{kind} has apiVersion {right}, not {api_version:?}");
        }
        let names = || self.resources.keys().map(|(_, kind)| kind.as_str());
        match closest(kind, names()) {
            Some(meant) => format!("unknown kind {kind:?}; did you mean {meant}?"),
            None => {
                let known: Vec<&str> = names().collect();
                format!("unknown kind {kind:?}; known ones are {}", known.join(", "))
            }
        }
    }
}

/// `v1/Secret`, as far as a folder needs it.
fn secret_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "data": {"type": "object", "additionalProperties": {"type": "string"}},
            "stringData": {"type": "object", "additionalProperties": {"type": "string"}},
            "type": {"type": "string", "maxLength": 253},
            "immutable": {"type": "boolean"},
        },
    })
}

/// `v1/ConfigMap`, as far as a folder needs it.
fn config_map_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "data": {"type": "object", "additionalProperties": {"type": "string"}},
            "binaryData": {"type": "object", "additionalProperties": {"type": "string"}},
            "immutable": {"type": "boolean"},
        },
    })
}

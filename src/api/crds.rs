//! The CustomResourceDefinitions, with kube's habits undone: `Option` is not `nullable`, an empty list is no default.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::{
    AgentConfig, Caller, ContainerHealthCheck, Expert, HostAgent, LLMBackend, Notifier, TaskQueue, TaskSchedule,
    WorkerPool,
};

/// Annotation of a CRD: the release that it is of.
pub const RELEASE: &str = "ostler.dev/release";

/// All kinds, as they are applied to a cluster and as the folder of manifests is validated.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        Caller::crd(),
        ContainerHealthCheck::crd(),
        Expert::crd(),
        HostAgent::crd(),
        LLMBackend::crd(),
        Notifier::crd(),
        TaskQueue::crd(),
        TaskSchedule::crd(),
        WorkerPool::crd(),
    ];
    for crd in &mut all {
        let release = (RELEASE.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        crd.metadata.annotations = Some([release].into());
        for version in &mut crd.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
                tidy(schema);
                unobserved_by_default(schema);
            }
        }
    }
    all
}

/// An agent's file as a definition, for its schema and its reference. It is never applied: the file stays on its host.
pub fn agent_config_definition() -> CustomResourceDefinition {
    let mut definition = AgentConfig::crd();
    let schemas = definition.spec.versions.iter_mut().filter_map(|v| v.schema.as_mut());
    schemas.filter_map(|s| s.open_api_v3_schema.as_mut()).for_each(tidy);
    definition
}

/// The schema of an agent's file.
pub fn agent_config_schema() -> JSONSchemaProps {
    let versions = agent_config_definition().spec.versions;
    versions.into_iter().find_map(|v| v.schema.and_then(|s| s.open_api_v3_schema)).unwrap_or_default()
}

/// An object without `observedGeneration` looks finished to kstatus, so a new object starts with -1 (Flux's convention).
fn unobserved_by_default(root: &mut JSONSchemaProps) {
    if let Some(status) = root.properties.as_mut().and_then(|p| p.get_mut("status")) {
        status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
    }
}

fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(format) = &schema.format
        && (format.starts_with("uint") || format == "int")
    {
        schema.format = None;
    }
    if matches!(&schema.default, Some(JSON(v)) if v.is_null() || v.as_array().is_some_and(Vec::is_empty)) {
        schema.default = None;
    }
    if let Some(values) = &mut schema.enum_ {
        values.retain(|JSON(v)| !v.is_null());
    }
    if let Some(properties) = &mut schema.properties {
        properties.values_mut().for_each(tidy);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => tidy(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(extra)) = &mut schema.additional_properties {
        tidy(extra);
    }
}

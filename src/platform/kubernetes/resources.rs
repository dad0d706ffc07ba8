//! Where the API server serves our kinds.

use std::collections::BTreeMap;

use kube::core::ApiResource;

use crate::{api, platform::PlatformError};

/// The served resources by kind.
pub struct Resources(BTreeMap<String, ApiResource>);

impl Resources {
    pub fn new() -> Self {
        let of = |crd: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
            let names = crd.spec.names;
            let gvk = kube::core::GroupVersionKind::gvk(&crd.spec.group, api::VERSION, &names.kind);
            (names.kind, ApiResource::from_gvk_with_plural(&gvk, &names.plural))
        };
        Self(api::crds().into_iter().map(of).collect())
    }

    pub fn get(&self, kind: &str) -> Result<&ApiResource, PlatformError> {
        self.0.get(kind).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            PlatformError::Invalid(format!("there is no kind {kind}; known ones are {}", known.join(", ")))
        })
    }
}

//! What is declared, as calls need it. Pure but for reading it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    calls::Backend,
    engines::EngineKind,
    protocols::{Listed, Operation, is_alias},
    store::{Store, StoreError},
    tasks::route::{self, Server},
};

/// States of a backend that last until a person acts.
const NEEDS_A_PERSON: [&str; 11] = [
    "Unauthorized",
    "WrongUser",
    "LoopbackURL",
    "DuplicateServer",
    "HostAgentMissing",
    "WorkloadMissing",
    "SecretMissing",
    "InvalidSpec",
    "Misconfigured",
    "Deferred",
    "Suspended",
];

/// The backends of the gateway's namespace as they were last read.
#[derive(Clone, Debug, Default)]
pub(super) struct GatewayView {
    pub backends: Vec<Backend>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub operation: Operation,
    pub alias: &'a str,
    pub images: bool,
}

impl GatewayView {
    pub async fn read(store: &dyn Store, namespace: &str) -> Result<Self, StoreError> {
        let rows = store.backends().await?.into_iter().filter(|row| row.namespace == namespace);
        Ok(Self { backends: rows.filter_map(Backend::of).collect() })
    }

    pub fn server_urls(&self) -> Vec<String> {
        let urls: BTreeSet<&str> = self.backends.iter().map(|backend| backend.row.server_url.as_str()).collect();
        urls.into_iter().map(str::to_owned).collect()
    }

    /// The alias that a name means.
    pub fn alias(&self, asked: &str) -> Option<String> {
        let aliases =
            || self.backends.iter().flat_map(|backend| backend.spec.models.iter().map(|model| model.asked_as()));
        aliases()
            .find(|alias| *alias == asked)
            .or_else(|| aliases().find(|alias| is_alias(alias, asked)))
            .map(str::to_owned)
    }

    pub fn aliases(&self) -> BTreeSet<&str> {
        self.backends.iter().flat_map(|backend| backend.spec.models.iter().map(|model| model.asked_as())).collect()
    }

    /// The backends that serve an alias.
    pub fn serving(&self, alias: &str) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(move |backend| backend.spec.models.iter().any(|model| model.asked_as() == alias))
    }

    /// The backends that can take a call; the error says why none can.
    pub fn candidates(&self, wanted: Wanted<'_>) -> Result<Vec<Backend>, String> {
        let Wanted { operation, alias, images } = wanted;
        let engine = |backend: &Backend| backend.spec.engine;
        let native: Vec<&Backend> =
            self.serving(alias).filter(|backend| operation.is_native(engine(backend))).collect();
        if native.is_empty() {
            let path = operation.path();
            return Err(format!("no server of {alias:?} answers {path}: its engines don't have this call"));
        }
        let able: Vec<Backend> =
            native.into_iter().filter(|backend| !images || engine(backend) != EngineKind::Mlx).cloned().collect();
        if able.is_empty() {
            return Err(format!("no server of {alias:?} reads pictures: MLX's server takes text alone"));
        }
        Ok(able)
    }

    /// What may be asked for. `only`: by this engine.
    pub fn listed(&self, servers: &[Server], namespace: &str, only: Option<EngineKind>) -> Vec<Listed> {
        let mut all: BTreeMap<&str, Vec<&Backend>> = BTreeMap::new();
        for backend in &self.backends {
            let is_meant = only.is_none_or(|engine| engine == backend.spec.engine);
            for model in backend.spec.models.iter().filter(|_| is_meant) {
                all.entry(model.asked_as()).or_default().push(backend);
            }
        }
        let of = |(alias, backends): (&str, Vec<&Backend>)| {
            let mut order = route::serving(servers, namespace, alias);
            order.retain(|server| backends.iter().any(|backend| backend.row.name == server.name));
            Listed {
                alias: alias.to_owned(),
                ready: order.iter().any(|server| server.ready),
                backends: order.iter().map(|server| server.name.clone()).collect(),
            }
        };
        all.into_iter().map(of).collect()
    }
}

/// Why nobody can serve until a person acts; `None`: somebody serves, or may recover.
pub(super) fn hopeless(candidates: &[Backend]) -> Option<String> {
    let lost = |backend: &Backend| NEEDS_A_PERSON.contains(&backend.row.state.as_str());
    candidates.iter().all(lost).then(|| {
        let each = candidates.iter().map(|backend| format!("{} is {}", backend.row.name, backend.row.state));
        format!("nobody can serve this until a person acts: {}", each.collect::<Vec<_>>().join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::BackendState, store::BackendRow};
    use serde_json::json;

    fn backend(name: &str, engine: &str, aliases: &[&str], state: &str) -> Backend {
        let models: Vec<_> =
            aliases.iter().map(|alias| json!({"name": format!("{name}-{alias}"), "alias": alias})).collect();
        let row = BackendRow {
            uid: name.into(),
            namespace: "default".into(),
            name: name.into(),
            generation: 1,
            engine: engine.into(),
            url: format!("http://{name}"),
            server_url: format!("http://{name}"),
            priority: 10,
            spec: json!({"engine": engine, "url": format!("http://{name}"), "models": models}),
            state: state.into(),
            reason: String::new(),
            ready: true,
            ready_since: None,
        };
        Backend::of(row).expect("a backend")
    }

    fn names(found: Result<Vec<Backend>, String>) -> Result<Vec<String>, String> {
        found.map(|found| found.into_iter().map(|backend| backend.row.name).collect())
    }

    #[test]
    fn a_call_goes_to_who_can_answer_it() {
        let view = GatewayView {
            backends: vec![
                backend("mlx", "MLX", &["small"], "Serving"),
                backend("ollama", "Ollama", &["small", "embedder"], "Serving"),
                backend("cloud", "OpenAI", &["small", "big"], "Serving"),
            ],
        };
        let of = |operation, alias, images| names(view.candidates(Wanted { operation, alias, images }));
        let list = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(Operation::ChatCompletions, "small", false), list(&["mlx", "ollama", "cloud"]));
        assert_eq!(of(Operation::ChatCompletions, "small", true), list(&["ollama", "cloud"]));
        assert_eq!(of(Operation::OllamaChat, "small", false), list(&["ollama"]));
        assert_eq!(of(Operation::Embeddings, "small", false), list(&["ollama", "cloud"]));
        assert!(of(Operation::OllamaChat, "big", false).unwrap_err().contains("don't have this call"));
        assert_eq!(view.alias("small:latest").as_deref(), Some("small"));
        assert_eq!(view.alias("nobody"), None);
        let ollama = view.listed(&[], "default", Some(EngineKind::Ollama));
        assert_eq!(ollama.iter().map(|one| one.alias.as_str()).collect::<Vec<_>>(), ["embedder", "small"]);
    }

    #[test]
    fn who_may_recover_is_waited_for() {
        let mlx = |state| backend("mlx", "MLX", &["small"], state);
        let ollama = |state| backend("ollama", "Ollama", &["small"], state);
        assert_eq!(hopeless(&[mlx("Deferred"), ollama("Recovering")]), None);
        assert!(
            hopeless(&[mlx("Deferred"), ollama("Suspended")]).is_some_and(|why| why.contains("ollama is Suspended"))
        );
    }

    #[test]
    fn states_are_written_as_backends_have_them() {
        for state in NEEDS_A_PERSON {
            serde_json::from_value::<BackendState>(state.into()).expect(state);
        }
    }
}

//! What is declared, as calls need it. Pure but for reading it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use reqwest::Url;

use super::{
    asker::{Asker, Presented},
    sessions::SessionKey,
};
use crate::{
    api::{Kind, LOCAL_CALLER},
    calls::{Backend, KeyHash, KnownCaller},
    engines::EngineKind,
    net,
    protocols::{Listed, Operation, Refusal, RefusalReason, is_alias},
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

/// Backends and callers of all namespaces as they were last read.
#[derive(Clone, Debug, Default)]
pub(super) struct GatewayView {
    pub backends: Vec<Backend>,
    callers: Vec<Arc<KnownCaller>>,
    by_key: HashMap<KeyHash, Arc<KnownCaller>>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub operation: Operation,
    pub namespace: &'a str,
    pub alias: &'a str,
    pub images: bool,
    /// Bytes of its prompt, where they tell how long it is: those of pictures don't.
    pub prompt: Option<usize>,
    /// To servers of this machine and its network only.
    pub local_only: bool,
    /// What tells its conversation from others.
    pub session: Option<SessionKey>,
    /// As it came.
    pub body: &'a [u8],
}

impl GatewayView {
    pub async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let backends = store.backends().await?.into_iter().filter_map(Backend::of).collect();
        let callers = store.declared(Kind::Caller.as_str()).await?.into_iter().filter_map(KnownCaller::of);
        Ok(Self::new(backends, callers.collect()))
    }

    fn new(backends: Vec<Backend>, mut callers: Vec<KnownCaller>) -> Self {
        callers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let callers: Vec<Arc<KnownCaller>> = callers.into_iter().map(Arc::new).collect();
        let mut by_key = HashMap::new();
        for caller in &callers {
            for hash in &caller.key_hashes {
                if let Some(former) = by_key.insert(hash.clone(), Arc::clone(caller)) {
                    // Whose calls are whose must not depend on an order.
                    tracing::warn!(
                        caller = caller.id(),
                        other = former.id(),
                        "two Callers have the same key: give each its own"
                    );
                }
            }
        }
        Self { backends, callers, by_key }
    }

    /// Who asks; the error says why nobody may. `local` is the namespace of those who need no key, where the peer is one of them.
    pub fn asker(&self, presented: &Presented, local: Option<&str>) -> Result<Asker, Refusal> {
        let refused = |why: &str| Err(Refusal::new(RefusalReason::Unauthenticated, why));
        let caller = match (presented, local) {
            (Presented::Key(hash), _) => {
                let Some(caller) = self.by_key.get(hash) else {
                    return refused("this key is nobody's: it was withdrawn, or belongs to another installation");
                };
                Arc::clone(caller)
            }
            (Presented::Mistyped, _) => return refused("this is no whole key: copy it again"),
            (Presented::Nothing, Some(namespace)) => self.local(namespace),
            (Presented::Nothing, None) => {
                return refused(
                    "a key is needed: send one as `Authorization: Bearer`, `x-api-key` or `api-key`; `ostler callers create` makes one",
                );
            }
        };
        if caller.suspended {
            return Err(Refusal::new(RefusalReason::Forbidden, format!("Caller {} is suspended", caller.id())));
        }
        let key = if let Presented::Key(hash) = presented { Some(hash.clone()) } else { None };
        Ok(Asker { caller, key })
    }

    fn local(&self, namespace: &str) -> Arc<KnownCaller> {
        let declared = self.callers.iter().find(|one| one.namespace == namespace && one.name == LOCAL_CALLER);
        declared.cloned().unwrap_or_else(|| Arc::new(KnownCaller::undeclared(namespace, LOCAL_CALLER)))
    }

    /// Whether a call of this asker may go on; the error says why not.
    pub fn may_go_on(&self, asker: &Asker) -> Result<(), Refusal> {
        let Asker { caller, key } = asker;
        let (presented, local) = match key {
            Some(hash) => (Presented::Key(hash.clone()), None),
            None => (Presented::Nothing, Some(caller.namespace.as_str())),
        };
        self.asker(&presented, local).map(|_| ())
    }

    pub fn server_urls(&self) -> Vec<String> {
        let urls: BTreeSet<&str> = self.backends.iter().map(|backend| backend.row.server_url.as_str()).collect();
        urls.into_iter().map(str::to_owned).collect()
    }

    /// The alias that a caller means by a name; none: there is none that it may ask for.
    pub fn alias(&self, caller: &KnownCaller, asked: &str) -> Option<String> {
        let asked = caller.alias_of(asked);
        let aliases = self.aliases(caller);
        aliases
            .get(asked)
            .or_else(|| aliases.iter().find(|alias| is_alias(alias, asked)))
            .map(|alias| (*alias).to_owned())
    }

    /// What a caller may ask for.
    pub fn aliases(&self, caller: &KnownCaller) -> BTreeSet<&str> {
        let models = self.of(&caller.namespace).flat_map(|backend| backend.spec.models.iter());
        models.map(|model| model.asked_as()).filter(|alias| caller.may_ask_for(alias)).collect()
    }

    /// The backends of a namespace.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(move |backend| backend.row.namespace == namespace)
    }

    /// The backends of a namespace that serve an alias.
    pub fn serving(&self, namespace: &str, alias: &str) -> impl Iterator<Item = &Backend> {
        self.of(namespace).filter(move |backend| backend.spec.models.iter().any(|model| model.asked_as() == alias))
    }

    /// The backends that can take a call; the error says why none can.
    pub fn candidates(&self, wanted: Wanted<'_>) -> Result<Vec<Backend>, String> {
        let Wanted { operation, namespace, alias, images, local_only, .. } = wanted;
        let engine = |backend: &Backend| backend.spec.engine;
        let serving: Vec<&Backend> =
            self.serving(namespace, alias).filter(|backend| operation.is_served_by(engine(backend))).collect();
        if serving.is_empty() {
            let path = operation.path();
            return Err(format!("no server of {alias:?} answers {path}: its engines don't have this call"));
        }
        let able: Vec<Backend> =
            serving.into_iter().filter(|backend| !images || engine(backend) != EngineKind::Mlx).cloned().collect();
        if able.is_empty() {
            return Err(format!("no server of {alias:?} reads pictures: MLX's server takes text alone"));
        }
        let local: Vec<Backend> =
            able.into_iter().filter(|backend| !local_only || stays_local(backend, alias)).collect();
        if local.is_empty() {
            return Err(format!(
                "no server of {alias:?} is on this machine or its network, and this caller's calls stay there (localOnly)"
            ));
        }
        Ok(local)
    }

    /// What may be asked for. `only`: by this engine.
    pub fn listed(&self, servers: &[Server], caller: &KnownCaller, only: Option<EngineKind>) -> Vec<Listed> {
        let mut all: BTreeMap<&str, Vec<&Backend>> = BTreeMap::new();
        for backend in self.of(&caller.namespace) {
            let is_meant = only.is_none_or(|engine| engine == backend.spec.engine);
            for model in backend.spec.models.iter().filter(|model| is_meant && caller.may_ask_for(model.asked_as())) {
                all.entry(model.asked_as()).or_default().push(backend);
            }
        }
        let of = |(alias, backends): (&str, Vec<&Backend>)| {
            let mut order = route::serving(servers, &caller.namespace, alias);
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

/// Whether what is sent to a backend for an alias stays on this machine and its network: by the address of its URL, and not where Ollama
/// itself sends it on.
fn stays_local(backend: &Backend, alias: &str) -> bool {
    let model = backend.spec.models.iter().find(|model| model.asked_as() == alias);
    let is_sent_on = model.is_some_and(|model| model.is_sent_on(backend.spec.engine));
    !is_sent_on && Url::parse(&backend.row.server_url).is_ok_and(|url| net::is_local(&url))
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
    use crate::{api::BackendState, calls::CallerKey, store::BackendRow};
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
        let backends = vec![
            backend("mlx", "MLX", &["small"], "Serving"),
            backend("ollama", "Ollama", &["small", "embedder"], "Serving"),
            backend("cloud.example.com", "OpenAI", &["small", "big"], "Serving"),
        ];
        let view = GatewayView::new(backends, Vec::new());
        let wanted = |operation, alias, images| Wanted {
            operation,
            namespace: "default",
            alias,
            images,
            prompt: None,
            local_only: false,
            session: None,
            body: b"",
        };
        let of = |operation, alias, images| names(view.candidates(wanted(operation, alias, images)));
        let list = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(Operation::ChatCompletions, "small", false), list(&["mlx", "ollama", "cloud.example.com"]));
        assert_eq!(of(Operation::ChatCompletions, "small", true), list(&["ollama", "cloud.example.com"]));
        assert_eq!(of(Operation::OllamaChat, "small", false), list(&["ollama"]));
        assert_eq!(of(Operation::Embeddings, "small", false), list(&["ollama", "cloud.example.com"]));
        assert!(of(Operation::OllamaChat, "big", false).unwrap_err().contains("don't have this call"));
        let near = |alias| Wanted { local_only: true, ..wanted(Operation::ChatCompletions, alias, false) };
        assert_eq!(names(view.candidates(near("small"))), list(&["mlx", "ollama"]));
        assert!(names(view.candidates(near("big"))).unwrap_err().contains("localOnly"));
        let elsewhere = Wanted { namespace: "team", ..near("small") };
        assert!(view.candidates(elsewhere).is_err(), "another namespace's servers are not its");
        let caller = KnownCaller::undeclared("default", "local");
        assert_eq!(view.alias(&caller, "small:latest").as_deref(), Some("small"));
        assert_eq!(view.alias(&caller, "nobody"), None);
        assert_eq!(view.alias(&KnownCaller::undeclared("team", "local"), "small"), None);
        let ollama = view.listed(&[], &caller, Some(EngineKind::Ollama));
        assert_eq!(ollama.iter().map(|one| one.alias.as_str()).collect::<Vec<_>>(), ["embedder", "small"]);
    }

    #[test]
    fn a_call_is_a_callers_by_its_key_and_locals_without_one() {
        let (key, other) = (CallerKey::generate(), CallerKey::generate());
        let caller = |name: &str, suspended, keys: &[&CallerKey]| KnownCaller {
            suspended,
            key_hashes: keys.iter().map(|key| key.hash()).collect(),
            ..KnownCaller::undeclared("team", name)
        };
        let view = |callers| GatewayView::new(Vec::new(), callers);
        let open = view(vec![caller("editor", false, &[&key])]);
        let closed = view(vec![caller("local", true, &[]), caller("editor", true, &[&key])]);
        let (with, without) = (Presented::Key(key.hash()), Presented::Nothing);
        for (view, presented, local, found) in [
            (&open, &with, None, Ok("team/editor")),
            (&open, &with, Some("default"), Ok("team/editor")),
            (&open, &without, Some("default"), Ok("default/local")),
            (&open, &without, None, Err("a key is needed")),
            (&open, &Presented::Mistyped, Some("default"), Err("no whole key")),
            (&open, &Presented::Key(other.hash()), Some("default"), Err("nobody's")),
            (&closed, &with, None, Err("suspended")),
            (&closed, &without, Some("team"), Err("team/local is suspended")),
            (&closed, &without, Some("default"), Ok("default/local")),
        ] {
            let asker = view.asker(presented, local);
            match found {
                Ok(id) => assert_eq!(asker.map(|asker| asker.caller.id()), Ok(id.to_owned())),
                Err(why) => assert!(asker.as_ref().is_err_and(|said| said.message.contains(why)), "{why}: {asker:?}"),
            }
        }
        let asker = open.asker(&with, None).expect("known");
        assert_eq!(open.may_go_on(&asker), Ok(()));
        assert!(closed.may_go_on(&asker).is_err() && view(Vec::new()).may_go_on(&asker).is_err());
        let local = open.asker(&without, Some("team")).expect("known");
        assert_eq!(open.may_go_on(&local), Ok(()));
        assert!(closed.may_go_on(&local).is_err());
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

//! Which server may be asked for what now.
//!
//! The servers of an alias are asked in the order of their priority. The next one takes overflow: it is asked only while all
//! before it are down or full, none of them says `overflow: Wait`, and it accepts spill itself. So an outage sends nothing
//! to a server that does not accept it.

use std::collections::BTreeMap;

use crate::api::{LLMBackendSpec, Overflow};

/// A backend with what is known of its server now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub namespace: String,
    /// The backend's.
    pub name: String,
    /// Normalized.
    pub url: String,
    pub priority: i32,
    /// It serves, and gives slots.
    pub ready: bool,
    /// Slots that are free now.
    pub free: i64,
    pub overflow: Overflow,
    pub accepts_spill: bool,
    /// Where it may be called only so often a day.
    pub calls: Option<CallsOfDay>,
    /// Alias and the server's own name of each model.
    pub models: Vec<(String, String)>,
}

/// How often a server may be called on one UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallsOfDay {
    /// `maxCallsPerDay`.
    pub most: i32,
    /// Calls that may still begin today.
    pub left: i64,
}

/// One server that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub namespace: String,
    pub backend: String,
    pub url: String,
    /// Slots that are free now: at least one.
    pub free: i64,
    pub models: Vec<RouteRequest>,
}

/// What a server may be asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteRequest {
    /// What tasks of the backend's namespace ask for.
    pub alias: String,
    /// The server's own name for it.
    pub model: String,
    /// It is another server's overflow.
    pub spill: bool,
}

impl Server {
    /// Of a backend as it is declared. A model without an alias is asked for by its name.
    pub fn new(namespace: &str, name: &str, url: &str, spec: &LLMBackendSpec) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            url: url.to_owned(),
            priority: spec.priority,
            ready: false,
            free: 0,
            overflow: spec.concurrency.overflow,
            accepts_spill: spec.accepts_spill(),
            calls: None,
            models: spec
                .models
                .iter()
                .map(|model| (model.asked_as().to_owned(), model.own_name(spec.engine).into_owned()))
                .collect(),
        }
    }

    /// With what is observed: whether it gives slots, the limit in force, and how many slots are occupied.
    #[must_use]
    pub fn now(self, ready: bool, limit: i32, occupied: i64) -> Self {
        Self { ready, free: (i64::from(limit) - occupied).max(0), ..self }
    }

    /// With what is left of this day's calls: of its slots, no more are free than that.
    #[must_use]
    pub fn today(self, calls: Option<CallsOfDay>) -> Self {
        let free = calls.map_or(self.free, |calls| self.free.min(calls.left));
        Self { free, calls, ..self }
    }

    /// Its calls of this day are used up.
    pub fn is_spent(&self) -> bool {
        self.calls.is_some_and(|calls| calls.left == 0)
    }

    /// The server's own name for an alias; none: it does not serve it.
    pub fn model(&self, alias: &str) -> Option<&str> {
        self.models.iter().find(|(known, _)| known == alias).map(|(_, model)| model.as_str())
    }

    const fn is_open(&self) -> bool {
        self.ready && self.free > 0
    }
}

/// The servers that serve an alias in a namespace, first to be asked first.
pub fn serving<'a>(servers: &'a [Server], namespace: &str, alias: &str) -> Vec<&'a Server> {
    let mut found: Vec<&Server> =
        servers.iter().filter(|s| s.namespace == namespace && s.model(alias).is_some()).collect();
    found.sort_by_key(|s| (s.priority, &s.name));
    found
}

/// Which of [`serving`] may be asked now, each with whether that is spill.
pub fn open<'a>(serving: &[&'a Server]) -> Vec<(&'a Server, bool)> {
    let first = serving.first().map(|s| s.priority);
    let willing = until(serving, |group| group.iter().any(|s| s.is_open()));
    willing.into_iter().filter(|s| s.is_open()).map(|s| (s, Some(s.priority) != first)).collect()
}

/// The same for work of which a server has the beginning in its prompt cache: that one first. None at all while it `waits` for that one, which
/// gives slots and has none free.
pub fn open_near<'a>(serving: &[&'a Server], near: Option<&str>, waits: bool) -> Vec<(&'a Server, bool)> {
    let mut open = open(serving);
    let Some(near) = near else { return open };
    let first = open.first().map(|(server, _)| server.priority);
    // Where it only spilled to is not waited for while its own server has room.
    let is_worth = |server: &&Server| {
        let (is_near, is_full) = (server.url == near, server.ready && server.free == 0);
        is_near && is_full && first.is_none_or(|first| server.priority <= first)
    };
    match open.iter().position(|(server, _)| server.url == near) {
        Some(at) => open[..=at].rotate_right(1),
        None if waits && allowed(serving).iter().any(is_worth) => open.clear(),
        None => {}
    }
    open
}

/// Which of [`serving`] work may go to when they are all down or full: those it waits for. The first at least.
pub fn allowed<'a>(serving: &[&'a Server]) -> Vec<&'a Server> {
    until(serving, |_| false)
}

/// Group by group of equal priority, those that take the work, up to the group that keeps it.
fn until<'a>(serving: &[&'a Server], keeps: impl Fn(&[&Server]) -> bool) -> Vec<&'a Server> {
    let mut all = Vec::new();
    for (index, group) in serving.chunk_by(|a, b| a.priority == b.priority).enumerate() {
        // Whoever comes first is where the work belongs, taker of spill or not.
        let takers: Vec<&Server> = group.iter().copied().filter(|s| index == 0 || s.accepts_spill).collect();
        let ends = keeps(&takers) || takers.iter().any(|s| s.overflow == Overflow::Wait);
        all.extend(takers);
        if ends {
            break;
        }
    }
    all
}

/// For each server that may be asked for anything now: what, and under which name there.
pub fn routes(servers: &[Server]) -> Vec<Route> {
    let mut by_server: BTreeMap<(i32, &str, &str), (&Server, Vec<RouteRequest>)> = BTreeMap::new();
    let mut aliases: Vec<(&str, &str)> =
        servers.iter().flat_map(|s| s.models.iter().map(|(alias, _)| (s.namespace.as_str(), alias.as_str()))).collect();
    aliases.sort_unstable();
    aliases.dedup();
    for (namespace, alias) in aliases {
        for (server, spill) in open(&serving(servers, namespace, alias)) {
            let Some(model) = server.model(alias) else { continue };
            let asked = RouteRequest { alias: alias.to_owned(), model: model.to_owned(), spill };
            let key = (server.priority, server.namespace.as_str(), server.name.as_str());
            by_server.entry(key).or_insert_with(|| (server, Vec::new())).1.push(asked);
        }
    }
    by_server
        .into_values()
        .map(|(server, models)| Route {
            namespace: server.namespace.clone(),
            backend: server.name.clone(),
            url: server.url.clone(),
            free: server.free,
            models,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::{Concurrency, EngineKind, Model, SecretRef};

    fn server(name: &str, priority: i32) -> Server {
        Server {
            namespace: "default".into(),
            name: name.into(),
            url: format!("http://{name}"),
            priority,
            ready: true,
            free: 2,
            overflow: Overflow::Spill,
            accepts_spill: true,
            calls: None,
            models: vec![("small".into(), format!("{name}-small"))],
        }
    }

    /// `mlx small as mlx-small, ...` of everything that may be asked.
    fn shown(servers: &[Server]) -> String {
        let of = |route: &Route| {
            let models: Vec<_> = route
                .models
                .iter()
                .map(|a| format!("{}={}{}", a.alias, a.model, if a.spill { " by spill" } else { "" }))
                .collect();
            format!("{}: {}", route.backend, models.join(", "))
        };
        routes(servers).iter().map(of).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn overflow_goes_by_priority_to_who_accepts_it() {
        let full = |s: Server| Server { free: 0, ..s };
        let down = |s: Server| Server { ready: false, ..s };
        let waits = |s: Server| Server { overflow: Overflow::Wait, ..s };
        let paid = |s: Server| Server { accepts_spill: false, ..s };
        let (mlx, ollama, cloud) = (server("mlx", 10), server("ollama", 20), server("cloud", 30));
        for (servers, wanted, what) in [
            (vec![mlx.clone(), ollama.clone()], "mlx: small=mlx-small", "the first has room"),
            (vec![full(mlx.clone()), ollama.clone()], "ollama: small=ollama-small by spill", "the first is full"),
            (vec![down(mlx.clone()), ollama.clone()], "ollama: small=ollama-small by spill", "the first is down"),
            (vec![waits(full(mlx.clone())), ollama.clone()], "", "its work waits for it"),
            (vec![waits(down(mlx.clone())), ollama.clone()], "", "also while it is down"),
            (vec![full(mlx.clone()), paid(ollama.clone())], "", "the second takes no spill"),
            (
                vec![full(mlx.clone()), paid(ollama.clone()), cloud.clone()],
                "cloud: small=cloud-small by spill",
                "who takes none is passed over",
            ),
            (
                vec![full(mlx.clone()), waits(full(ollama.clone())), cloud.clone()],
                "",
                "what spilled to the second waits there",
            ),
            (
                vec![full(mlx.clone()), waits(paid(full(ollama.clone()))), cloud.clone()],
                "cloud: small=cloud-small by spill",
                "the second has no say in what it does not take",
            ),
            (vec![paid(mlx.clone())], "mlx: small=mlx-small", "its own work is no spill"),
            (vec![full(mlx.clone()), full(ollama.clone()), down(cloud.clone())], "", "nobody has room"),
            (
                vec![mlx.clone(), Server { priority: 10, ..ollama.clone() }],
                "mlx: small=mlx-small; ollama: small=ollama-small",
                "equals share",
            ),
            (
                vec![full(mlx.clone()), Server { priority: 10, ..ollama.clone() }, cloud.clone()],
                "ollama: small=ollama-small",
                "an equal has room",
            ),
        ] {
            assert_eq!(shown(&servers), wanted, "{what}");
        }
    }

    #[test]
    fn a_conversation_goes_to_the_server_that_has_it_and_waits_for_it_a_while() {
        let full = |s: Server| Server { free: 0, ..s };
        let down = |s: Server| Server { ready: false, ..s };
        let (a, b, c) = (server("a", 10), server("b", 10), server("c", 20));
        for (servers, near, waits, order, why) in [
            ([a.clone(), b.clone(), c.clone()], None, true, "a b", "none has it"),
            ([a.clone(), b.clone(), c.clone()], Some("http://b"), true, "b a", "that one first"),
            ([a.clone(), full(b.clone()), c.clone()], Some("http://b"), true, "", "it is waited for"),
            ([a.clone(), full(b.clone()), c.clone()], Some("http://b"), false, "a", "not for ever"),
            ([a.clone(), down(b.clone()), c.clone()], Some("http://b"), true, "a", "nor while it is down"),
            ([a.clone(), b.clone(), c.clone()], Some("http://c"), true, "a b", "nor does it go before priority"),
            ([a.clone(), b.clone(), full(c.clone())], Some("http://c"), true, "a b", "and no spill is waited for"),
            ([full(a.clone()), full(b.clone()), c.clone()], Some("http://c"), true, "c", "where it spilled to"),
        ] {
            let serving = serving(&servers, "default", "small");
            let open = open_near(&serving, near, waits);
            let names: Vec<&str> = open.iter().map(|(server, _)| server.name.as_str()).collect();
            assert_eq!(names.join(" "), order, "{why}");
        }
    }

    #[test]
    fn each_alias_is_routed_by_itself_and_within_its_namespace() {
        let both = |name: &str, priority| Server {
            models: vec![("small".into(), "s".into()), (name.to_owned(), "own".into())],
            ..server(name, priority)
        };
        let elsewhere = Server { namespace: "other".into(), ..server("elsewhere", 1) };
        assert_eq!(
            shown(&[both("mlx", 10), both("ollama", 20), elsewhere]),
            "elsewhere: small=elsewhere-small; mlx: mlx=own, small=s; ollama: ollama=own"
        );
    }

    #[test]
    fn a_backend_is_routed_as_it_is_declared() {
        let model = |name: &str, alias: Option<&str>| Model {
            name: name.into(),
            alias: alias.map(str::to_owned),
            context_tokens: None,
            pull: false,
            preload: false,
        };
        let concurrency = serde_json::to_value(Concurrency::default()).unwrap();
        let mut spec: LLMBackendSpec = serde_json::from_value(
            serde_json::json!({"engine": "OpenAI", "url": "https://api.example.com", "concurrency": concurrency}),
        )
        .unwrap();
        spec.models = vec![model("gpt", Some("small")), model("embedder", None)];
        spec.auth_secret_ref = Some(SecretRef { name: "key".into() });
        assert_eq!(spec.engine, EngineKind::OpenAi);
        let server = Server::new("default", "cloud", "https://api.example.com", &spec);
        assert!(!server.accepts_spill && !server.ready);
        assert_eq!((server.model("small"), server.model("gpt")), (Some("gpt"), None));
        assert_eq!(server.model("embedder"), Some("embedder"));
        assert_eq!(server.clone().now(true, 2, 3).free, 0);
        assert_eq!(server.clone().now(true, 2, 1).free, 1);
        for (left, free) in [(9, 2), (1, 1), (0, 0)] {
            let server = server.clone().now(true, 2, 0).today(Some(CallsOfDay { most: 9, left }));
            assert_eq!((server.free, server.is_spent()), (free, left == 0));
        }
    }

    fn a_server() -> impl Strategy<Value = Server> {
        (0_i32..3, any::<bool>(), 0_i64..2, any::<bool>(), any::<bool>()).prop_map(
            |(priority, ready, free, waits, accepts_spill)| Server {
                ready,
                free,
                overflow: if waits { Overflow::Wait } else { Overflow::Spill },
                accepts_spill,
                ..server("", priority)
            },
        )
    }

    proptest! {
        #[test]
        fn nobody_is_asked_who_is_down_full_or_unwilling(mut servers in proptest::collection::vec(a_server(), 1..6)) {
            for (i, server) in servers.iter_mut().enumerate() {
                server.name = format!("s{i}");
            }
            let best = servers.iter().map(|s| s.priority).min();
            for (asked, spill) in open(&serving(&servers, "default", "small")) {
                prop_assert!(asked.ready && asked.free > 0);
                prop_assert_eq!(spill, Some(asked.priority) != best);
                prop_assert!(!spill || asked.accepts_spill);
                let before = servers.iter().filter(|s| s.priority < asked.priority);
                for passed in before.filter(|s| Some(s.priority) == best || s.accepts_spill) {
                    prop_assert!(!(passed.ready && passed.free > 0), "{:?} has room", passed);
                    prop_assert!(passed.overflow == Overflow::Spill, "{:?} waits", passed);
                }
            }
        }
    }
}

//! Of an Ostler that runs: leader, loops, agents, experts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    super::observed::{ServerFacts, ServerObserved},
    Findings, SKEW_SECONDS,
};
use crate::{api::number_of, http::Item};

impl Findings {
    pub(super) fn server(&mut self, server: &ServerObserved, version: &str) {
        let facts = match &server.answer {
            Err(why) => {
                return self.error("server.reach", format!("{}: {why}", server.place), "start it, or see its log");
            }
            Ok(facts) => facts,
        };
        self.ok("server.reach", format!("{} answers", server.place));
        if facts.version == version {
            self.ok("server.version", format!("both are {version}"));
        } else {
            self.warn(
                "server.version",
                format!("this program is {version}, the server {}", facts.version),
                "upgrade the older one; `ostler version` shows both",
            );
        }
        match &facts.overview.leader {
            Some(leader) => self.ok("server.leader", format!("{} leads", leader.holder)),
            None => self.error(
                "server.leader",
                "nobody leads: nothing is observed or healed",
                "see /readyz of a controller",
            ),
        }
        if let Some(stuck) = &facts.stuck {
            self.error("server.loops", stuck.trim().to_owned(), "restart that process, and report its log");
        }
        let broken = facts.overview.problems.iter().filter(|problem| problem.error).count();
        if broken > 0 {
            self.error(
                "server.manifests",
                format!("{} not in force", number_of(broken, "manifest")),
                "`ostler status` names them",
            );
        }
        self.agents(facts, version);
        self.aliases(facts);
    }

    fn agents(&mut self, facts: &ServerFacts, version: &str) {
        let mut secrets: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for agent in &facts.agents {
            let name = agent.name();
            let of = |field: &str| agent.status.as_ref().and_then(|status| status.get(field));
            let state = of("state").and_then(Value::as_str).unwrap_or("Unheard");
            match state {
                "Reachable" => self.ok("agent.reach", format!("agent {name} answers")),
                "Suspended" => {}
                _ => self.error(
                    "agent.reach",
                    format!("agent {name}: {state}"),
                    format!("`ostler describe ha/{name}` says why"),
                ),
            }
            if let Some(skew) = of("clockSkewSeconds").and_then(Value::as_i64).filter(|skew| skew.abs() > SKEW_SECONDS)
            {
                self.warn(
                    "agent.clock",
                    format!("the clock of agent {name} differs by {} s", skew.abs()),
                    "let both take their time from a time server: signed requests hold for five minutes",
                );
            }
            if let Some(of_agent) = of("version").and_then(Value::as_str).filter(|of_agent| *of_agent != version) {
                self.warn(
                    "agent.version",
                    format!("agent {name} is {of_agent}, this program {version}"),
                    "install the same release on that host; its services stay up",
                );
            }
            if let Some(secret) = agent.spec.get("secretRef").and_then(|of| of.get("name")).and_then(Value::as_str) {
                secrets.entry(format!("{}/{secret}", agent.namespace())).or_default().push(name);
            }
        }
        for (secret, agents) in secrets.into_iter().filter(|(_, agents)| agents.len() > 1) {
            self.warn(
                "agent.secret",
                format!("agents {} share Secret {secret}: who has one host can command the others", agents.join(", ")),
                "give each agent a secret of its own",
            );
        }
    }

    /// Experts whose model nobody serves.
    fn aliases(&mut self, facts: &ServerFacts) {
        let model_names = |backend: &Item| -> Vec<(String, String)> {
            let models = backend.spec.get("models").and_then(Value::as_array).into_iter().flatten();
            let words = |model: &Value| ["alias", "name"].map(|f| model[f].as_str().unwrap_or_default().to_owned());
            models.flat_map(words).map(|word| (backend.namespace().to_owned(), word)).collect()
        };
        let served: BTreeSet<(String, String)> = facts.backends.iter().flat_map(model_names).collect();
        for expert in &facts.experts {
            let Some(model) = expert.spec.get("model").and_then(Value::as_str) else { continue };
            if !served.contains(&(expert.namespace().to_owned(), model.to_owned())) {
                self.error(
                    "model.alias",
                    format!("expert {} asks for {model:?}, which no LLMBackend of its namespace serves", expert.name()),
                    "name it as name or alias of a model in an LLMBackend, or change the expert's model",
                );
            }
        }
    }
}

//! Which containers a caller means, among those that the agent may see: pure.

use std::collections::{BTreeMap, HashMap};

use super::{
    allow::{Allow, is_name},
    facts::{ContainerFacts, folder},
    memory::ContainerRecords,
};
use crate::{
    agent::gate::Refused,
    host::{AgentRefusal, ComposeService, ComposeServices, ContainerSelector, ContainerTarget},
};

/// Containers that the agent may see, by id, and what it remembers.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInventory<'a> {
    pub allow: &'a Allow,
    pub containers: &'a BTreeMap<String, ContainerFacts>,
    pub memory: &'a ContainerRecords,
}

/// What a selector means now.
#[derive(Debug, Default, PartialEq)]
pub struct ContainerSelection<'a> {
    pub here: Vec<&'a ContainerFacts>,
    pub missing: Vec<ContainerTarget>,
}

/// What a target means now.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerMatch {
    Here(Box<ContainerFacts>),
    /// It does not exist; compose made it once, or nobody knows how it was made.
    Missing(Option<ComposeOrigin>),
}

/// A service of a compose project, as it was seen here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeOrigin {
    pub project: String,
    pub service: String,
}

impl<'a> ContainerInventory<'a> {
    /// Those that are meant. Names and projects that the file does not permit are refused, not skipped.
    pub fn select(&self, selector: &ContainerSelector) -> Result<ContainerSelection<'a>, Refused> {
        match selector {
            ContainerSelector::Names(names) => self.named(names),
            ContainerSelector::Labels(labels) if labels.is_empty() => Err(Refused::new(
                AgentRefusal::BadRequest,
                "labels: name at least one; none would mean every container",
            )),
            ContainerSelector::Labels(labels) => {
                let has = |f: &&ContainerFacts| labels.iter().all(|(k, v)| f.labels.get(k) == Some(v));
                let here = self.containers.values().filter(|f| !f.is_oneoff()).filter(has).collect();
                Ok(ContainerSelection { here, missing: Vec::new() })
            }
            ContainerSelector::Compose(services) => self.composed(services),
        }
    }

    /// The container that a target means.
    pub fn find(&self, target: &ContainerTarget) -> Result<ContainerMatch, Refused> {
        match target {
            ContainerTarget::Name(name) => {
                let mut selected = self.named(std::slice::from_ref(name))?;
                let made = |(project, service): (&str, &str)| ComposeOrigin {
                    project: project.into(),
                    service: service.into(),
                };
                Ok(match selected.here.pop() {
                    Some(facts) => ContainerMatch::Here(Box::new(facts.clone())),
                    None => ContainerMatch::Missing(self.memory.service_of(name).map(made)),
                })
            }
            ContainerTarget::Service(of) => {
                let service = self.known_service(of)?;
                let first = self.of_service(&of.project_directory, &of.service).min_by_key(|f| number(f));
                Ok(match first {
                    Some(facts) => ContainerMatch::Here(Box::new(facts.clone())),
                    None => ContainerMatch::Missing(Some(service)),
                })
            }
        }
    }

    fn named(&self, names: &[String]) -> Result<ContainerSelection<'a>, Refused> {
        let here: HashMap<_, _> = self.containers.values().map(|facts| (facts.report.name.as_str(), facts)).collect();
        // Names that containers of permitted projects had.
        let mut known = None;
        let mut selected = ContainerSelection::default();
        for name in names {
            let mut was_permitted = || {
                known.get_or_insert_with(|| self.memory.names_of(|p| self.allow.permits_project(p))).contains(&**name)
            };
            match here.get(name.as_str()) {
                Some(facts) => selected.here.push(facts),
                None if is_name(name) && (self.allow.permits_name(name) || was_permitted()) => {
                    selected.missing.push(ContainerTarget::Name(name.clone()));
                }
                None => return Err(self.allow.refuse(name)),
            }
        }
        Ok(selected)
    }

    fn composed(&self, of: &ComposeServices) -> Result<ContainerSelection<'a>, Refused> {
        self.known_project(&of.project_directory)?;
        let all: Vec<_> = self.of_folder(&of.project_directory).collect();
        if of.services.is_empty() {
            return Ok(ContainerSelection { here: all, missing: Vec::new() });
        }
        let mut by_service: HashMap<&str, Vec<&ContainerFacts>> = HashMap::new();
        for facts in all {
            let service = facts.report.compose.as_ref().map_or("", |c| c.service.as_str());
            by_service.entry(service).or_default().push(facts);
        }
        let mut selected = ContainerSelection::default();
        for service in &of.services {
            match by_service.get(service.as_str()) {
                Some(here) => selected.here.extend(here),
                None => selected.missing.push(ContainerTarget::Service(ComposeService {
                    project_directory: of.project_directory.clone(),
                    files: of.files.clone(),
                    service: service.clone(),
                })),
            }
        }
        Ok(selected)
    }

    fn of_folder(&self, directory: &str) -> impl Iterator<Item = &'a ContainerFacts> {
        let (directory, memory) = (folder(directory).to_owned(), self.memory);
        self.containers.values().filter(move |f| {
            !f.is_oneoff()
                && f.report.compose.as_ref().is_some_and(|c| c.project_directory == directory)
                && memory.contradiction(f).is_none()
        })
    }

    fn of_service(&self, directory: &str, service: &str) -> impl Iterator<Item = &'a ContainerFacts> {
        let service = service.to_owned();
        self.of_folder(directory).filter(move |f| f.report.compose.as_ref().is_some_and(|c| c.service == service))
    }

    /// The project of a folder, if containers of it were ever seen and the file permits it.
    fn known_project(&self, directory: &str) -> Result<&'a str, Refused> {
        let allow = self.allow;
        if let Some((project, _)) = self.memory.projects_in(directory).find(|(name, _)| allow.permits_project(name)) {
            return Ok(project);
        }
        let compose = self.of_folder(directory).next().and_then(|f| f.report.compose.as_ref());
        compose.map(|c| c.project.as_str()).ok_or_else(|| {
            let shown: String = directory.chars().take(255).collect();
            Refused::new(
                AgentRefusal::ContainerNotAllowed,
                format!(
                    "no permitted compose project of folder {shown:?} was ever seen here: list it in \
                     spec.docker.allow.composeProjects, and bring it up once by `docker compose up -d`"
                ),
            )
        })
    }

    fn known_service(&self, of: &ComposeService) -> Result<ComposeOrigin, Refused> {
        let project = self.known_project(&of.project_directory)?;
        if !is_name(&of.service) {
            return Err(self.allow.refuse(&of.service));
        }
        Ok(ComposeOrigin { project: project.to_owned(), service: of.service.clone() })
    }
}

fn number(facts: &ContainerFacts) -> u32 {
    facts.report.compose.as_ref().map_or(0, |c| c.number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::docker::{allow::tests::permitting, facts::tests::inspection};

    fn facts(id: &str, service: &str) -> ContainerFacts {
        ContainerFacts::read(inspection(id, service, json!({"Status": "running"}))).unwrap()
    }

    struct Known {
        allow: Allow,
        containers: BTreeMap<String, ContainerFacts>,
        memory: ContainerRecords,
    }

    impl Known {
        /// `db` and `nightly` were seen; `nightly` is gone.
        fn new() -> Self {
            let mut memory = ContainerRecords::default();
            memory.learn(&facts("b2", "nightly"), &BTreeMap::new());
            memory.learn(&facts("a1", "db"), &BTreeMap::new());
            Self {
                allow: permitting("knowledge", "proxy"),
                containers: BTreeMap::from([("a1".to_owned(), facts("a1", "db"))]),
                memory,
            }
        }

        fn world(&self) -> ContainerInventory<'_> {
            ContainerInventory { allow: &self.allow, containers: &self.containers, memory: &self.memory }
        }

        fn select(&self, selector: serde_json::Value) -> Result<(Vec<String>, Vec<String>), AgentRefusal> {
            let selector = serde_json::from_value(selector).unwrap();
            let world = self.world();
            let selected = world.select(&selector).map_err(|r| r.reason)?;
            let here = selected.here.iter().map(|f| f.report.name.clone()).collect();
            Ok((here, selected.missing.iter().map(|t| t.name().to_owned()).collect()))
        }
    }

    #[test]
    fn what_is_not_permitted_is_refused_and_what_is_gone_is_missing() {
        let known = Known::new();
        let none = Vec::<String>::new;
        let db = || vec!["knowledge-db-1".to_owned()];
        let compose =
            |dir: &str, services: &[&str]| json!({"compose": {"projectDirectory": dir, "services": services}});
        for (selector, expected) in [
            (json!({"names": ["knowledge-db-1"]}), Ok((db(), none()))),
            (json!({"names": ["proxy"]}), Ok((none(), vec!["proxy".to_owned()]))),
            (json!({"names": ["knowledge-nightly-1"]}), Ok((none(), vec!["knowledge-nightly-1".to_owned()]))),
            (json!({"names": ["knowledge-other-1"]}), Err(AgentRefusal::ContainerNotAllowed)),
            (json!({"names": ["a1"]}), Err(AgentRefusal::ContainerNotAllowed)),
            (json!({"names": ["/knowledge-db-1"]}), Err(AgentRefusal::ContainerNotAllowed)),
            (json!({"names": ["proxy/../x"]}), Err(AgentRefusal::ContainerNotAllowed)),
            (json!({"labels": {}}), Err(AgentRefusal::BadRequest)),
            (json!({"labels": {"com.docker.compose.service": "db"}}), Ok((db(), none()))),
            (json!({"labels": {"a": "b"}}), Ok((none(), none()))),
            (compose("/srv/knowledge", &["db", "nightly"]), Ok((db(), vec!["nightly".to_owned()]))),
            (compose("/srv/knowledge/", &[]), Ok((db(), none()))),
            (compose("/srv/other", &["db"]), Err(AgentRefusal::ContainerNotAllowed)),
            (compose("/srv/knowledge/../other", &["db"]), Err(AgentRefusal::ContainerNotAllowed)),
        ] {
            assert_eq!(known.select(selector.clone()), expected, "{selector}");
        }
    }

    #[test]
    fn a_missing_container_is_traced_to_the_service_that_it_was() {
        let known = Known::new();
        let made = ComposeOrigin { project: "knowledge".into(), service: "nightly".into() };
        let by_service = ContainerTarget::Service(ComposeService {
            project_directory: "/srv/knowledge".into(),
            files: Vec::new(),
            service: "nightly".into(),
        });
        for target in [ContainerTarget::Name("knowledge-nightly-1".into()), by_service] {
            assert_eq!(known.world().find(&target).unwrap(), ContainerMatch::Missing(Some(made.clone())), "{target:?}");
        }
        assert_eq!(known.world().find(&ContainerTarget::Name("proxy".into())).unwrap(), ContainerMatch::Missing(None));
    }
}

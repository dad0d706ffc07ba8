//! What a request needs to be allowed: as Kubernetes' RBAC says it, so that roles of a cluster decide.

use std::collections::HashMap;

use crate::api::Kind;

/// A verb on a resource of the group `ostler.dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub verb: &'static str,
    pub resource: String,
    pub subresource: Option<&'static str>,
    /// `None`: in all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
}

/// How a route's access follows from its path and query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Needs no token: health, metrics, the API's description.
    Open,
    /// A verb on the `{kind}` of the path.
    OfPath(&'static str),
    /// A verb on backends, in the query's namespace or in all.
    OfBackends(&'static str),
    /// A verb on the `{agent}` of the path, or on its services.
    OfAgent(&'static str, Option<&'static str>),
    /// A verb on the calls of callers, in the query's namespace or in all.
    OfCalls(&'static str),
    /// A verb on tasks, in the query's namespace or in all.
    OfTasks(&'static str),
    /// A verb on tasks in the query's namespace, or in `default`.
    OfNewTasks(&'static str),
    /// `update` of tasks as for [`Self::OfTasks`], or a claim token that the handler proves.
    OfClaim,
    /// A verb on the whole installation, under a name that no kind has.
    OfAll(&'static str, &'static str),
}

impl Rule {
    /// `None`: open to everybody.
    pub fn access(self, path: &HashMap<String, String>, query_namespace: Option<&str>) -> Option<Access> {
        let namespace = || path.get("namespace").cloned().or(query_namespace.map(str::to_owned));
        let access = |verb, resource, namespace, name| Access { verb, resource, subresource: None, namespace, name };
        let tasks = |verb, namespace| Access {
            subresource: Some("tasks"),
            ..access(verb, Kind::TaskQueue.plural().to_owned(), namespace, None)
        };
        Some(match self {
            Self::Open => return None,
            Self::OfPath(verb) => {
                let kind = path.get("kind").map_or("", String::as_str);
                let plural = Kind::find(kind).map_or(kind, |k| k.plural()).to_owned();
                access(verb, plural, namespace(), path.get("name").cloned())
            }
            Self::OfBackends(verb) => access(verb, Kind::LLMBackend.plural().to_owned(), namespace(), None),
            Self::OfAgent(verb, subresource) => {
                let namespace = namespace().unwrap_or_else(|| super::services::DEFAULT_NAMESPACE.to_owned());
                let of = access(verb, Kind::HostAgent.plural().to_owned(), Some(namespace), path.get("agent").cloned());
                Access { subresource, ..of }
            }
            Self::OfCalls(verb) => Access {
                subresource: Some("calls"),
                ..access(verb, Kind::Caller.plural().to_owned(), namespace(), None)
            },
            Self::OfTasks(verb) => tasks(verb, namespace()),
            Self::OfClaim => tasks("update", namespace()),
            Self::OfNewTasks(verb) => {
                tasks(verb, Some(namespace().unwrap_or_else(|| super::services::DEFAULT_NAMESPACE.to_owned())))
            }
            Self::OfAll(verb, resource) => access(verb, resource.to_owned(), None, None),
        })
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(subresource) = self.subresource {
            write!(f, "/{subresource}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}")?,
            None => write!(f, " everywhere")?,
        }
        self.name.as_ref().map_or(Ok(()), |name| write!(f, ": {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(parts: &[(&str, &str)]) -> HashMap<String, String> {
        parts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn each_rule_asks_for_what_its_route_touches() {
        let one = path(&[("kind", "llm"), ("namespace", "team"), ("name", "mlx")]);
        let agent = path(&[("agent", "mac"), ("service", "ollama")]);
        let cases = [
            (Rule::OfPath("patch"), &one, None, "patch llmbackends in team: mlx"),
            (Rule::OfPath("list"), &path(&[("kind", "hostagents")]), None, "list hostagents everywhere"),
            (Rule::OfPath("list"), &path(&[("kind", "ha")]), Some("team"), "list hostagents in team"),
            (Rule::OfPath("list"), &path(&[("kind", "pods")]), None, "list pods everywhere"),
            (Rule::OfBackends("list"), &path(&[]), None, "list llmbackends everywhere"),
            (Rule::OfBackends("list"), &path(&[]), Some("team"), "list llmbackends in team"),
            (Rule::OfAgent("update", Some("services")), &agent, None, "update hostagents/services in default: mac"),
            (Rule::OfAgent("get", None), &agent, Some("team"), "get hostagents in team: mac"),
            (Rule::OfTasks("get"), &path(&[("id", "7")]), None, "get taskqueues/tasks everywhere"),
            (Rule::OfTasks("delete"), &path(&[]), Some("team"), "delete taskqueues/tasks in team"),
            (Rule::OfNewTasks("create"), &path(&[]), None, "create taskqueues/tasks in default"),
            (Rule::OfClaim, &path(&[("id", "7")]), Some("team"), "update taskqueues/tasks in team"),
            (Rule::OfAll("create", "pauses"), &path(&[]), None, "create pauses everywhere"),
        ];
        for (rule, path, namespace, expected) in cases {
            assert_eq!(rule.access(path, namespace).unwrap().to_string(), expected);
        }
        assert_eq!(Rule::Open.access(&path(&[]), None), None);
    }
}

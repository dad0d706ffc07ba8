//! Who asks, and whether they may: the data folder's token on a laptop, the API server's reviews in a cluster.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::api::{Api, PostParams};
use rand::RngCore;
use sha2::Sha256;
use tokio::sync::Semaphore;

use crate::api::{GROUP, Kind};

/// Who asks, by the name that holds and journals show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person(pub String);

/// Why somebody is not let in.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq, strum::IntoStaticStr)]
pub enum AuthError {
    #[error("no token was sent")]
    NoToken,
    #[error("the token is not valid here")]
    BadToken,
    #[error("not allowed: {0}")]
    Forbidden(String),
    #[error("nobody can say whether this is allowed: {0}")]
    #[strum(serialize = "AuthorizationUnavailable")]
    Unavailable(String),
}

/// Decides about a request.
#[async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(&self, token: &str, access: &Access) -> Result<Person, AuthError>;
}

/// One token that may do everything: that of a data folder.
pub struct TokenAuthorizer {
    key: [u8; 32],
    expected: Vec<u8>,
    person: String,
}

impl TokenAuthorizer {
    /// `person` is whom the token belongs to: the user that runs the process.
    pub fn new(token: &str, person: impl Into<String>) -> Self {
        let mut key = [0; 32];
        rand::rng().fill_bytes(&mut key);
        let expected = keyed(&key, token).finalize().into_bytes().to_vec();
        Self { key, expected, person: person.into() }
    }
}

impl fmt::Debug for TokenAuthorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenAuthorizer(..)")
    }
}

#[async_trait]
impl Authorizer for TokenAuthorizer {
    async fn authorize(&self, token: &str, _access: &Access) -> Result<Person, AuthError> {
        // Comparing codes under a key of this process takes the same time whatever the token is.
        match keyed(&self.key, token).verify_slice(&self.expected) {
            Ok(()) => Ok(Person(self.person.clone())),
            Err(_) => Err(AuthError::BadToken),
        }
    }
}

fn keyed(key: &[u8; 32], token: &str) -> Hmac<Sha256> {
    // HMAC takes keys of any length, so this can't fail.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(token.as_bytes());
    mac
}

/// Asks the API server whose token it is (TokenReview) and what they may do (SubjectAccessReview).
#[derive(Clone)]
pub struct KubeAuthorizer {
    client: kube::Client,
    /// Reviews at once: whoever sends made-up tokens is not to keep the API server busy.
    reviews: Arc<Semaphore>,
}

const MOST_REVIEWS: usize = 16;
const REVIEWED_WITHIN: Duration = Duration::from_secs(10);

impl KubeAuthorizer {
    pub fn new(client: kube::Client) -> Self {
        Self { client, reviews: Arc::new(Semaphore::new(MOST_REVIEWS)) }
    }

    async fn review(&self, token: &str) -> Result<UserInfo, AuthError> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let answer = Api::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| AuthError::Unavailable(format!("TokenReview: {e}")))?;
        let status = answer.status.unwrap_or_default();
        match status.user {
            Some(user) if status.authenticated == Some(true) => Ok(user),
            _ => Err(AuthError::BadToken),
        }
    }
}

#[async_trait]
impl Authorizer for KubeAuthorizer {
    async fn authorize(&self, token: &str, access: &Access) -> Result<Person, AuthError> {
        let reviewed = async {
            let _turn = self.reviews.acquire().await;
            self.reviewed(token, access).await
        };
        let late = || AuthError::Unavailable(format!("no review within {} s", REVIEWED_WITHIN.as_secs()));
        tokio::time::timeout(REVIEWED_WITHIN, reviewed).await.unwrap_or_else(|_| Err(late()))
    }
}

impl KubeAuthorizer {
    async fn reviewed(&self, token: &str, access: &Access) -> Result<Person, AuthError> {
        let user = self.review(token).await?;
        let name = user.username.clone().unwrap_or_default();
        let answer = Api::all(self.client.clone())
            .create(&PostParams::default(), &access_review(user, access))
            .await
            .map_err(|e| AuthError::Unavailable(format!("SubjectAccessReview: {e}")))?;
        match answer.status {
            Some(status) if status.allowed => Ok(Person(name)),
            _ => Err(AuthError::Forbidden(format!("{name} may not {access}"))),
        }
    }
}

fn access_review(user: UserInfo, access: &Access) -> SubjectAccessReview {
    let Access { verb, resource, subresource, namespace, name } = access;
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            groups: user.groups,
            uid: user.uid,
            extra: user.extra,
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                verb: Some((*verb).to_owned()),
                resource: Some(resource.clone()),
                subresource: subresource.map(str::to_owned),
                namespace: namespace.clone(),
                name: name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

/// A verb on a resource of the group `ostler.dev`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

    fn access() -> Access {
        Access {
            verb: "update",
            resource: "hostagents".into(),
            subresource: Some("services"),
            namespace: Some("team".into()),
            name: Some("mac".into()),
        }
    }

    #[tokio::test]
    async fn only_the_very_token_is_let_in() {
        let door = TokenAuthorizer::new("correct horse", "ada");
        assert_eq!(door.authorize("correct horse", &access()).await, Ok(Person("ada".into())));
        for wrong in ["", "correct", "correct horsf", "correct horse "] {
            assert_eq!(door.authorize(wrong, &access()).await, Err(AuthError::BadToken), "{wrong:?}");
        }
        assert_eq!(format!("{door:?}"), "TokenAuthorizer(..)");
    }

    #[test]
    fn the_review_asks_for_this_access_and_this_user_with_their_groups() {
        let user = UserInfo {
            username: Some("ada".into()),
            groups: Some(vec!["staff".into()]),
            uid: Some("7".into()),
            extra: None,
        };
        let spec = access_review(user, &access()).spec;
        assert_eq!((spec.user.as_deref(), spec.groups), (Some("ada"), Some(vec!["staff".into()])));
        let asked = spec.resource_attributes.unwrap();
        assert_eq!(asked.group.as_deref(), Some("ostler.dev"));
        assert_eq!((asked.verb.as_deref(), asked.resource.as_deref()), (Some("update"), Some("hostagents")));
        assert_eq!((asked.subresource.as_deref(), asked.namespace.as_deref()), (Some("services"), Some("team")));
    }

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

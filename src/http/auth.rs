//! Who asks, and whether they may: the data folder's token on a laptop, the API server's reviews in a cluster.

use std::{fmt, sync::Arc, time::Duration};

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

use super::Access;
use crate::api::GROUP;

/// Who asks, by the name that holds and journals show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person(pub String);

/// Why somebody is not let in.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AuthError {
    #[error("no token was sent")]
    NoToken,
    #[error("the token is not valid here")]
    BadToken,
    #[error("not allowed: {0}")]
    Forbidden(String),
    #[error("nobody can say whether this is allowed: {0}")]
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
}

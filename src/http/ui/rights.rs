//! What a session may do. The answers of an API server are remembered for some seconds: every look of a page asks.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::session::{UiGrant, hashed};
use crate::http::{Access, AuthError, Authorizer, Person};

const ALLOWED_LASTS: Duration = Duration::from_secs(30);
const REFUSED_LASTS: Duration = Duration::from_secs(5);
const MOST_KNOWN: usize = 2_000;
/// Verbs of a session that may only look.
const READING: [&str; 3] = ["get", "list", "watch"];

type Answers = HashMap<([u8; 32], Access), (Instant, Result<Person, AuthError>)>;

#[derive(Clone)]
pub struct UiRights {
    authorizer: Arc<dyn Authorizer>,
    answers: Arc<Mutex<Answers>>,
}

impl UiRights {
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer, answers: Arc::default() }
    }

    /// Who it is, if that person may do this in this session.
    pub async fn check(&self, grant: &UiGrant, access: &Access) -> Result<Person, AuthError> {
        if !grant.operate && !READING.contains(&access.verb) {
            return Err(AuthError::Forbidden(format!("{} signed in to look only", grant.person)));
        }
        // Only a folder makes sessions without a token: whoever had its own may do everything.
        let Some(token) = &grant.token else { return Ok(Person(grant.person.clone())) };
        let question = (hashed(token), access.clone());
        if let Some(known) = self.known(&question) {
            return known;
        }
        let answer = self.authorizer.authorize(token, access).await;
        if !matches!(answer, Err(AuthError::Unavailable(_))) {
            let mut answers = self.answers.lock();
            if answers.len() >= MOST_KNOWN {
                answers.retain(|_, (at, answer)| at.elapsed() < lasts(answer));
            }
            if answers.len() < MOST_KNOWN {
                answers.insert(question, (Instant::now(), answer.clone()));
            }
        }
        answer
    }

    /// For whether a button is shown.
    pub async fn may(&self, grant: &UiGrant, access: &Access) -> bool {
        self.check(grant, access).await.is_ok()
    }

    fn known(&self, question: &([u8; 32], Access)) -> Option<Result<Person, AuthError>> {
        let answers = self.answers.lock();
        let (at, answer) = answers.get(question)?;
        (at.elapsed() < lasts(answer)).then(|| answer.clone())
    }
}

fn lasts(answer: &Result<Person, AuthError>) -> Duration {
    if answer.is_ok() { ALLOWED_LASTS } else { REFUSED_LASTS }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl Authorizer for Counting {
        async fn authorize(&self, token: &str, access: &Access) -> Result<Person, AuthError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match (token, access.verb) {
                ("lost", _) => Err(AuthError::Unavailable("away".into())),
                (_, "list") => Ok(Person(token.to_owned())),
                _ => Err(AuthError::Forbidden("no".into())),
            }
        }
    }

    fn access(verb: &'static str) -> Access {
        Access { verb, resource: "llmbackends".into(), subresource: None, namespace: None, name: None }
    }

    fn grant(token: Option<&str>, operate: bool) -> UiGrant {
        UiGrant { person: "ada".into(), token: token.map(str::to_owned), operate }
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_once_and_what_nobody_could_say_again() {
        let authorizer = Arc::new(Counting::default());
        let rights = UiRights::new(Arc::clone(&authorizer) as _);
        for (token, verb, asked, allowed) in [
            ("ada", "list", 1, true),
            ("ada", "list", 1, true),
            ("ada", "patch", 2, false),
            ("ada", "patch", 2, false),
            ("bob", "list", 3, true),
            ("lost", "list", 4, false),
            ("lost", "list", 5, false),
        ] {
            assert_eq!(rights.may(&grant(Some(token), true), &access(verb)).await, allowed, "{token} {verb}");
            assert_eq!(authorizer.0.load(Ordering::Relaxed), asked, "{token} {verb}");
        }
    }

    #[tokio::test]
    async fn whoever_signed_in_to_look_changes_nothing() {
        let rights = UiRights::new(Arc::new(Counting::default()));
        for token in [None, Some("ada")] {
            assert!(rights.may(&grant(token, false), &access("list")).await);
            for verb in ["create", "update", "patch", "delete"] {
                let refused = rights.check(&grant(token, false), &access(verb)).await;
                assert_eq!(refused, Err(AuthError::Forbidden("ada signed in to look only".into())));
            }
        }
        assert!(rights.may(&grant(None, true), &access("patch")).await);
    }
}

//! What comes after an attempt that failed before the first byte of its answer. Pure.

use std::collections::BTreeSet;

use crate::{engines::Failure, protocols::RefusalReason};

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing was sent.
    Unsent(Failure),
    /// The slot was taken away, or may have lapsed.
    SlotLost,
    /// It was sent, and no byte of an answer came.
    Silent(Failure),
    /// The engine answered with a status that refuses.
    Refused { status: u16, failure: Failure },
}

/// What was tried for one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Tried {
    /// Servers that are not asked again, by URL.
    excluded: BTreeSet<String>,
    silent: u32,
    failed: u32,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another server, or the same once it is well again.
    Again,
    /// The engine's answer, with this status.
    PassOn(u16),
    Refuse(RefusalReason, String),
}

impl Tried {
    pub fn excludes(&self, server_url: &str) -> bool {
        self.excluded.contains(server_url)
    }

    /// Takes in how an attempt at a server failed.
    pub fn next(&mut self, server_url: &str, trouble: &Trouble) -> Next {
        match trouble {
            Trouble::Unsent(Failure::Misconfigured(_)) => self.elsewhere(server_url),
            Trouble::Unsent(_) | Trouble::SlotLost => Next::Again,
            Trouble::Silent(failure) => {
                self.silent += 1;
                if self.silent < 2 {
                    return Next::Again;
                }
                let reason = match failure {
                    Failure::Timeout { .. } => RefusalReason::EngineSilent,
                    _ => RefusalReason::EngineFailed,
                };
                let why = format!(
                    "two engines in turn gave no answer to this request, which may be its own doing: {failure}"
                );
                Next::Refuse(reason, why)
            }
            Trouble::Refused { status, failure } => self.refused(server_url, *status, failure),
        }
    }

    fn refused(&mut self, server_url: &str, status: u16, failure: &Failure) -> Next {
        match failure {
            // The server is left alone for a moment, and waited for.
            Failure::RateLimited { .. } | Failure::Busy { .. } | Failure::Loading { .. } => Next::Again,
            // mlx_lm answers any exception with 404.
            Failure::ServerError { status: 404, .. } => Next::PassOn(400),
            Failure::ServerError { .. }
            | Failure::OutOfMemory { .. }
            | Failure::CannotLoad { .. }
            | Failure::ModelTooLarge { .. } => {
                self.failed += 1;
                if self.failed < 2 { self.elsewhere(server_url) } else { Next::PassOn(status) }
            }
            Failure::ModelMissing { .. }
            | Failure::PromptTooLong { .. }
            | Failure::Unauthorized { .. }
            | Failure::Misconfigured(_) => self.elsewhere(server_url),
            _ => Next::PassOn(status),
        }
    }

    fn elsewhere(&mut self, server_url: &str) -> Next {
        self.excluded.insert(server_url.to_owned());
        Next::Again
    }
}

/// What whoever asked is told when there is no other server to ask.
pub(super) fn last(trouble: &Trouble) -> Next {
    match trouble {
        Trouble::Refused { failure: Failure::Unauthorized { .. }, .. } => {
            let why = "the server wants other credentials: see its LLMBackend's authSecretRef";
            Next::Refuse(RefusalReason::Unavailable, why.to_owned())
        }
        Trouble::Refused { failure: failure @ Failure::Misconfigured(_), .. }
        | Trouble::Unsent(failure)
        | Trouble::Silent(failure) => Next::Refuse(RefusalReason::EngineFailed, failure.to_string()),
        Trouble::Refused { status, .. } => Next::PassOn(*status),
        Trouble::SlotLost => {
            Next::Refuse(RefusalReason::Unavailable, "the server is being recovered: try again".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONE: &str = "http://one";

    fn refused(status: u16, failure: Failure) -> Trouble {
        Trouble::Refused { status, failure }
    }

    /// What comes after the same trouble once, and after it twice; whether the server is asked again; what the last word is.
    #[test]
    fn each_failure_is_tried_as_often_as_it_may_be() {
        let detail = || "why".to_owned();
        let (again, pass) = (Next::Again, Next::PassOn);
        let after = Duration::from_secs(1);
        for (trouble, once, twice, excluded, end) in [
            (Trouble::Unsent(Failure::Refused), &again, &again, false, "refused"),
            (Trouble::Unsent(Failure::Misconfigured(detail())), &again, &again, true, "no such API"),
            (Trouble::SlotLost, &again, &again, false, "being recovered"),
            (refused(429, Failure::RateLimited { retry_after: None }), &again, &again, false, "429"),
            (refused(503, Failure::Busy { detail: detail() }), &again, &again, false, "503"),
            (refused(500, Failure::ServerError { status: 500, detail: detail() }), &again, &pass(500), true, "500"),
            (refused(500, Failure::OutOfMemory { detail: detail() }), &again, &pass(500), true, "500"),
            (refused(404, Failure::ModelMissing { detail: detail() }), &again, &again, true, "404"),
            (
                refused(404, Failure::ServerError { status: 404, detail: detail() }),
                &pass(400),
                &pass(400),
                false,
                "404",
            ),
            (refused(400, Failure::PromptTooLong { detail: detail() }), &again, &again, true, "400"),
            (refused(401, Failure::Unauthorized { status: 401 }), &again, &again, true, "other credentials"),
            (refused(302, Failure::Misconfigured(detail())), &again, &again, true, "no such API"),
            (refused(422, Failure::Rejected { status: 422, detail: detail() }), &pass(422), &pass(422), false, "422"),
        ] {
            let mut tried = Tried::default();
            assert_eq!(&tried.next(ONE, &trouble), once, "{trouble:?}");
            assert_eq!(tried.excludes(ONE), excluded, "{trouble:?}");
            assert_eq!(&tried.next("http://two", &trouble), twice, "{trouble:?}");
            assert!(!tried.excludes("http://three"));
            let said = match last(&trouble) {
                Next::PassOn(status) => status.to_string(),
                Next::Refuse(_, why) => why,
                Next::Again => panic!("{trouble:?}: the last word"),
            };
            assert!(said.contains(end), "{trouble:?}: {said}");
        }
        let mut tried = Tried::default();
        let (reset, silence) = (
            Trouble::Silent(Failure::Reset { tokens_seen: 0 }),
            Trouble::Silent(Failure::Timeout { after, tokens_seen: 0 }),
        );
        assert_eq!(tried.next(ONE, &reset), Next::Again);
        assert!(!tried.excludes(ONE), "it is asked again once it is well");
        let Next::Refuse(reason, why) = tried.next(ONE, &silence) else { panic!("the request is suspected") };
        assert_eq!(reason, RefusalReason::EngineSilent);
        assert!(why.contains("its own doing"), "{why}");
        assert_eq!(
            RefusalReason::EngineFailed,
            match tried.next(ONE, &reset) {
                Next::Refuse(reason, _) => reason,
                other => panic!("{other:?}"),
            }
        );
    }
}

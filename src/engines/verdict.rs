use std::time::Duration;

use strum::IntoStaticStr;

use super::{Listing, PathReply};

/// What one probe, over all its paths, says about a server.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
pub enum ProbeVerdict {
    /// Reachable, and these are its models (none: the wrong user, or nothing pulled yet).
    Models(Listing),
    /// Reachable, but no path proved the models: one inference decides. `bad_body`: a listing answered 200 with a body that
    /// is none, which is the cause to name should the inference fail as well.
    NeedsInference {
        bad_body: bool,
    },
    /// A configuration error: no restart can help.
    Unauthorized {
        status: u16,
    },
    /// Alive; ask again after `retry_after`.
    RateLimited {
        retry_after: Option<Duration>,
    },
    /// Alive, and says that it has too much to do.
    Busy,
    /// Alive, and reads its model.
    Loading,
    /// Failures from here on.
    ServerError {
        status: u16,
    },
    Refused,
    Reset,
    Timeout,
    /// No packet reaches the host.
    Unreachable(String),
    /// Something answers, but no API of this kind: TLS, a redirect, an HTML page.
    Misconfigured(String),
}

impl ProbeVerdict {
    /// Whether it counts towards the failure threshold.
    pub fn is_failure(&self) -> bool {
        match self {
            ProbeVerdict::Models(_)
            | ProbeVerdict::NeedsInference { .. }
            | ProbeVerdict::Unauthorized { .. }
            | ProbeVerdict::RateLimited { .. }
            | ProbeVerdict::Busy
            | ProbeVerdict::Loading => false,
            ProbeVerdict::ServerError { .. }
            | ProbeVerdict::Refused
            | ProbeVerdict::Reset
            | ProbeVerdict::Timeout
            | ProbeVerdict::Unreachable(_)
            | ProbeVerdict::Misconfigured(_) => true,
        }
    }

    /// Whether death shows at once, so that asking again within a second is worth it.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ProbeVerdict::Refused | ProbeVerdict::Reset)
    }
}

/// Folds the replies of the paths asked, in the order asked. The first conclusive one decides; a 404, an unparsable body
/// and a mere 200 pass the question on. Without a conclusive one the server is reachable and an inference must decide.
pub fn fold_paths(replies: &[PathReply]) -> ProbeVerdict {
    let Some(decisive) = replies.iter().find(|reply| reply.is_conclusive()) else {
        return ProbeVerdict::NeedsInference { bad_body: replies.contains(&PathReply::BadBody) };
    };
    match decisive.clone() {
        PathReply::Models(listing) => ProbeVerdict::Models(listing),
        PathReply::Unauthorized(status) => ProbeVerdict::Unauthorized { status },
        PathReply::RateLimited { retry_after } => ProbeVerdict::RateLimited { retry_after },
        PathReply::Busy => ProbeVerdict::Busy,
        PathReply::Loading => ProbeVerdict::Loading,
        PathReply::ServerError(status) => ProbeVerdict::ServerError { status },
        PathReply::Refused => ProbeVerdict::Refused,
        PathReply::Reset => ProbeVerdict::Reset,
        PathReply::Timeout => ProbeVerdict::Timeout,
        PathReply::Unreachable(why) => ProbeVerdict::Unreachable(why),
        PathReply::Misconfigured(why) => ProbeVerdict::Misconfigured(why),
        PathReply::NotFound | PathReply::BadBody | PathReply::ReachableOnly => {
            ProbeVerdict::NeedsInference { bad_body: replies.contains(&PathReply::BadBody) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathReply::{BadBody, NotFound, ReachableOnly};

    fn listed() -> PathReply {
        PathReply::Models(vec!["a".to_owned()].into())
    }

    fn undecided(bad_body: bool) -> ProbeVerdict {
        ProbeVerdict::NeedsInference { bad_body }
    }

    #[test]
    fn the_first_path_that_settles_the_matter_decides() {
        let models = || ProbeVerdict::Models(vec!["a".to_owned()].into());
        let cases = [
            (vec![listed()], models()),
            (vec![NotFound, listed()], models()),
            (vec![BadBody, listed()], models()),
            (vec![BadBody, NotFound, ReachableOnly], undecided(true)),
            (vec![BadBody], undecided(true)),
            (vec![NotFound, NotFound], undecided(false)),
            (vec![ReachableOnly, NotFound], undecided(false)),
            (vec![ReachableOnly, listed()], models()),
            (vec![], undecided(false)),
            (vec![PathReply::Refused, listed()], ProbeVerdict::Refused),
            (vec![NotFound, PathReply::Reset], ProbeVerdict::Reset),
            (vec![BadBody, PathReply::Timeout], ProbeVerdict::Timeout),
            (vec![PathReply::ServerError(500), listed()], ProbeVerdict::ServerError { status: 500 }),
            (vec![PathReply::Unauthorized(401)], ProbeVerdict::Unauthorized { status: 401 }),
            (vec![PathReply::Busy, listed()], ProbeVerdict::Busy),
            (vec![PathReply::Loading, listed()], ProbeVerdict::Loading),
            (vec![NotFound, PathReply::Unreachable("dns".into())], ProbeVerdict::Unreachable("dns".into())),
            (vec![PathReply::Misconfigured("tls".into()), listed()], ProbeVerdict::Misconfigured("tls".into())),
            (vec![PathReply::RateLimited { retry_after: None }], ProbeVerdict::RateLimited { retry_after: None }),
        ];
        for (replies, verdict) in cases {
            assert_eq!(fold_paths(&replies), verdict, "{replies:?}");
        }
    }

    #[test]
    fn a_404_is_never_down() {
        for length in 1..4 {
            assert!(!fold_paths(&vec![NotFound; length]).is_failure());
        }
    }

    #[test]
    fn what_counts_towards_the_threshold_is_a_failure() {
        let fine = [
            ProbeVerdict::Models(Listing::default()),
            ProbeVerdict::Loading,
            undecided(true),
            ProbeVerdict::Unauthorized { status: 401 },
            ProbeVerdict::RateLimited { retry_after: None },
            ProbeVerdict::Busy,
        ];
        let failed = [
            ProbeVerdict::ServerError { status: 500 },
            ProbeVerdict::Refused,
            ProbeVerdict::Reset,
            ProbeVerdict::Timeout,
            ProbeVerdict::Unreachable("dns".into()),
            ProbeVerdict::Misconfigured("tls".into()),
        ];
        assert!(fine.iter().all(|verdict| !verdict.is_failure()));
        assert!(failed.iter().all(ProbeVerdict::is_failure));
    }
}

//! What a call that got no HTTP answer, or half of one, says of a server.

use std::time::Duration;

use super::{Failure, PathReply};
use crate::net::Broken;

/// What it means for an inference or another POST.
pub(super) fn failure(broken: Broken, tokens_seen: u32, after: Duration) -> Failure {
    match broken {
        Broken::Refused => Failure::Refused,
        Broken::Reset => Failure::Reset { tokens_seen },
        Broken::Timeout => Failure::Timeout { after, tokens_seen },
        Broken::Unreachable(why) => Failure::Unreachable(why),
        Broken::TooLong(_) => Failure::BadBody { detail: broken.to_string() },
        Broken::Tls(_) | Broken::NotHttp(_) | Broken::Invalid(_) => Failure::Misconfigured(broken.to_string()),
    }
}

/// What it means for a probed path.
pub(super) fn path_reply(broken: Broken) -> PathReply {
    match broken {
        Broken::Refused => PathReply::Refused,
        Broken::Reset => PathReply::Reset,
        Broken::Timeout => PathReply::Timeout,
        Broken::Unreachable(why) => PathReply::Unreachable(why),
        Broken::TooLong(_) => PathReply::BadBody,
        Broken::Tls(_) | Broken::NotHttp(_) | Broken::Invalid(_) => PathReply::Misconfigured(broken.to_string()),
    }
}

//! The API server's answers as [`PlatformError`].

use std::{error::Error, fmt::Display, time::Duration};

use kube::core::Status;

use crate::{base::with_mend, platform::PlatformError};

/// Longest wait for an answer that isn't a watch.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How the API server says that its schema lacks a field, or a value.
const NOT_DECLARED: &str = "field not declared in schema";
const NOT_SUPPORTED: &str = "Unsupported value";

/// Waits for an answer, but not for ever: an API server that was stopped in the middle keeps its connections open.
pub async fn answer<T>(
    attempt: impl Display,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, PlatformError> {
    answer_within(TIMEOUT, attempt, call).await
}

async fn answer_within<T>(
    time: Duration,
    attempt: impl Display,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, PlatformError> {
    match tokio::time::timeout(time, call).await {
        Ok(answer) => answer.map_err(|error| classify(&attempt, &error)),
        Err(_) => Err(PlatformError::Unavailable(format!(
            "{attempt}: the API server gave no answer within {} s",
            time.as_secs_f32()
        ))),
    }
}

fn classify(attempt: &impl Display, error: &kube::Error) -> PlatformError {
    match error {
        kube::Error::Api(status) => of_status(attempt, status),
        other => PlatformError::Unavailable(format!("{attempt}: {}", causes(other))),
    }
}

fn of_status(attempt: &impl Display, status: &Status) -> PlatformError {
    let said = format!("{attempt}: {}", status.message);
    match status.code {
        409 => PlatformError::Conflict(attempt.to_string()),
        404 => PlatformError::NotFound(attempt.to_string()),
        401 | 403 => PlatformError::Forbidden(with_mend(&said)),
        // Server-side apply says 500 to a field that the schema of the CRD does not know; a new word of an enum is a 422.
        500 if status.message.contains(NOT_DECLARED) => older(attempt, status),
        422 if status.message.contains(NOT_SUPPORTED) => older(attempt, status),
        // An object of another uid: the API server calls the field immutable.
        422 if is_about_uid(status) => PlatformError::Conflict(attempt.to_string()),
        429 => PlatformError::Unavailable(said),
        code if code >= 500 => PlatformError::Unavailable(said),
        _ => PlatformError::Invalid(said),
    }
}

fn older(attempt: &impl Display, status: &Status) -> PlatformError {
    PlatformError::OlderSchema { attempt: attempt.to_string(), said: status.message.clone() }
}

fn is_about_uid(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.field == "metadata.uid")
}

/// An error with what caused it: hyper's own text is "client error (Connect)".
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Status {
        Status { code, message: "no".to_owned(), ..Status::default() }
    }

    #[test]
    fn each_answer_has_its_class() {
        let said = || "a: no".to_owned();
        for (code, class) in [
            (409, PlatformError::Conflict("a".to_owned())),
            (404, PlatformError::NotFound("a".to_owned())),
            (401, PlatformError::Forbidden(said())),
            (403, PlatformError::Forbidden(said())),
            (429, PlatformError::Unavailable(said())),
            (503, PlatformError::Unavailable(said())),
            (422, PlatformError::Invalid(said())),
            (400, PlatformError::Invalid(said())),
        ] {
            assert_eq!(of_status(&"a", &status(code)), class, "{code}");
        }
    }

    #[test]
    fn a_crd_that_lacks_what_this_release_writes_is_told_from_a_broken_server() {
        let of = |code, message: &str| {
            of_status(&"Expert a/b", &Status { code, message: message.to_owned(), ..Status::default() })
        };
        let said = "failed to create typed patch object (a/b; ostler.dev/v1alpha1, Kind=Expert): .status.x: field not declared in schema";
        let told = of(500, said).to_string();
        assert!(told.contains("older than this controller") && told.contains(said) && told.contains("apply"), "{told}");
        assert!(matches!(
            of(422, "status.state: Unsupported value: \"New\": supported values: \"Old\""),
            PlatformError::OlderSchema { .. }
        ));
        assert!(matches!(of(500, "etcd is full"), PlatformError::Unavailable(_)));
        assert!(matches!(
            of(422, "status.models: Too many: 65: must have at most 64 items"),
            PlatformError::Invalid(_)
        ));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_unavailable() {
        let never = std::future::pending::<Result<(), kube::Error>>();
        let error = answer_within(Duration::from_millis(10), "get Secret a/b", never).await.unwrap_err();
        let said = "unavailable: get Secret a/b: the API server gave no answer within 0.01 s";
        assert_eq!(error.to_string(), said);
    }
}

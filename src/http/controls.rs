//! What people set outside of manifests.

use axum::{Extension, Json, extract::State, http::StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::{
    Api, ApiError, Person, ResourceHome,
    extract::{OptionalBody, Path},
    resources::{self, Named},
    types::{Changed, PauseRequest},
};
use crate::{
    api::{Kind, ObjectKey, RUN_CONTROL},
    store::{Pause, Suspension},
};

const LONGEST_PAUSE_SECONDS: i64 = 365 * 86_400;

/// Asks for a pass over a resource now; begins a new episode where a human was asked.
#[utoipa::path(post, path = "/api/v1/{kind}/{namespace}/{name}/reconcile", params(Named),
    responses((status = 202, body = Changed), (status = 409, description = "in a cluster", body = super::ErrorReply)))]
pub(super) async fn reconcile(
    State(api): State<Api>,
    Extension(Person(by)): Extension<Person>,
    Path(named): Path<Named>,
) -> Result<(StatusCode, Json<Changed>), ApiError> {
    let (_, key) = kept_here(&api, &named, "annotate").await?;
    api.store.request_reconcile(&key, &Timestamp::now().to_string()).await?;
    api.note(key.clone(), "ReconcileRequested", format!("by {by}")).await;
    Ok((StatusCode::ACCEPTED, changed(format!("{} {} is looked at now", key.kind, key.name))))
}

/// Fires a TaskSchedule once, now, whatever its time; what it requires is still waited for.
#[utoipa::path(post, path = "/api/v1/{kind}/{namespace}/{name}/run", params(Named),
    responses((status = 202, body = Changed), (status = 400, description = "no TaskSchedule", body = super::ErrorReply),
        (status = 409, description = "in a cluster", body = super::ErrorReply)))]
pub(super) async fn run(
    State(api): State<Api>,
    Extension(Person(by)): Extension<Person>,
    Path(named): Path<Named>,
) -> Result<(StatusCode, Json<Changed>), ApiError> {
    let (kind, key) = kept_here(&api, &named, "annotate").await?;
    if kind != Kind::TaskSchedule {
        return Err(ApiError::BadRequest(format!("a {kind} is not run: name a TaskSchedule (ts/NAME)")));
    }
    let wish = ObjectKey { kind: RUN_CONTROL.to_owned(), ..key.clone() };
    api.store.request_reconcile(&wish, &Timestamp::now().to_string()).await?;
    api.note(key.clone(), "RunRequested", format!("by {by}")).await;
    Ok((StatusCode::ACCEPTED, changed(format!("TaskSchedule {} is to run, once its gate is open", key.name))))
}

/// Suspends a resource, whatever its manifest says.
#[utoipa::path(post, path = "/api/v1/{kind}/{namespace}/{name}/suspend", params(Named),
    responses((status = 200, body = Changed), (status = 409, description = "in a cluster", body = super::ErrorReply)))]
pub(super) async fn suspend(
    State(api): State<Api>,
    Extension(Person(by)): Extension<Person>,
    Path(named): Path<Named>,
) -> Result<Json<Changed>, ApiError> {
    let (kind, key) = kept_here(&api, &named, "patch spec.suspend of").await?;
    let suspension = Suspension { suspended: true, by: by.clone(), at: Timestamp::now() };
    api.store.set_suspended(&key, Some(&suspension)).await?;
    api.note(key.clone(), "Suspended", format!("by {by}")).await;
    Ok(changed(format!(
        "{} {} is suspended: {}. `ostler resume` ends it",
        key.kind,
        key.name,
        match kind {
            Kind::LLMBackend => "probing goes on, nothing else is done",
            Kind::HostAgent => "it is not asked, and nothing is healed through it",
            Kind::Expert => "it gets no more tasks",
            Kind::TaskSchedule => "it does not fire",
            Kind::ContainerHealthCheck => "its containers are neither looked at nor touched",
            Kind::TaskQueue | Kind::WorkerPool => "no more tasks are started",
            Kind::Notifier => "it sends nothing",
            Kind::Caller => "its calls are refused, and those that ran are ended",
        }
    )))
}

/// Resumes a resource, whatever its manifest says.
#[utoipa::path(post, path = "/api/v1/{kind}/{namespace}/{name}/resume", params(Named),
    responses((status = 200, body = Changed), (status = 409, description = "in a cluster", body = super::ErrorReply)))]
pub(super) async fn resume(
    State(api): State<Api>,
    Extension(Person(by)): Extension<Person>,
    Path(named): Path<Named>,
) -> Result<Json<Changed>, ApiError> {
    let (kind, key) = kept_here(&api, &named, "patch spec.suspend of").await?;
    let item = resources::find(&api, &named).await?;
    let by_manifest = item.spec.get("suspend").and_then(serde_json::Value::as_bool).unwrap_or(false);
    // Without a word in the manifest there is nothing to stand against: the person's suspension is simply taken back.
    let against = by_manifest.then(|| Suspension { suspended: false, by: by.clone(), at: Timestamp::now() });
    api.store.set_suspended(&key, against.as_ref()).await?;
    if kind == Kind::ContainerHealthCheck {
        // What a person stopped at its engine is held without any word here: this is that person's word.
        api.store.request_reconcile(&key, &Timestamp::now().to_string()).await?;
    }
    api.note(key.clone(), "Resumed", format!("by {by}")).await;
    Ok(changed(format!("{} {} is resumed", key.kind, key.name)))
}

/// Nothing acts, everywhere, until the pause ends. Probing and tasks go on.
#[utoipa::path(post, path = "/api/v1/pause", request_body = Option<PauseRequest>,
    responses((status = 200, body = Changed), (status = 400, body = super::ErrorReply)))]
pub(super) async fn pause(
    State(api): State<Api>,
    Extension(Person(by)): Extension<Person>,
    OptionalBody(body): OptionalBody<PauseRequest>,
) -> Result<Json<Changed>, ApiError> {
    let PauseRequest { for_seconds } = body.unwrap_or_default();
    let since = Timestamp::now();
    let until = for_seconds.map(|seconds| end_of_pause(since, seconds)).transpose()?;
    api.store.set_pause(Some(&Pause { since, until, by: by.clone() })).await?;
    let end = until.map_or_else(|| "until `ostler unpause`".to_owned(), |at| format!("until {}", whole_seconds(at)));
    api.note(everything(), "Paused", format!("by {by}, {end}")).await;
    Ok(changed(match until {
        Some(_) => format!("paused {end}: nothing acts. `ostler unpause` ends it sooner"),
        None => format!("paused: nothing acts {end}"),
    }))
}

/// Ends the pause.
#[utoipa::path(delete, path = "/api/v1/pause", responses((status = 200, body = Changed)))]
pub(super) async fn unpause(
    State(api): State<Api>,
    Extension(Person(by)): Extension<Person>,
) -> Result<Json<Changed>, ApiError> {
    let was = api.store.controls().await?.pause;
    api.store.set_pause(None).await?;
    if was.is_some() {
        api.note(everything(), "Unpaused", format!("by {by}")).await;
    }
    Ok(changed(if was.is_some() { "the pause is over" } else { "nothing was paused" }.to_owned()))
}

/// Ends this `ostler up` and the services that it started. They are not held: the next `up` starts them again.
#[utoipa::path(post, path = "/api/v1/down",
    responses((status = 202, body = Changed), (status = 409, description = "not an `ostler up`", body = super::ErrorReply)))]
pub(super) async fn down(State(api): State<Api>) -> Result<(StatusCode, Json<Changed>), ApiError> {
    let Some(down) = &api.down else {
        return Err(ApiError::NotHere {
            message: "this process is no `ostler up`".to_owned(),
            hint: "end it as it was started: in a cluster by scaling its Deployment".to_owned(),
        });
    };
    down.cancel();
    Ok((StatusCode::ACCEPTED, changed("going down, with the services that were started here".to_owned())))
}

/// What a pause is about.
fn everything() -> ObjectKey {
    ObjectKey::new("Installation", "", "ostler")
}

fn end_of_pause(since: Timestamp, seconds: i64) -> Result<Timestamp, ApiError> {
    if !(1..=LONGEST_PAUSE_SECONDS).contains(&seconds) {
        return Err(ApiError::BadRequest(format!(
            "forSeconds is {seconds}: write 1 to {LONGEST_PAUSE_SECONDS}, or leave it out for a pause without an end"
        )));
    }
    since.checked_add(SignedDuration::from_secs(seconds)).map_err(|e| ApiError::BadRequest(e.to_string()))
}

/// The key of a resource that exists, where such things are kept in the store.
async fn kept_here(api: &Api, named: &Named, what_instead: &str) -> Result<(Kind, ObjectKey), ApiError> {
    let kind = resources::known(&named.kind)?;
    if api.home == ResourceHome::Cluster {
        let Named { namespace, name, .. } = named;
        return Err(ApiError::NotHere {
            message: format!("{} {namespace}/{name} lives in a cluster, whose API server keeps this", kind),
            hint: format!(
                "{what_instead} {}/{name} with kubectl, or use `ostler --kube`, which does so by your kubeconfig",
                kind.singular()
            ),
        });
    }
    resources::find(api, named).await?;
    Ok((kind, ObjectKey::new(kind, &named.namespace, &named.name)))
}

pub(super) fn whole_seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn changed(message: String) -> Json<Changed> {
    Json(Changed { message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_has_an_end_between_a_second_and_a_year() {
        let since = Timestamp::from_second(1_000).unwrap();
        assert_eq!(end_of_pause(since, 7_200).unwrap(), Timestamp::from_second(8_200).unwrap());
        for seconds in [i64::MIN, -1, 0, LONGEST_PAUSE_SECONDS + 1, i64::MAX] {
            assert!(matches!(end_of_pause(since, seconds), Err(ApiError::BadRequest(_))), "{seconds}");
        }
    }
}

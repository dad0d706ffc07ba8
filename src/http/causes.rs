//! Causes, who takes one into their hands, the report of a span of time, and a test of a Notifier.

use axum::{Extension, Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, ApiError, Changed, Person, TimeOrDuration,
    controls::whole_seconds,
    extract::{JsonBody, Path, Query},
    resources::{InNamespace, Named, known},
    status::Level,
};
use crate::{
    api::{Kind, Notifier, ObjectKey},
    causes::{Acknowledgment, CauseClass, CauseSeverity, KnownCause, Letter, NightReport, named, night},
    notify::{Courier, SendError},
    platform::Secrets,
};

/// Who says nothing has it in their hands for a working day.
const USUAL_SECONDS: i64 = 8 * 3600;
const MOST_SECONDS: i64 = 30 * 86_400;
/// A report without `since` tells of a night.
const NIGHT: SignedDuration = SignedDuration::from_hours(12);
/// How far back causes are kept.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A cause, with what people said of it.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CauseView {
    /// `LLMBackend/default/mlx/Down`
    pub key: String,
    pub severity: CauseSeverity,
    pub class: CauseClass,
    pub title: String,
    pub evidence: String,
    pub tried: Vec<String>,
    pub next: String,
    /// What is unhealthy because of it: the first 200, and how many.
    pub members: Vec<String>,
    pub affected: usize,
    /// Tasks that wait because of it.
    pub waiting: i64,
    pub since: Timestamp,
    pub opened_at: Timestamp,
    pub resolved_at: Option<Timestamp>,
    /// It is a symptom of this one.
    pub folded_into: Option<String>,
    pub times: u32,
    pub acknowledged: Option<Acknowledgment>,
}

impl CauseView {
    /// As lines of resources have it.
    pub fn level(&self) -> Level {
        if self.severity == CauseSeverity::Critical { Level::Bad } else { Level::Warning }
    }

    pub(super) fn of(known: &KnownCause, namespace: Option<&str>) -> Self {
        let cause = known.cause.within(namespace);
        Self {
            key: cause.key,
            severity: cause.severity,
            class: cause.class,
            title: cause.title,
            evidence: cause.evidence,
            tried: cause.tried,
            next: cause.next,
            members: cause.members.iter().map(named).collect(),
            affected: cause.member_count,
            waiting: cause.waiting,
            since: cause.since,
            opened_at: cause.opened_at,
            resolved_at: cause.resolved_at,
            folded_into: cause.folded_into,
            times: cause.times,
            acknowledged: known.acknowledged.clone().filter(|_| cause.resolved_at.is_none()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CauseList {
    /// The server's time, for ages.
    pub now: Timestamp,
    /// Worst first.
    pub items: Vec<CauseView>,
}

/// Body of `POST /api/v1/causes/acknowledge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcknowledgeRequest {
    /// Its key, or the object that it is about: `LLMBackend/default/mlx/Down`, `llm/mlx` or `host/mac.lan`.
    #[schema(max_length = 1024)]
    pub cause: String,
    /// For how long it is not repeated; absent: eight hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub for_seconds: Option<i64>,
}

/// Which span of time.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    pub namespace: Option<String>,
    /// Since when; a duration is one before now. Absent: 12 hours.
    pub since: Option<TimeOrDuration>,
}

/// Causes that are open and no symptom of another one, worst first.
#[utoipa::path(get, path = "/api/v1/causes", params(InNamespace), responses((status = 200, body = CauseList)))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(query): Query<InNamespace>,
) -> Result<Json<CauseList>, ApiError> {
    let now = Timestamp::now();
    Ok(Json(CauseList { now, items: open(&api, query.namespace.as_deref(), now).await? }))
}

/// Those that stand for themselves.
pub(super) async fn open(api: &Api, namespace: Option<&str>, now: Timestamp) -> Result<Vec<CauseView>, ApiError> {
    let known = api.store.causes(now).await?;
    let roots = known.iter().filter(|known| known.cause.is_root() && known.cause.concerns(namespace));
    let mut items: Vec<CauseView> = roots.map(|known| CauseView::of(known, namespace)).collect();
    items.sort_by(|a, b| (b.severity, a.since, &a.key).cmp(&(a.severity, b.since, &b.key)));
    Ok(items)
}

/// Takes a cause into one's hands: it is not repeated until then. That it is over is told all the same.
#[utoipa::path(post, path = "/api/v1/causes/acknowledge", params(InNamespace), request_body = AcknowledgeRequest,
    responses((status = 200, body = Changed), (status = 404, body = super::ErrorReply)))]
pub(super) async fn acknowledge(
    State(api): State<Api>,
    Extension(Person(by)): Extension<Person>,
    Query(query): Query<InNamespace>,
    JsonBody(body): JsonBody<AcknowledgeRequest>,
) -> Result<Json<Changed>, ApiError> {
    let AcknowledgeRequest { cause, for_seconds } = body;
    let seconds = for_seconds.unwrap_or(USUAL_SECONDS);
    if !(1..=MOST_SECONDS).contains(&seconds) {
        return Err(ApiError::BadRequest(format!("forSeconds is {seconds}: write 1 to {MOST_SECONDS}")));
    }
    let now = Timestamp::now();
    let until = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    let open = open(&api, query.namespace.as_deref(), now).await?;
    let meant: Vec<&CauseView> = open.iter().filter(|known| is_meant(&known.key, &cause)).collect();
    let key = match meant.as_slice() {
        [one] => one.key.clone(),
        [] => return Err(ApiError::NotFound(format!("no open cause is called {cause:?}: `ostler causes` lists them"))),
        several => {
            let keys = several.iter().map(|one| one.key.as_str()).collect::<Vec<_>>().join(", ");
            return Err(ApiError::BadRequest(format!("{cause:?} may mean several causes: write one of {keys}")));
        }
    };
    if !api.store.acknowledge_cause(&key, &Acknowledgment { by: by.clone(), until }).await? {
        return Err(ApiError::NotFound(format!("cause {key} is over")));
    }
    let about = ObjectKey::new("Cause", "", key.as_str());
    api.note(about, "Acknowledged", format!("by {by}, until {}", whole_seconds(until))).await;
    Ok(Json(Changed { message: format!("{key} is not repeated until {}", whole_seconds(until)) }))
}

/// Whether a person means a cause: by its key, or by the object that it is about.
fn is_meant(key: &str, said: &str) -> bool {
    if key == said {
        return true;
    }
    let parts: Vec<&str> = key.split('/').collect();
    let same_kind =
        |kind: &str, said: &str| kind == said || Kind::find(said).is_some_and(|known| known.as_str() == kind);
    match (parts.as_slice(), said.split('/').collect::<Vec<_>>().as_slice()) {
        ([kind, namespace, name, _], [of, in_namespace, called]) => {
            same_kind(kind, of) && namespace == in_namespace && name == called
        }
        ([kind, _, name, _], [of, called]) => same_kind(kind, of) && name == called,
        ([kind, name, _], [of, called]) => kind == of && name == called,
        ([.., name, _], [called]) => name == called,
        _ => false,
    }
}

/// What happened in a span of time, in causes.
#[utoipa::path(get, path = "/api/v1/report", params(ReportQuery), responses((status = 200, body = NightReport)))]
pub(super) async fn report(
    State(api): State<Api>,
    Query(query): Query<ReportQuery>,
) -> Result<Json<NightReport>, ApiError> {
    let (now, namespace) = (Timestamp::now(), query.namespace.as_deref());
    let from = query.since.map_or(now - NIGHT, |since| since.ago(now)).max(now - KEPT).min(now);
    let known = api.store.causes(from).await?;
    let causes: Vec<_> =
        known.iter().filter(|k| k.cause.concerns(namespace)).map(|k| k.cause.within(namespace)).collect();
    Ok(Json(night(&causes, from, now)))
}

/// Sends a message to a Notifier now, or calls the URL of a Heartbeat.
#[utoipa::path(post, path = "/api/v1/{kind}/{namespace}/{name}/test", params(Named),
    responses((status = 200, body = Changed), (status = 400, description = "no Notifier, or it is not set up", body = super::ErrorReply),
        (status = 502, description = "it did not arrive", body = super::ErrorReply)))]
pub(super) async fn test(State(api): State<Api>, Path(named): Path<Named>) -> Result<Json<Changed>, ApiError> {
    let Named { kind, namespace, name } = &named;
    if known(kind)? != Kind::Notifier {
        return Err(ApiError::BadRequest(format!("a {kind} is not tested: name a Notifier (nt/NAME)")));
    }
    let all = api.platform.list(Kind::Notifier.as_str()).await?;
    let is_meant = |o: &&kube::api::DynamicObject| o.namespace().as_ref() == Some(namespace) && o.name_any() == *name;
    let object = all.iter().find(is_meant);
    let object = object.ok_or_else(|| ApiError::NotFound(format!("Notifier {namespace}/{name} does not exist")))?;
    let notifier: Notifier = object
        .clone()
        .try_parse()
        .map_err(|error| ApiError::BadRequest(format!("Notifier {namespace}/{name} can't be read: {error}")))?;
    // Anew, so that a Secret that was just changed counts.
    let courier = Courier::new(Secrets::new(std::sync::Arc::clone(&api.platform)), api.http.clone());
    let letter = Letter { at: Timestamp::now(), items: Vec::new() };
    match courier.send(namespace, &notifier.spec, &letter).await {
        Ok(()) => Ok(Json(Changed { message: format!("Notifier {name}: a test message arrived") })),
        Err(SendError::Setup(why)) => Err(ApiError::BadRequest(format!("Notifier {name}: {why}"))),
        Err(SendError::Refused(why) | SendError::Failed { why, .. }) => {
            Err(ApiError::NotDelivered(format!("Notifier {name}: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_named_by_its_key_or_by_what_it_is_about() {
        let key = "LLMBackend/default/mlx/Down";
        for (said, meant) in [
            (key, true),
            ("LLMBackend/default/mlx", true),
            ("llm/mlx", true),
            ("mlx", true),
            ("llm/ollama", false),
            ("ha/mlx", false),
            ("team/mlx", false),
            ("", false),
        ] {
            assert_eq!(is_meant(key, said), meant, "{said}");
        }
        assert!(is_meant("host/mac.lan/Down", "host/mac.lan") && is_meant("network/Down", "network"));
    }
}

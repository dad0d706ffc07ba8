//! All resources of a kind, and one of them.

use axum::{Extension, extract::State, response::Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{
    backend,
    bits::{self, clean, prose},
    containers,
    frame::{UiPage, UiTab},
    overview::{self, UiShown},
    queue,
    visit::UiVisit,
};
use crate::{
    api::{Condition, Kind},
    http::{
        Access, Api, ApiError, BackendLine, Event, Item, ResourceHome, ResourceLine,
        events::{self, EventQuery},
        extract::Query,
        resources::{self, Named},
        status::{Level, queue_lines},
    },
};

/// Events that stand on the page of a resource.
const EVENTS: u32 = 20;

pub async fn list(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = read_list(&api, &visit).await;
    visit.answer(page)
}

async fn read_list(api: &Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let kind = resources::known(visit.param("kind"))?;
    let items = resources::items(api, kind, visit.namespace.as_deref()).await?;
    let qualified = items.windows(2).any(|pair| pair[0].namespace() != pair[1].namespace());
    let shown = UiShown { visit, now: Timestamp::now(), qualified };
    let mut lines: Vec<(Level, Markup)> = match kind {
        Kind::TaskQueue => queue_lines(api, visit.namespace.as_deref(), &items, shown.now)
            .await?
            .iter()
            .map(|line| (line.level, overview::queue(&shown, line)))
            .collect(),
        _ => items.iter().map(|item| line(&shown, kind, item)).collect(),
    };
    lines.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let body = html! {
        h1 { (heading(kind)) }
        (kinds(visit, kind))
        @if lines.is_empty() { p.empty { "No " (kind.as_str()) " is declared" @if visit.namespace.is_some() { " in this namespace" } "." } }
        @if !lines.is_empty() { ul.lines.panel data-rows { @for (_, line) in &lines { (line) } } }
    };
    Ok(UiPage { title: heading(kind).to_owned(), tab: Some(UiTab::Resources), body })
}

fn heading(kind: Kind) -> &'static str {
    match kind {
        Kind::LLMBackend => "Backends",
        Kind::HostAgent => "Agents",
        Kind::ContainerHealthCheck => "Containers",
        Kind::Expert => "Experts",
        Kind::TaskQueue => "Queues",
        Kind::WorkerPool => "Pools",
        Kind::TaskSchedule => "Schedules",
        Kind::Caller => "Callers",
        Kind::Notifier => "Notifiers",
    }
}

fn kinds(visit: &UiVisit, current: Kind) -> Markup {
    html! {
        nav.kinds aria-label="Kinds" {
            @for kind in Kind::ALL {
                a href=(visit.link(&[kind.plural()], &[])) aria-current=[(*kind == current).then_some("page")] { (heading(*kind)) }
            }
        }
    }
}

fn line(shown: &UiShown<'_>, kind: Kind, item: &Item) -> (Level, Markup) {
    let of = |line: ResourceLine| (line.level, overview::resource(shown, kind, &line));
    match kind {
        Kind::LLMBackend => {
            let line = BackendLine::of(item, shown.now);
            (line.level, overview::backend(shown, &line))
        }
        Kind::HostAgent => of(ResourceLine::of_agent(item)),
        Kind::ContainerHealthCheck => of(ResourceLine::of_check(item, shown.now)),
        _ => of(ResourceLine::of_declared(item, shown.now)),
    }
}

pub async fn one(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = read_one(&api, &visit).await;
    visit.answer(page)
}

async fn read_one(api: &Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let kind = resources::known(visit.param("kind"))?;
    let (namespace, name) = (visit.param("namespace").to_owned(), visit.param("name").to_owned());
    let named = Named { kind: kind.plural().to_owned(), namespace: namespace.clone(), name: name.clone() };
    let item = resources::find(api, &named).await?;
    let shown = UiShown { visit, now: Timestamp::now(), qualified: false };
    let own = match kind {
        Kind::LLMBackend => backend::body(&shown, &item),
        Kind::ContainerHealthCheck => containers::body(&shown, &item),
        Kind::TaskQueue => queue::body(api, &shown, &item).await?,
        _ => html! {},
    };
    let about = EventQuery {
        kind: Some(kind.plural().to_owned()),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        limit: Some(EVENTS),
        ..EventQuery::default()
    };
    let happened = events::events(State(api.clone()), Query(about)).await?.0.items;
    let access = Access {
        verb: "patch",
        resource: kind.plural().to_owned(),
        subresource: None,
        namespace: Some(namespace),
        name: Some(name.clone()),
    };
    // In a cluster its API server keeps these wishes, and kubectl says them.
    let may_act = api.home == ResourceHome::Folder && visit.may(&access).await;
    let body = html! {
        p.back { a href=(visit.link(&[kind.plural()], &[])) { (heading(kind)) } }
        h1 { (name) " " span.kind { (kind.as_str()) " in " (item.namespace()) } }
        ul.lines.panel { (line(&shown, kind, &item).1) }
        @if may_act { (acts(visit, kind, &item)) }
        (own)
        (conditions(&shown, &item))
        (past(&shown, &happened))
        (declared("Spec", "spec", &item.spec))
        @if let Some(status) = &item.status { (declared("Status", "status", status)) }
    };
    Ok(UiPage { title: format!("{name}: {}", kind.as_str()), tab: Some(UiTab::Resources), body })
}

fn acts(visit: &UiVisit, kind: Kind, item: &Item) -> Markup {
    let suspended = match &item.live.suspension {
        Some(person) => person.suspended,
        None => item.spec.get("suspend").and_then(Value::as_bool).unwrap_or(false),
    };
    let action = |verb: &str| super::visit::link(&[kind.plural(), item.namespace(), item.name(), verb], []);
    html! {
        @if let Some(session) = &visit.session {
            div.acts {
                (bits::button(session, &action("reconcile"), &[], "Reconcile now", "act"))
                @if kind == Kind::TaskSchedule { (bits::button(session, &action("run"), &[], "Run once now", "act")) }
                @if suspended {
                    (bits::button(session, &action("resume"), &[], "Resume", "act"))
                } @else {
                    (bits::button(session, &action("suspend"), &[], "Suspend", ""))
                }
                @if let Some(person) = &item.live.suspension {
                    span.note {
                        (if person.suspended { "Suspended" } else { "Resumed" }) " by " (clean(&person.by)) ", " (bits::moment(person.at))
                    }
                }
            }
        }
    }
}

fn conditions(shown: &UiShown<'_>, item: &Item) -> Markup {
    let all = item.status.as_ref().and_then(|status| status.get("conditions")).cloned().unwrap_or_default();
    let all: Vec<Condition> = serde_json::from_value(all).unwrap_or_default();
    let rows = all.iter().map(|condition| {
        let status: &'static str = match condition.status {
            crate::api::ConditionStatus::True => "True",
            crate::api::ConditionStatus::False => "False",
            crate::api::ConditionStatus::Unknown => "Unknown",
        };
        let cells = vec![
            html! { (clean(&condition.type_)) },
            html! { (status) },
            html! { (clean(&condition.reason)) },
            html! { (prose(&condition.message)) },
            html! { (bits::since(condition.last_transition_time.0, shown.now)) },
        ];
        (format!("condition.{}", condition.type_), cells)
    });
    html! {
        @if !all.is_empty() {
            section.panel {
                h2 { "Conditions" }
                (bits::table("Conditions", &["Condition", "Status", "Reason", "Message", "Since"], rows))
            }
        }
    }
}

fn past(shown: &UiShown<'_>, events: &[Event]) -> Markup {
    html! {
        section.panel {
            h2 { "Events" }
            @if events.is_empty() { p.empty { "Nothing happened in the last 30 days." } }
            (super::events::list(shown, events))
        }
    }
}

fn declared(heading: &str, id: &str, value: &Map<String, Value>) -> Markup {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    html! { details.quiet id=(id) { summary { (heading) } pre tabindex="0" { (clean(&text)) } } }
}

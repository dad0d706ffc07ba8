//! What happened, and who did what.

use axum::{Extension, extract::State, response::Response};
use maud::{Markup, html};

use super::{
    bits::{self, clean, prose},
    frame::{UiPage, UiTab},
    overview::UiShown,
    visit::UiVisit,
};
use crate::{
    api::Kind,
    http::{
        Api, ApiError, Event,
        events::{self, EventQuery},
        extract::Query,
    },
};

/// What a page shows, unless it is asked for more.
const USUAL: u32 = 200;
/// What is offered then.
const MORE: u32 = 2_000;

pub async fn page(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = read(api, &visit).await;
    visit.answer(page)
}

async fn read(api: Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let mut which: EventQuery = visit.query_as(&["done", "count"])?;
    let limit = *which.limit.get_or_insert(USUAL);
    let (kind, name) = (which.kind.clone(), which.name.clone());
    let seen = events::events(State(api), Query(which)).await?.0;
    let shown = UiShown { visit, now: seen.now, qualified: visit.namespace.is_none() };
    let is_cut = seen.items.len() >= limit as usize;
    let oldest = seen.items.last().map(|event| event.at);
    let body = html! {
        h1 { "Events" }
        (filter(visit, kind.as_deref(), name.as_deref()))
        @if seen.items.is_empty() { p.empty { "Nothing happened in the last 30 days that this looks for." } }
        @if !seen.items.is_empty() { div.panel { (list(&shown, &seen.items)) } }
        @if is_cut {
            p.more {
                "Looked back to " @if let Some(at) = oldest { (bits::moment(at)) } "."
                @if limit < MORE {
                    " " a href=(further(visit)) { "Look further" }
                }
            }
        }
    };
    Ok(UiPage { title: "Events".to_owned(), tab: Some(UiTab::Events), body })
}

fn further(visit: &UiVisit) -> String {
    let limit = MORE.to_string();
    let asked = visit.query();
    let asked = asked.iter().map(|(k, v)| (k.as_str(), v.as_str())).filter(|(name, _)| *name != "limit");
    visit.link(&["events"], &asked.chain([("limit", limit.as_str())]).collect::<Vec<_>>())
}

fn filter(visit: &UiVisit, kind: Option<&str>, name: Option<&str>) -> Markup {
    html! {
        form.filter method="get" action="/ui/events" {
            @if let Some(namespace) = &visit.namespace { input type="hidden" name="namespace" value=(namespace); }
            label { "Kind " select name="kind" {
                option value="" { "all" }
                @for each in Kind::ALL {
                    option value=(each.plural()) selected[kind == Some(each.plural())] { (each.as_str()) }
                }
            } }
            label { "Name " input name="name" value=[name] autocomplete="off"; }
            button { "Filter" }
        }
    }
}

/// Events, newest first.
pub fn list(shown: &UiShown<'_>, events: &[Event]) -> Markup {
    html! {
        ol.events data-rows {
            @for event in events {
                li.warning[event.warning] id=(id(event)) {
                    span.when { (bits::since(event.at, shown.now)) " ago" }
                    span.what {
                        (about(shown, event)) " "
                        b { (clean(&event.reason)) }
                        @if event.warning { span.aloud { " (warning)" } }
                        @if !event.message.is_empty() { ": " (prose(&event.message)) }
                    }
                }
            }
        }
    }
}

/// The same event has the same one on every look.
fn id(event: &Event) -> String {
    let said = format!("{}/{}/{}/{}/{}", event.kind, event.namespace, event.name, event.reason, event.message);
    format!("e{}-{}", event.at.as_microsecond(), super::session::hex(&super::session::hashed(&said)[..4]))
}

fn about(shown: &UiShown<'_>, event: &Event) -> Markup {
    let Ok(kind) = event.kind.parse::<Kind>() else { return html! { (clean(&event.kind)) } };
    let href = shown.visit.link(&[kind.plural(), &event.namespace, &event.name], &[]);
    html! {
        span.kind { (kind.as_str()) } " "
        a href=(href) { @if shown.qualified { (clean(&event.namespace)) "/" } (clean(&event.name)) }
    }
}

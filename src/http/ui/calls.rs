//! Calls that wait or run at gateways, and their end.

use axum::{Extension, extract::State, response::Response};
use jiff::Timestamp;
use maud::html;

use super::{
    bits::{self, clean},
    frame::{UiPage, UiTab},
    visit::{UiVisit, see_other},
};
use crate::{
    api::Kind,
    http::{
        Access, Api, ApiError,
        calls::{self, CallId},
        extract::{Path, Query},
        resources::InNamespace,
    },
    store::{OpenCall, OpenCallState},
};

pub async fn page(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = read(api, &visit).await;
    visit.answer(page)
}

async fn read(api: Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let open = calls::list(State(api), Query(InNamespace { namespace: visit.namespace.clone() })).await?.0.items;
    let access = Access {
        verb: "update",
        resource: Kind::Caller.plural().to_owned(),
        subresource: Some("calls"),
        namespace: visit.namespace.clone(),
        name: None,
    };
    let (may_end, now) = (visit.may(&access).await, Timestamp::now());
    let body = html! {
        h1 { "Calls" }
        p.note { "Calls of agents, IDEs and scripts that are open at gateways, the oldest first." }
        @if open.is_empty() { p.empty { "No call is open." } } @else {
            ul.lines.panel data-rows { @for call in &open { (line(visit, call, may_end, now)) } }
        }
    };
    Ok(UiPage { title: "Calls".to_owned(), tab: Some(UiTab::Calls), body })
}

fn line(visit: &UiVisit, call: &OpenCall, may_end: bool, now: Timestamp) -> maud::Markup {
    let caller = visit.link(&[Kind::Caller.plural(), &call.namespace, &call.caller], &[]);
    let state = match call.state {
        OpenCallState::Waiting => "waits for a slot",
        OpenCallState::Running => "runs",
    };
    html! {
        li.line id={ "call." (call.id) } {
            p.head {
                a href=(caller) { (clean(&call.namespace)) "/" (clean(&call.caller)) }
                span.state { (clean(&call.model)) }
                (state) @if let Some(backend) = &call.backend { " at " (clean(backend)) }
                span.note { "for " (bits::since(call.asked_at, now)) }
            }
            p.detail { code { (clean(&call.path)) } " " (clean(&call.id)) }
            @if may_end && let Some(session) = &visit.session {
                (bits::button(session, &visit.link(&["calls", "cancel"], &[]), &[("id", &call.id)], "End it", ""))
            }
        }
    }
}

pub async fn cancel(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let id = visit.field("id").unwrap_or_default().to_owned();
    let namespace = Query(InNamespace { namespace: visit.namespace.clone() });
    match calls::cancel(State(api), Path(CallId { id }), namespace).await {
        Ok(_) => see_other(&visit.link(&["calls"], &[("done", "end-call")])),
        Err(error) => visit.answer(Err(error)),
    }
}

//! What stands around every page, and how a page is answered: whole, or not at all when the browser has it already.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};
use sha2::{Digest, Sha256};

use super::{
    assets,
    bits::{self, prose},
    session::hex,
    visit::UiVisit,
};
use crate::http::ApiError;

/// The parts of the dashboard, as the navigation has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UiTab {
    Overview,
    Tasks,
    Calls,
    Resources,
    Events,
}

/// A page, without what stands around it.
#[derive(Clone, Debug)]
pub struct UiPage {
    pub title: String,
    /// `None`: it belongs to none.
    pub tab: Option<UiTab>,
    pub body: Markup,
}

pub fn answer(visit: &UiVisit, page: Result<UiPage, ApiError>) -> Response {
    match page {
        Ok(page) => whole(visit, &page, StatusCode::OK),
        Err(error) => {
            let status = error.status_code();
            if status.is_server_error() {
                tracing::warn!(%error, status = status.as_u16(), page = visit.uri.path(), "page failed");
            }
            let body = error_body(visit, &error);
            whole(visit, &UiPage { title: "Not shown".to_owned(), tab: None, body }, status)
        }
    }
}

fn whole(visit: &UiVisit, page: &UiPage, status: StatusCode) -> Response {
    let text = around(Some(visit), page).into_string();
    let version = version(&text);
    if status == StatusCode::OK && visit.known.as_deref() == Some(version.as_str()) {
        let tag = HeaderValue::from_str(&version).unwrap_or(HeaderValue::from_static("\"\""));
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let mut response = (status, axum::response::Html(text)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&version) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Of all that a page says but for what is within its times: ages pass, though nothing has changed.
fn version(html: &str) -> String {
    let mut hash = Sha256::new();
    let mut rest = html;
    while let Some((before, time)) = rest.split_once("<time ") {
        hash.update(before);
        let (tag, content) = time.split_once('>').unwrap_or((time, ""));
        hash.update(tag);
        rest = content.split_once("</time>").map_or("", |(_, after)| after);
    }
    hash.update(rest);
    format!("\"{}\"", hex(&hash.finalize()[..12]))
}

fn around(visit: Option<&UiVisit>, page: &UiPage) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (page.title) " · Ostler" }
                link rel="icon" href=(assets::ICON.path()) type="image/svg+xml";
                link rel="stylesheet" href=(assets::STYLE.path());
                script src=(assets::SCRIPT.path()) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href=(home(visit)) { (assets::mark()) span { "Ostler" } }
                    @if let Some(visit) = visit.filter(|visit| visit.session.is_some()) { (navigation(visit, page.tab)) }
                }
                p #live role="status" {}
                main #main tabindex="-1" {
                    @if let Some(visit) = visit { (done(visit)) }
                    (page.body)
                }
                footer.foot { (foot(visit)) }
            }
        }
    }
}

fn home(visit: Option<&UiVisit>) -> String {
    visit.map_or_else(|| "/ui".to_owned(), |visit| visit.link(&[], &[]))
}

fn navigation(visit: &UiVisit, tab: Option<UiTab>) -> Markup {
    let tabs = [
        (UiTab::Overview, "Overview", visit.link(&[], &[])),
        (UiTab::Tasks, "Tasks", visit.link(&["tasks"], &[])),
        (UiTab::Calls, "Calls", visit.link(&["calls"], &[])),
        (UiTab::Resources, "Resources", visit.link(&["llmbackends"], &[])),
        (UiTab::Events, "Events", visit.link(&["events"], &[])),
    ];
    html! {
        nav.tabs aria-label="Pages" {
            @for (each, name, href) in tabs {
                a href=(href) aria-current=[(tab == Some(each)).then_some("page")] { (name) }
            }
        }
    }
}

fn foot(visit: Option<&UiVisit>) -> Markup {
    let session = visit.and_then(|visit| visit.session.as_ref());
    html! {
        @if let Some(session) = session {
            span {
                (bits::clean(&session.grant.person))
                @if !session.grant.operate { ", looking only" }
            }
            form method="post" action="/ui/sign-out" {
                (bits::form_token(session))
                button.plain { "Sign out" }
            }
        }
        span { "Ostler " (env!("CARGO_PKG_VERSION")) }
        span #zone { "Times are in UTC" }
        // What it says is no part of the page's version.
        time #now datetime="" hidden { (Timestamp::now()) }
    }
}

/// What a form did that led here: a word and a number, for whatever else is in a link was written by anybody.
fn done(visit: &UiVisit) -> Markup {
    let query = visit.query();
    let value = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let count = value("count").and_then(|count| count.parse::<u64>().ok());
    let said = value("done").and_then(|word| bits::done_in_words(word, count));
    html! { @if let Some(said) = said { p.done role="status" { (said) } } }
}

fn error_body(visit: &UiVisit, error: &ApiError) -> Markup {
    let is_refused = error.status_code() == StatusCode::FORBIDDEN;
    html! {
        (what_why_how(&error.to_string(), error.hint()))
        @if is_refused && visit.namespace.is_none() {
            form.row method="get" action=(visit.uri.path()) {
                label { "Show one namespace that you may see " input name="namespace" required; }
                button { "Show" }
            }
        }
        p { a href=(visit.link(&[], &[])) { "To the overview" } }
    }
}

fn what_why_how(why: &str, how: &str) -> Markup {
    html! {
        h1 { "This can't be shown" }
        p.why { (prose(why)) }
        @if !how.is_empty() { p { (prose(how)) } }
    }
}

/// An answer to somebody who was not let in.
pub fn refusal(status: StatusCode, why: &str, how: &str) -> Response {
    let body = html! { h1 { (bits::clean(why)) } p { (prose(how)) } };
    let page = UiPage { title: "Not here".to_owned(), tab: None, body };
    (status, axum::response::Html(around(None, &page).into_string())).into_response()
}

/// The same, of an error that came before anybody was let in.
pub fn refusal_of(error: &ApiError) -> Response {
    refusal(error.status_code(), &error.to_string(), error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_alone_make_no_new_version() {
        let page = |age: &str, at: &str, word: &str| {
            version(&format!(
                "<p>down for <time datetime=\"{at}\">{age}</time>, {word} <time datetime=\"x\">{age}</time>.</p>"
            ))
        };
        assert_eq!(page("3s", "1", "then"), page("4s", "1", "then"));
        assert_ne!(page("3s", "1", "then"), page("3s", "2", "then"));
        assert_ne!(page("3s", "1", "then"), page("3s", "1", "now"));
        assert_ne!(version("<time a"), version("<time b"));
    }
}

//! A request to the dashboard by somebody who was let in.

use std::collections::HashMap;

use axum::{
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use reqwest::Url;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    door::{UiDoor, pairs},
    frame::{self, UiPage},
    session::UiSession,
};
use crate::http::{Access, ApiError};

#[derive(Clone)]
pub struct UiVisit {
    pub door: UiDoor,
    pub installation: Uuid,
    /// It came by https.
    pub is_secure: bool,
    /// `None` where the page is open to everybody.
    pub session: Option<UiSession>,
    /// Parameters of the path.
    pub path: HashMap<String, String>,
    /// The only one that is looked at.
    pub namespace: Option<String>,
    /// Fields of a form that was sent.
    pub form: Vec<(String, String)>,
    /// The version of the page that the browser has.
    pub known: Option<String>,
    pub uri: Uri,
}

impl UiVisit {
    pub fn answer(&self, page: Result<UiPage, ApiError>) -> Response {
        frame::answer(self, page)
    }

    /// A field of the form, as it was sent.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn param(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    /// The query, without what a form leaves empty.
    pub fn query(&self) -> Vec<(String, String)> {
        pairs(self.uri.query().unwrap_or_default()).into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// The query as a handler of the API reads it, without what is the page's alone.
    pub fn query_as<T: DeserializeOwned>(&self, without: &[&str]) -> Result<T, ApiError> {
        let bad = |error: String| ApiError::BadRequest(format!("query: {error}"));
        let mut url = Url::parse("http://query/").map_err(|e| bad(e.to_string()))?;
        let kept = self.query().into_iter().filter(|(name, _)| !without.contains(&name.as_str()));
        url.query_pairs_mut().extend_pairs(kept);
        let uri: Uri = url.as_str().parse().map_err(|_| bad("it is no query".to_owned()))?;
        let read = axum::extract::Query::<T>::try_from_uri(&uri).map_err(|error| bad(error.body_text()))?;
        Ok(read.0)
    }

    /// A link within the dashboard, in the same namespace.
    pub fn link(&self, segments: &[&str], query: &[(&str, &str)]) -> String {
        let namespace = self.namespace.as_deref().map(|namespace| ("namespace", namespace));
        let asked = query.iter().copied().filter(|(name, _)| *name != "namespace");
        link(segments, namespace.into_iter().chain(asked))
    }

    /// Whether a button for it is shown.
    pub async fn may(&self, access: &Access) -> bool {
        match &self.session {
            Some(session) => self.door.rights.may(&session.grant, access).await,
            None => false,
        }
    }

    /// Leads to where one signs in, and back. `plainly`: says only that nobody is signed in.
    pub fn to_sign_in(&self, plainly: bool) -> Response {
        if plainly {
            return frame::refusal(
                StatusCode::UNAUTHORIZED,
                "You are not signed in any more",
                "Nothing was done. Sign in again, by `ostler dashboard`, and repeat it.",
            );
        }
        let next = self.uri.path_and_query().map_or("/ui", |path| path.as_str());
        see_other(&link(&["sign-in"], [("next", next)]))
    }
}

/// `/ui/a/b?c=d`
pub fn link<'a>(segments: &[&str], query: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    const HOST: &str = "http://ui";
    let Ok(mut url) = Url::parse("http://ui/ui") else { return "/ui".to_owned() };
    if let Ok(mut path) = url.path_segments_mut() {
        path.extend(segments);
    }
    let mut query = query.into_iter().peekable();
    if query.peek().is_some() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url.as_str().strip_prefix(HOST).unwrap_or("/ui").to_owned()
}

/// A page of the dashboard to go to; anything else leads to the first one.
pub fn own_page(next: &str) -> &str {
    let rest = next.strip_prefix("/ui");
    let is_own = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    if is_own && !next.contains("//") && next.chars().all(|c| c.is_ascii_graphic() && c != '\\') { next } else { "/ui" }
}

/// After a form: the page that is to be loaded now.
pub fn see_other(path: &str) -> Response {
    let to = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/ui"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_in_its_place_whatever_is_in_it() {
        assert_eq!(link(&[], []), "/ui");
        assert_eq!(link(&["tasks", "7"], [("queue", "a&b=c")]), "/ui/tasks/7?queue=a%26b%3Dc");
        assert_eq!(link(&["a/../b?c#d"], []), "/ui/a%2F..%2Fb%3Fc%23d");
    }

    #[test]
    fn only_pages_of_the_dashboard_are_gone_to() {
        for page in ["/ui", "/ui?namespace=team", "/ui/tasks/7?x=%2F"] {
            assert_eq!(own_page(page), page);
        }
        for other in
            ["", "/", "/uix", "//evil.example", "/ui//evil.example", "https://evil.example", "/ui/\\evil", "/ui/\n"]
        {
            assert_eq!(own_page(other), "/ui", "{other:?}");
        }
    }
}

//! A browser as far as a server sees one: it keeps a cookie, says where its forms come from, and follows no redirect by itself.

use reqwest::{Method, StatusCode, Url, header::HeaderMap, redirect::Policy};
use serde_json::json;

use super::bench::Bench;

pub struct Browser<'a> {
    bench: &'a Bench,
    client: reqwest::Client,
    pub cookie: Option<String>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// What the forms of the page prove themselves with.
    pub fn form_token(&self) -> String {
        let (_, rest) = self.text.split_once("name=\"token\" value=\"").expect("a form on the page");
        rest.split_once('"').unwrap().0.to_owned()
    }
}

impl<'a> Browser<'a> {
    pub fn new(bench: &'a Bench) -> Self {
        let client = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        Self { bench, client, cookie: None }
    }

    /// Signed in by a link, as whoever has the bench's token.
    pub async fn signed_in(bench: &'a Bench, look_only: bool) -> Self {
        let mut browser = Self::new(bench);
        let (status, link) = bench.post("/api/v1/links", Some(json!({"lookOnly": look_only}))).await;
        assert_eq!(status, StatusCode::CREATED, "{link}");
        let answer = browser.post(link["path"].as_str().unwrap(), &[]).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
        browser
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.bench.address())
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers, None).await
    }

    /// A page that is there.
    pub async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        answer.text
    }

    /// Sends a form of one of our own pages; keeps the cookie of its answer.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let origin = self.origin();
        let answer = self.post_with(path, fields, &[("origin", &origin)]).await;
        if let Some(cookie) = answer.headers.get("set-cookie") {
            self.cookie = Some(cookie.to_str().unwrap().split(';').next().unwrap().to_owned());
        }
        answer
    }

    pub async fn post_with(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let form = Url::parse_with_params("http://form/", fields).unwrap().query().unwrap_or_default().to_owned();
        self.send(Method::POST, path, headers, Some(form)).await
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], form: Option<String>) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.origin()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        if let Some(form) = form {
            request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }
}

//! The dashboard's door: who is let in, by which name, from which page, and what they are shown.

use std::sync::Arc;

use async_trait::async_trait;
use ostler::http::{Access, AuthError, Authorizer, Person, ResourceHome};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{
    bench::{Bench, EXTERNAL, TEAM, TOKEN},
    browser::Browser,
    tasks::shop,
};

const PAGES: [&str; 14] = [
    "/ui",
    "/ui/calls",
    "/ui/tasks",
    "/ui/tasks?state=failed",
    "/ui/events",
    "/ui/llmbackends",
    "/ui/hostagents",
    "/ui/containerhealthchecks",
    "/ui/experts",
    "/ui/taskqueues",
    "/ui/workerpools",
    "/ui/taskschedules",
    "/ui/callers",
    "/ui/llmbackends/default/mlx",
];
const EVIL: &str = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>";

#[tokio::test]
async fn whoever_is_not_signed_in_is_led_to_where_one_signs_in_and_back() {
    let bench = Bench::new(TEAM).await;
    let mut browser = Browser::new(&bench);
    for page in PAGES {
        let answer = browser.get(page).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{page}");
        assert!(answer.header("location").starts_with("/ui/sign-in?next=%2Fui"), "{page}");
        assert!(!answer.text.contains("mlx"), "{page}");
        let refresh = browser.get_with(page, &[("ostler-refresh", "1")]).await;
        assert_eq!(refresh.status, StatusCode::UNAUTHORIZED, "a script is told so: {page}");
    }
    for form in ["/ui/pause", "/ui/tasks/commands", "/ui/llmbackends/default/mlx/suspend"] {
        assert_eq!(browser.post(form, &[]).await.status, StatusCode::UNAUTHORIZED, "{form}");
    }
    let wrong = browser.post("/ui/sign-in", &[("secret", "a guess"), ("next", "/ui/tasks")]).await;
    assert_eq!((wrong.status, wrong.headers.get("set-cookie")), (StatusCode::UNAUTHORIZED, None));
    for (next, page) in [("/ui/tasks?state=failed", "/ui/tasks?state=failed"), ("//evil.example", "/ui")] {
        let right = browser.post("/ui/sign-in", &[("secret", TOKEN), ("next", next)]).await;
        assert_eq!((right.status, right.header("location")), (StatusCode::SEE_OTHER, page), "{}", right.text);
    }
    assert!(browser.page("/ui").await.contains("mlx"));
    browser.post("/ui/sign-out", &[]).await;
    assert_eq!(browser.get("/ui").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_link_signs_in_once_and_only_by_its_button() {
    let bench = Bench::new(TEAM).await;
    let (status, _) = bench.ask(None, Method::POST, "/api/v1/links", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (_, link) = bench.post("/api/v1/links", None).await;
    let (path, seconds) = (link["path"].as_str().unwrap(), &link["expiresInSeconds"]);
    assert_eq!(seconds, 60);
    let mut browser = Browser::new(&bench);
    for _ in 0..2 {
        let shown = browser.get(path).await;
        assert!(shown.text.contains("Sign in as ada") && shown.headers.get("set-cookie").is_none(), "{}", shown.text);
    }
    let opened = browser.post(path, &[]).await;
    let cookie = opened.header("set-cookie");
    assert!(
        cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Lax") && cookie.contains("; Path=/ui;"),
        "{cookie}"
    );
    assert!(!cookie.contains(TOKEN));
    assert!(browser.page("/ui").await.contains("mlx"));
    let again = Browser::new(&bench).post(path, &[]).await;
    assert_eq!((again.status, again.headers.get("set-cookie")), (StatusCode::GONE, None));
}

#[tokio::test]
async fn every_page_takes_everything_from_here_and_nothing_from_within_itself() {
    let bench = Bench::new(TEAM).await;
    let browser = Browser::signed_in(&bench, false).await;
    for page in PAGES.into_iter().chain(["/ui/sign-in", "/ui/link/none", "/ui/nothing"]) {
        let answer = browser.get(page).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{page}: {policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{page}");
        for own in [" style=", "<style", " onclick", "javascript:", "src=\"http", "href=\"http", "src=\"//"] {
            assert!(!answer.text.contains(own), "{page} has {own}");
        }
        for asset in answer.text.split('"').filter(|text| text.starts_with("/ui/assets/")) {
            let found = browser.get(asset).await;
            assert_eq!(found.status, StatusCode::OK, "{asset}");
            assert!(found.header("cache-control").contains("immutable"), "{asset}");
        }
    }
}

#[tokio::test]
async fn other_names_and_other_pages_reach_nothing() {
    let bench = Bench::new(TEAM).await;
    let browser = Browser::signed_in(&bench, false).await;
    let token = browser.get("/ui/llmbackends/default/mlx").await.form_token();
    for host in ["evil.example", "localhost.evil.example:9180", "10.0.0.7"] {
        let answer = browser.get_with("/ui", &[("host", host)]).await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        assert!(!answer.text.contains("mlx"));
    }
    let own = browser.origin();
    let (path, good) = ("/ui/llmbackends/default/mlx/suspend", [("token", token.as_str())]);
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        let answer = browser.post_with(path, &good, &[("origin", origin)]).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{origin}");
    }
    assert_eq!(browser.post_with(path, &good, &[]).await.status, StatusCode::FORBIDDEN, "no origin");
    let other = Browser::signed_in(&bench, false).await.get("/ui/llmbackends/default/mlx").await.form_token();
    for token in ["", "00", other.as_str()] {
        let answer = browser.post_with(path, &[("token", token)], &[("origin", &own)]).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{token:?}");
    }
    assert!(bench.store.controls().await.unwrap().suspended.is_empty(), "nothing was done");
    assert_eq!(browser.post_with(path, &good, &[("origin", &own)]).await.status, StatusCode::SEE_OTHER);
    assert_eq!(bench.store.controls().await.unwrap().suspended.len(), 1);
}

#[tokio::test]
async fn the_external_address_is_another_name_with_a_cookie_for_https_alone() {
    let bench = Bench::new(TEAM).await;
    let (_, link) = bench.post("/api/v1/links", None).await;
    let (path, host) = (link["path"].as_str().unwrap(), EXTERNAL.trim_start_matches("https://"));
    assert_eq!(link["url"], format!("{EXTERNAL}{path}"));
    let browser = Browser::new(&bench);
    let shown = browser.get_with(path, &[("host", host)]).await;
    assert!(shown.status == StatusCode::OK && shown.text.contains("Sign in as ada"));
    let other = browser.post_with(path, &[], &[("host", host), ("origin", &browser.origin())]).await;
    assert_eq!(other.status, StatusCode::FORBIDDEN);
    let opened = browser.post_with(path, &[], &[("host", host), ("origin", EXTERNAL)]).await;
    assert!(opened.header("set-cookie").ends_with("; SameSite=Lax; Secure"), "{}", opened.header("set-cookie"));
    assert_eq!(browser.get_with("/ui", &[("host", "ostler.example")]).await.status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn a_page_that_says_the_same_is_not_sent_again() {
    let (bench, _) = shop(TEAM).await;
    let browser = Browser::signed_in(&bench, false).await;
    for page in PAGES {
        let first = browser.get(page).await;
        let version = first.header("etag");
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let again = browser.get_with(page, &[("if-none-match", version)]).await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{page}");
    }
    let version = browser.get("/ui").await.header("etag").to_owned();
    bench.post("/api/v1/tasks", Some(json!({"prompt": "a"}))).await;
    // However many look, it is read once a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let changed = browser.get_with("/ui", &[("if-none-match", &version)]).await;
    assert_eq!(changed.status, StatusCode::OK);
    assert!(changed.text.contains("1 task waits"), "{}", changed.text);
}

#[tokio::test]
async fn whatever_is_in_a_field_is_text() {
    let (bench, _) = shop(TEAM).await;
    let task = json!({"prompt": EVIL, "domain": EVIL, "role": EVIL, "key": EVIL, "labels": {"why": "<script>alert(1)</script>"},
        "model": EVIL, "schema": {"type": "object", "description": EVIL}});
    let (status, reply) = bench.post("/api/v1/tasks", Some(task)).await;
    assert_eq!(status, StatusCode::CREATED, "{reply}");
    let id = reply["items"][0]["id"].as_i64().unwrap();
    let (_, reply) =
        bench.post("/api/v1/tasks/commands", Some(json!({"command": "cancel", "ids": [id], "reason": EVIL}))).await;
    assert_eq!(reply["count"], 1);
    bench.post("/api/v1/tasks", Some(json!({"prompt": EVIL, "domain": EVIL}))).await;
    let browser = Browser::signed_in(&bench, false).await;
    let escaped = "&lt;script&gt;alert(1)&lt;/script&gt;";
    let encoded = "%3Cscript%3E%22";
    for (page, shows) in [
        ("/ui", true),
        ("/ui/tasks", true),
        ("/ui/tasks?state=cancelled", true),
        (&*format!("/ui/tasks/{id}"), true),
        ("/ui/taskqueues", true),
        (&*format!("/ui/tasks?domain={encoded}"), false),
        (&*format!("/ui/tasks?state={encoded}"), false),
        (&*format!("/ui/events?name={encoded}&kind={encoded}"), false),
        (&*format!("/ui?namespace={encoded}&done={encoded}&count={encoded}"), false),
        (&*format!("/ui/{encoded}"), false),
        (&*format!("/ui/llmbackends/{encoded}/{encoded}"), false),
        (&*format!("/ui/tasks/{encoded}"), false),
        (&*format!("/ui/sign-in?next={encoded}"), false),
    ] {
        let text = browser.get(page).await.text;
        assert!(!text.contains("<script>") && !text.contains("<img"), "{page}: {text}");
        assert!(!shows || text.contains(escaped), "{page}: {text}");
    }
}

#[tokio::test]
async fn whoever_only_looks_sees_no_button_and_changes_nothing() {
    let (bench, _) = shop(TEAM).await;
    let (_, reply) = bench.post("/api/v1/tasks", Some(json!({"prompt": "a"}))).await;
    let id = reply["items"][0]["id"].to_string();
    let mut viewer = Browser::signed_in(&bench, true).await;
    let token = viewer.get("/ui").await.form_token();
    let task = format!("/ui/tasks/{id}");
    for page in PAGES.into_iter().chain([task.as_str()]) {
        let text = viewer.page(page).await;
        let forms: Vec<&str> = text.split("<form method=\"post\" action=\"").skip(1).collect();
        assert!(forms.len() == 1 && forms[0].starts_with("/ui/sign-out"), "{page} has a form that changes something");
        assert!(!text.contains("type=\"checkbox\""), "{page}");
    }
    for form in ["/ui/pause", "/ui/tasks/commands", "/ui/llmbackends/default/mlx/suspend"] {
        let fields = [("token", token.as_str()), ("command", "cancel"), ("ids", id.as_str())];
        let answer = viewer.post(form, &fields).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{form}");
        assert!(answer.text.contains("signed in to look only"), "{form}");
    }
    assert_eq!(viewer.get("/ui/tasks/confirm?matching=cancel&state=pending").await.status, StatusCode::FORBIDDEN);
    let (_, task) = bench.get(&format!("/api/v1/tasks/{id}")).await;
    assert_eq!(task["state"], "pending");
}

/// May do everything in `team`, and list nothing elsewhere; whose token is over may do nothing.
struct OfTeam;

#[async_trait]
impl Authorizer for OfTeam {
    async fn authorize(&self, token: &str, access: &Access) -> Result<Person, AuthError> {
        match (token, access.namespace.as_deref()) {
            (TOKEN, Some("team")) => Ok(Person("bob".into())),
            (TOKEN, _) => Err(AuthError::Forbidden(format!("bob may not {access}"))),
            _ => Err(AuthError::BadToken),
        }
    }
}

#[tokio::test]
async fn whoever_has_one_namespace_sees_one() {
    let bench = Bench::with(TEAM, Arc::new(OfTeam), ResourceHome::Cluster).await;
    let mut browser = Browser::new(&bench);
    let refused = browser.post("/ui/sign-in", &[("secret", TOKEN)]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let answer = browser.post("/ui/sign-in", &[("secret", TOKEN), ("namespace", "team")]).await;
    assert_eq!(answer.header("location"), "/ui?namespace=team");
    assert!(!answer.header("set-cookie").contains(TOKEN));
    let all = browser.get("/ui").await;
    assert_eq!(all.status, StatusCode::FORBIDDEN);
    assert!(all.text.contains("name=\"namespace\"") && !all.text.contains("mlx"), "{}", all.text);
    for page in ["/ui", "/ui/llmbackends", "/ui/tasks", "/ui/events"] {
        let text = browser.page(&format!("{page}?namespace=team")).await;
        assert!(!text.contains("mlx"), "{page}");
        assert!(text.contains("/ui/tasks?namespace=team"), "links stay in the namespace: {page}");
    }
    assert!(browser.page("/ui/llmbackends?namespace=team").await.contains("ollama"));
    assert_eq!(browser.get("/ui/llmbackends/default/mlx").await.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.get("/ui/llmbackends/team/ollama").await.status, StatusCode::OK);
    let page = browser.page("/ui/llmbackends/team/ollama").await;
    assert!(!page.contains("/suspend"), "in a cluster its API server keeps this");
    let long = "t".repeat(2_601);
    let long = browser.post("/ui/sign-in", &[("secret", &long), ("namespace", "team")]).await;
    assert!(long.status == StatusCode::BAD_REQUEST && long.text.contains("2600 fit in a session"), "{}", long.text);
}

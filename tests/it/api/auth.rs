//! Nothing but health, metrics and the description is open.

use reqwest::{Method, StatusCode};

use super::bench::{Bench, TEAM, TOKEN};

const OPEN: [&str; 4] = ["/livez", "/readyz", "/metrics", "/api/v1/openapi.json"];

/// Every operation of the description, with names in place of its parameters.
async fn operations(bench: &Bench) -> Vec<(Method, String)> {
    let (status, description) = bench.ask(None, Method::GET, "/api/v1/openapi.json", None).await;
    assert_eq!(status, StatusCode::OK);
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let path = path
            .replace("{kind}", "llmbackends")
            .replace("{namespace}", "default")
            .replace("{name}", "mlx")
            .replace("{agent}", "nobody")
            .replace("{service}", "nothing")
            .replace("{id}", "1");
        for (word, method) in [("get", Method::GET), ("post", Method::POST), ("delete", Method::DELETE)] {
            if item.get(word).is_some() {
                all.push((method, path.clone()));
            }
        }
    }
    all
}

#[tokio::test]
async fn without_the_token_nothing_but_health_and_metrics_answers() {
    let bench = Bench::new(TEAM).await;
    let all = operations(&bench).await;
    assert!(all.len() >= 32, "{all:?}");
    for (method, path) in all {
        let open = OPEN.contains(&path.as_str());
        for token in [None, Some("wrong"), Some(""), Some("the token of this tesu")] {
            let (status, body) = bench.ask(token, method.clone(), &path, None).await;
            assert_eq!(status == StatusCode::UNAUTHORIZED, !open, "{method} {path} with {token:?}: {status} {body}");
        }
        // A stream of events does not end by itself.
        if !["/api/v1/down", "/api/v1/tasks/events"].contains(&path.as_str()) {
            let (status, body) = bench.ask(Some(TOKEN), method.clone(), &path, None).await;
            let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED];
            assert!(!refused.contains(&status), "{method} {path}: {status} {body}");
        }
    }
    assert!(!bench.down.is_cancelled());
}

#[tokio::test]
async fn a_refusal_says_why_and_what_to_do() {
    let bench = Bench::new(TEAM).await;
    let (_, body) = bench.ask(None, Method::GET, "/api/v1/status", None).await;
    assert_eq!(body["reason"], "NoToken");
    assert!(body["hint"].as_str().unwrap().contains("endpoint.json"), "{body}");
    let (status, body) = bench.get("/api/v1/llmbackends/default/none").await;
    assert_eq!((status, &body["reason"]), (StatusCode::NOT_FOUND, &"NotFound".into()));
    assert_eq!(body["error"], "LLMBackend default/none does not exist");
    let (status, body) = bench.get("/api/v1/pods").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    let (status, _) = bench.get("/elsewhere").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

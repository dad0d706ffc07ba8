//! Answers in the forms that servers send them, by servers that send nothing else.

use std::time::{Duration, Instant};

use ostler::engines::{CallActivity, EmbedRequest, EngineKind, Failure, InferOutcome, ProbeVerdict, SendableModel};
use serde_json::json;

use super::canned::{Answer, Canned};
use super::{LONG, Subject};

const SHORT: Duration = Duration::from_millis(300);

async fn infer(kind: EngineKind, answer: Answer) -> Result<InferOutcome, Failure> {
    let server = Canned::always(answer).await;
    Subject::new(kind, &server.url()).infer("m", 8).await.map_err(|error| error.failure)
}

fn event(record: &serde_json::Value) -> String {
    format!("data: {record}\n\n")
}

#[tokio::test]
async fn an_answer_is_read_in_every_form() {
    use EngineKind::{Ollama, OpenAi};
    let whole = r#"{"choices":[{"message":{"role":"assistant","content":"Paris"},"finish_reason":"stop"}],"usage":{"completion_tokens":1}}"#;
    let pretty = "{\n  \"choices\": [\n    {\"message\": {\"content\": \"Paris\"}}\n  ]\n}\n";
    let pieces = "data: {\"choices\":[{\"delta\":{\"content\":\"Pa\"}}]}\r\n\r\ndata:{\"choices\":[{\"delta\":{\"content\":\"ris\"}}]}\r\n\r\ndata: [DONE]\r\n\r\n";
    let thought = "data: {\"choices\":[{\"delta\":{\"content\":\"<th\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"ink>Hm</think>\\n\\nParis\"},\"finish_reason\":\"stop\"}]}\n\n";
    let apart = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"Hm\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"Paris\"},\"finish_reason\":\"stop\"}]}\n\n";
    let cases = [
        (OpenAi, whole.to_owned(), ""),
        (OpenAi, format!("{whole}\n\ndata: [DONE]\n\n"), ""),
        (OpenAi, format!("\u{feff}{whole}"), ""),
        (OpenAi, pretty.to_owned(), ""),
        (OpenAi, format!("data: {whole}\n\n"), ""),
        (OpenAi, format!("\u{feff}{pieces}"), ""),
        (OpenAi, pieces.replace("\r\n\r\n", "\n"), ""),
        (OpenAi, "data: {\"choices\":[{\"text\":\"Paris\",\"finish_reason\":\"length\"}]}\n\n".to_owned(), ""),
        (OpenAi, "data: {\ndata: \"choices\":[{\"delta\":{\"content\":\"Paris\"},\"finish_reason\":\"stop\"}]\ndata: }\n\n".to_owned(), ""),
        (OpenAi, thought.to_owned(), "Hm"),
        (OpenAi, apart.to_owned(), "Hm"),
        (EngineKind::Mlx, format!(": keepalive 1/9\n\n{apart}"), "Hm"),
        (Ollama, "{\"message\":{\"content\":\"Paris\"},\"done\":true,\"done_reason\":\"stop\"}".to_owned(), ""),
        (Ollama, "{\"message\":{\"content\":\"\",\"thinking\":\"Hm\"},\"done\":false}\n{\"message\":{\"content\":\"Paris\"},\"done\":true}\n".to_owned(), "Hm"),
    ];
    for (kind, body, reasoning) in cases {
        let outcome = infer(kind, Answer::stream(&body)).await.unwrap_or_else(|failure| panic!("{body}: {failure}"));
        assert_eq!((outcome.text.as_str(), outcome.reasoning.as_str()), ("Paris", reasoning), "{body}");
        assert!(outcome.has_content() && outcome.tokens > 0, "{body}: {outcome:?}");
    }
    let tool = event(&json!({"choices": [{"delta": {"tool_calls": [{"index": 0}]}, "finish_reason": "tool_calls"}]}));
    let outcome = infer(OpenAi, Answer::stream(&tool)).await.expect("a tool call is an answer");
    assert_eq!((outcome.tool_calls, outcome.finish.as_deref(), outcome.has_content()), (1, Some("tool_calls"), true));
    let silent = event(&json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}));
    let outcome = infer(OpenAi, Answer::stream(&silent)).await.expect("a finish reason is an end");
    assert!(!outcome.has_content());
}

#[tokio::test]
async fn an_error_within_an_answer_is_a_failure() {
    use EngineKind::{Mlx, Ollama, OpenAi};
    let said = event(&json!({"choices": [{"delta": {"content": "Pa"}}]}));
    let role = event(&json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]}));
    let cases = [
        (OpenAi, "error: {\"code\":500,\"message\":\"boom\"}\n\ndata: [DONE]\n\n".to_owned(), "ServerError"),
        (OpenAi, format!("{said}error: {{\"code\":500,\"message\":\"boom\"}}\n\ndata: [DONE]\n\n"), "ServerError"),
        (
            OpenAi,
            format!("{said}data: {{\"object\":\"error\",\"message\":\"boom\",\"code\":500}}\n\ndata: [DONE]\n\n"),
            "ServerError",
        ),
        (OpenAi, format!("{said}data: {{\"detail\":\"boom\"}}\n\ndata: [DONE]\n\n"), "ServerError"),
        (OpenAi, format!("{said}event: error\ndata: boom\n\n"), "ServerError"),
        (OpenAi, format!("{said}data: {{\"error\":{{\"message\":\"CUDA out of memory\"}}}}\n\n"), "OutOfMemory"),
        (OpenAi, format!("{role}data: {{\"error\":{{\"message\":\"slow down\",\"code\":429}}}}\n\n"), "RateLimited"),
        (OpenAi, event(&json!({"choices": [{"delta": {}, "finish_reason": "error"}]})), "ServerError"),
        (OpenAi, "data: [DONE]\n\n".to_owned(), "NoContent"),
        (OpenAi, format!("{role}data: [DONE]\n\n"), "NoContent"),
        (OpenAi, role, "NoContent"),
        (OpenAi, said, "Reset { tokens_seen: 1 }"),
        (Mlx, ": keepalive 1/9\n\n".to_owned(), "Reset { tokens_seen: 0 }"),
        (OpenAi, String::new(), "BadBody"),
        (OpenAi, "what?".to_owned(), "BadBody"),
        (OpenAi, "{\"choices\": [".to_owned(), "BadBody"),
        (OpenAi, "<html><title>Router</title></html>".to_owned(), "Misconfigured"),
        (OpenAi, "{\"error\":\"Unexpected endpoint or method.\"}".to_owned(), "Misconfigured"),
        (Ollama, "{\"error\":\"llama runner process has terminated: exit status 2\"}\n".to_owned(), "CannotLoad"),
        (Ollama, "{\"message\":{\"content\":\"Pa\"},\"done\":false}\n{\"error\":\"boom\"}\n".to_owned(), "ServerError"),
    ];
    for (kind, body, variant) in cases {
        let failure = infer(kind, Answer::stream(&body)).await.expect_err(&body);
        assert!(format!("{failure:?}").starts_with(variant), "{body}: {failure:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_read_by_its_words() {
    use EngineKind::{Mlx, OpenAi};
    let cases = [
        (OpenAi, "400 Bad Request", r#"{"error":"Failed to load model \"m\""}"#, "CannotLoad"),
        (OpenAi, "503 Service Unavailable", r#"{"error":{"message":"Loading model","code":503}}"#, "Loading"),
        (OpenAi, "402 Payment Required", "{}", "Unauthorized { status: 402 }"),
        (OpenAi, "302 Found", "", "Misconfigured"),
        (Mlx, "404 Not Found", r#"{"error":"Conversation roles must alternate"}"#, "Rejected"),
        (Mlx, "404 Not Found", r#"{"error":"[metal::malloc] Resource limit exceeded"}"#, "OutOfMemory"),
        (Mlx, "404 Not Found", r#"{"error":"list index out of range"}"#, "ServerError { status: 404"),
    ];
    for (kind, status, body, variant) in cases {
        let failure = infer(kind, Answer::status(status, body)).await.expect_err(body);
        assert!(format!("{failure:?}").starts_with(variant), "{status} {body}: {failure:?}");
    }
    // A body without end does not hide its status.
    let endless = Answer::raw("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 99\r\n\r\nboom").and_stays_open();
    let server = Canned::always(endless).await;
    let subject = Subject::new(OpenAi, &server.url());
    let mut request = subject.request("m", 1);
    request.timeout = Duration::from_secs(1);
    let failure = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("it fails").failure;
    assert_eq!(failure, Failure::ServerError { status: 500, detail: "boom".into() });
}

#[tokio::test]
async fn a_finish_reason_ends_the_call_while_the_connection_stays_open() {
    let last = event(&json!({"choices": [{"delta": {"content": "Paris"}, "finish_reason": "stop"}]}));
    let counts = event(&json!({"choices": [], "usage": {"completion_tokens": 7, "prompt_tokens": 3}}));
    let late = Answer::stream(&last).then(SHORT, &counts).and_stays_open();
    let server = Canned::always(late).await;
    let subject = Subject::new(EngineKind::OpenAi, &server.url());
    let mut request = subject.request("m", 8);
    for (count, tokens) in [(false, 1), (true, 7)] {
        request.count = count;
        let began = Instant::now();
        let outcome = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it ends");
        assert_eq!((outcome.text.as_str(), outcome.tokens), ("Paris", tokens));
        assert!(began.elapsed() < LONG / 4, "{:?}", began.elapsed());
    }
    let never = Canned::always(Answer::stream(&last).and_stays_open()).await;
    let subject = Subject::new(EngineKind::OpenAi, &never.url());
    let outcome = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it ends without counts");
    assert_eq!(outcome.tokens, 1);
}

#[tokio::test]
async fn comments_are_life_but_not_for_ever() {
    let tick = Duration::from_millis(100);
    let mut answer = Answer::stream(": keepalive 0/9\n\n");
    for _ in 0..9 {
        answer = answer.then(tick, ": keepalive 1/9\n\n");
    }
    let last = event(&json!({"choices": [{"delta": {"content": "Paris"}, "finish_reason": "stop"}]}));
    let server = Canned::always(answer.clone().then(tick, &last)).await;
    let subject = Subject::new(EngineKind::Mlx, &server.url());
    let mut request = subject.request("m", 8);
    (request.first_byte_timeout, request.stall_timeout) = (8 * tick, 8 * tick);
    let (mut bytes, mut tokens) = (0, 0);
    let mut on_activity = |activity| match activity {
        CallActivity::Bytes => bytes += 1,
        CallActivity::Token => tokens += 1,
    };
    let outcome = subject.engine.infer(&subject.at, &request, &mut on_activity).await.expect("comments are life");
    assert_eq!(outcome.text, "Paris");
    assert!(bytes > 2 && tokens == 1, "{bytes} {tokens}");

    let silent = Canned::always(answer.and_stays_open()).await;
    let subject = Subject::new(EngineKind::Mlx, &silent.url());
    request.timeout = 5 * tick;
    let failure = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("it ends").failure;
    assert!(matches!(failure, Failure::Timeout { tokens_seen: 0, .. }), "{failure}");
}

#[tokio::test]
async fn what_is_no_api_is_told_and_never_followed() {
    let elsewhere = Canned::always(Answer::status("200 OK", r#"{"data":[{"id":"m"}]}"#)).await;
    let there =
        format!("HTTP/1.1 302 Found\r\nLocation: {}/sso?key=hunter2\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    let page = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>";
    let cases = [
        (Answer::raw(there), "/sso"),
        (Answer::status("200 OK", page), "Sign in"),
        (Answer::raw("SSH-2.0-OpenSSH_9.2\r\n"), "HTTP"),
        (Answer::raw([0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x0a]), "TLS"),
    ];
    for (answer, words) in cases {
        let server = Canned::always(answer).await;
        let subject = Subject::new(EngineKind::OpenAi, &server.url());
        let verdict = subject.engine.probe(&subject.at, &[], LONG).await;
        let ProbeVerdict::Misconfigured(why) = &verdict else { panic!("{words}: {verdict:?}") };
        assert!(why.contains(words) && !why.contains("hunter2"), "{why}");
        let failure = subject.infer("m", 1).await.expect_err("no API").failure;
        assert!(matches!(failure, Failure::Misconfigured(_)), "{words}: {failure:?}");
    }
    assert_eq!(elsewhere.asked().len(), 0);

    let plain = Canned::always(Answer::raw("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).await;
    let https = Subject::new(EngineKind::OpenAi, &plain.url().replace("http:", "https:"));
    let verdict = https.engine.probe(&https.at, &[], LONG).await;
    assert!(matches!(&verdict, ProbeVerdict::Misconfigured(why) if why.contains("TLS")), "{verdict:?}");

    let nowhere = Subject::new(EngineKind::OpenAi, "http://no-such-host.invalid");
    let verdict = nowhere.engine.probe(&nowhere.at, &[], LONG).await;
    assert!(matches!(&verdict, ProbeVerdict::Unreachable(why) if !why.is_empty()), "{verdict:?}");
}

#[tokio::test]
async fn a_prompt_of_which_a_part_was_read_is_no_success() {
    let long = "one word and then another one ".repeat(400);
    let answers = [
        (
            EngineKind::OpenAi,
            event(
                &json!({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 512}}),
            ),
        ),
        (EngineKind::Ollama, json!({"message": {"content": "a"}, "done": true, "prompt_eval_count": 512}).to_string()),
    ];
    for (kind, body) in answers {
        let server = Canned::always(Answer::stream(&body)).await;
        let subject = Subject::new(kind, &server.url());
        let mut request = subject.request("m", 8);
        subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("a short one is fine");
        request.messages[0].content.clone_from(&long);
        let failure = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("cut").failure;
        assert!(matches!(failure, Failure::PromptTooLong { .. }), "{kind}: {failure}");
    }
    let vectors = json!({"embeddings": [[0.5], [0.25]], "prompt_eval_count": 512});
    let server = Canned::always(Answer::status("200 OK", &vectors.to_string())).await;
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    let input = vec![long.clone(), long];
    let request = EmbedRequest { model: SendableModel::mlx_default(), input, keep_alive: None, timeout: LONG };
    let failure = subject.engine.embed(&subject.at, &request).await.expect_err("cut").failure;
    assert!(matches!(failure, Failure::PromptTooLong { .. }), "{failure}");
    assert_eq!(server.asked()[0].body["truncate"], json!(false));
}

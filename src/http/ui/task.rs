//! One task: why it waits, who was considered, what was tried, what was asked and answered.

use axum::{Extension, extract::State, response::Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use super::{
    bits::{self, clean, prose},
    commands,
    frame::{UiPage, UiTab},
    tasks::words,
    visit::UiVisit,
};
use crate::{
    http::{
        Api, ApiError, Explanation,
        extract::{Path, Query},
        resources::InNamespace,
        tasks::read,
    },
    tasks::{Attempt, AttemptClass, Payload, Task, TaskId, TaskState},
};

/// Characters of a prompt or an answer that a page shows.
const MOST_SHOWN: usize = 65_536;

pub async fn page(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let page = read_page(api, &visit).await;
    visit.answer(page)
}

async fn read_page(api: Api, visit: &UiVisit) -> Result<UiPage, ApiError> {
    let id = visit.param("id");
    let id: TaskId = id.parse().map_err(|_| ApiError::NotFound(format!("{id:?} is no number of a task")))?;
    let namespace = || Query(InNamespace { namespace: visit.namespace.clone() });
    let task = read::get(State(api.clone()), Path(id), namespace()).await?.0;
    let why = read::explain(State(api.clone()), Path(id), namespace()).await?.0;
    let may_act = visit.may(&commands::access(visit.namespace.as_deref())).await;
    let now = api.store.now().await?;
    let body = html! {
        p.back { a href=(visit.link(&["tasks"], &[("state", task.state.as_str())])) { "Tasks " (words(task.state)) } }
        h1 { "Task " (id) " " span class={ "state " (task.state.as_str()) } { (words(task.state)) } }
        (because(&task, &why, now))
        @if may_act { (acts(visit, &task)) }
        (attempts(&task, now))
        (facts(visit, &task, now))
        (payload(&task.payload))
        @if let Some(result) = &task.result { (answer(result)) }
    };
    Ok(UiPage { title: format!("Task {id}, {}", words(task.state)), tab: Some(UiTab::Tasks), body })
}

fn because(task: &Task, why: &Explanation, now: Timestamp) -> Markup {
    let heading = match task.state {
        TaskState::Pending => "Why it waits",
        TaskState::DeferredToHuman => "Why it needs a human",
        _ => "How it is",
    };
    let others: Vec<&String> = why.candidates.iter().filter(|name| Some(*name) != why.expert.as_ref()).collect();
    html! {
        section.panel.because {
            h2 { (heading) }
            p.why { (prose(&why.why)) }
            p {
                @if task.state.is_terminal() {
                    (bits::since(why.since, now)) " ago, " (bits::moment(why.since)) "."
                } @else {
                    "For " (bits::since(why.since, now)) ", since " (bits::moment(why.since)) "."
                }
            }
            @if let (Some(expert), Some(reason)) = (&why.expert, &why.assignment_reason) {
                p {
                    "Assigned to " b { (clean(expert)) } ": " (prose(reason)) "."
                    @if !others.is_empty() {
                        " As good: " @for (index, name) in others.iter().enumerate() { @if index > 0 { ", " } (clean(name)) } "."
                    }
                }
            }
        }
    }
}

fn acts(visit: &UiVisit, task: &Task) -> Markup {
    let (id, action) = (task.id.to_string(), visit.link(&["tasks", "commands"], &[]));
    html! {
        @if let Some(session) = &visit.session {
            div.acts {
                @for (verb, words) in commands::verbs(task.state) {
                    @let fields = [("command", *verb), ("ids", id.as_str()), ("back", id.as_str())];
                    (bits::button(session, &action, &fields, words, if *verb == "cancel" { "" } else { "act" }))
                }
            }
        }
    }
}

fn attempts(task: &Task, now: Timestamp) -> Markup {
    let rows = task.attempts.iter().rev().map(|attempt| attempt_row(attempt, now));
    html! {
        @if !task.attempts.is_empty() {
            section.panel {
                h2 { "Attempts" }
                (bits::table("Attempts, the newest first", &["Ended", "Took", "By", "Outcome", "Tokens", "What went wrong"], rows))
            }
        }
    }
}

fn attempt_row(attempt: &Attempt, now: Timestamp) -> (String, Vec<Markup>) {
    let took = attempt.ended_at.duration_since(attempt.started_at).as_millis();
    let outcome = if attempt.class == AttemptClass::Ok { "done" } else { attempt.class.as_str() };
    let tokens = [attempt.prompt_tokens, attempt.completion_tokens].map(|n| n.map_or("–".to_owned(), bits::grouped));
    let cells = vec![
        html! { (bits::since(attempt.ended_at, now)) " ago" },
        html! { (format!("{}.{} s", took / 1_000, took % 1_000 / 100)) },
        html! {
            (clean(&attempt.expert))
            @if let Some(backend) = &attempt.backend { " at " (clean(backend)) }
            @if let Some(model) = &attempt.model { ", " (clean(model)) }
        },
        html! { (outcome) },
        html! { (tokens[0]) " in, " (tokens[1]) " out" },
        html! { @if let Some(error) = &attempt.error { (clean(error)) } },
    ];
    (format!("attempt.{}", attempt.started_at.as_microsecond()), cells)
}

fn facts(visit: &UiVisit, task: &Task, now: Timestamp) -> Markup {
    let queue = visit.link(&["taskqueues", &task.namespace, &task.queue], &[]);
    let texts = [
        ("Domain", Some(task.domain.as_str()).filter(|text| !text.is_empty())),
        ("Role", Some(task.role.as_str()).filter(|text| !text.is_empty())),
        ("Model", task.assigned_model.as_deref().or(task.model.as_deref())),
        ("Key", task.key.as_deref()),
        ("Last reason", task.reason.as_deref()),
    ];
    html! {
        section.panel {
            h2 { "Facts" }
            dl {
                dt { "Queue" } dd { a href=(queue) { (clean(&task.namespace)) "/" (clean(&task.queue)) } }
                @for (name, text) in texts { @if let Some(text) = text { dt { (name) } dd { (clean(text)) } } }
                @if !task.labels.is_empty() {
                    dt { "Labels" }
                    dd { @for (name, value) in &task.labels { code { (clean(name)) "=" (clean(value)) } " " } }
                }
                dt { "Priority" } dd { (task.priority) }
                dt { "Given in" } dd { (bits::moment(task.created_at)) ", " (bits::since(task.created_at, now)) " ago" }
                @if let Some(at) = task.run_after { dt { "Not before" } dd { (bits::moment(at)) } }
                @if let Some(at) = task.deadline { dt { "Deadline" } dd { (bits::moment(at)) } }
                dt { "Attempts used" }
                dd {
                    (task.attempts_used)
                    @if task.free_requeues > 0 { ", given back without one " (task.free_requeues) " times" }
                    @if task.leases_lost > 0 { ", leases lost " (task.leases_lost) }
                    @if task.cycle > 1 { ", reopened " (crate::api::number_of(task.cycle - 1, "time")) }
                }
            }
        }
    }
}

fn payload(payload: &Payload) -> Markup {
    html! {
        section.panel {
            h2 { "What is asked" }
            @if let Some(prompt) = &payload.prompt { (text(prompt)) }
            @for message in payload.messages.iter().flatten() {
                h3 { (clean(&message.role)) }
                (text(&message.content))
            }
            @for input in payload.input.iter().flatten() { (text(input)) }
            @if let Some(data) = &payload.data { (json(data)) }
            @if let Some(schema) = &payload.schema { h3 { "Schema of the answer" } (json(schema)) }
        }
    }
}

fn answer(result: &Value) -> Markup {
    html! {
        section.panel {
            h2 { "Answer" }
            @match result.get("text").and_then(Value::as_str) {
                Some(said) => (text(said)),
                None => (json(result.get("json").unwrap_or(result))),
            }
        }
    }
}

fn json(value: &Value) -> Markup {
    text(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// As it is, up to a bound.
fn text(whole: &str) -> Markup {
    let shown = whole.char_indices().nth(MOST_SHOWN).map_or(whole, |(end, _)| &whole[..end]);
    html! {
        pre tabindex="0" { (clean(shown)) }
        @if shown.len() < whole.len() {
            p.note { "These are the first " (bits::grouped(MOST_SHOWN as i64)) " characters; " code { "ostler tasks show" } " has all." }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let html = text(&"ä".repeat(MOST_SHOWN + 1)).into_string();
        assert!(html.contains("first 65,536 characters") && html.matches('ä').count() == MOST_SHOWN);
        assert!(!text("short").into_string().contains("characters"));
    }

    #[test]
    fn an_answer_is_text() {
        for result in
            [serde_json::json!({"text": "<b>&"}), serde_json::json!({"json": {"a": "<b>&"}}), serde_json::json!("<b>&")]
        {
            let html = answer(&result).into_string();
            assert!(html.contains("&lt;b&gt;&amp;") && !html.contains("<b>"), "{html}");
        }
    }
}

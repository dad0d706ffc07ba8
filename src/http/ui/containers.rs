//! What is particular to a check of containers: each container, what it died of, and its memory.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    bits::{self, clean, prose},
    overview::UiShown,
};
use crate::{
    api::{ContainerHealthCheckStatus, ContainerStatusEntry},
    http::Item,
};

pub fn body(shown: &UiShown<'_>, item: &Item) -> Markup {
    let status = item.status.clone().unwrap_or_default();
    let status: ContainerHealthCheckStatus = serde_json::from_value(Value::Object(status)).unwrap_or_default();
    let columns = ["Container", "State", "Why", "Memory", "Attempts"];
    html! {
        @if let Some(proposal) = &status.proposal {
            section.panel { h2 { "A higher limit to apply" } pre tabindex="0" { (clean(proposal)) } }
        }
        section.panel {
            h2 { "Containers that are not well" }
            @if status.containers.is_empty() { p.empty { "None." } } @else {
                (bits::table("Containers that are not well", &columns, status.containers.iter().map(|entry| row(shown, entry))))
            }
        }
    }
}

fn row(shown: &UiShown<'_>, entry: &ContainerStatusEntry) -> (String, Vec<Markup>) {
    let state: &'static str = entry.state.into();
    let logs = [("The log's first lines", &entry.log_head), ("Its last lines", &entry.log_tail)];
    let id = format!("container.{}", entry.name);
    let why = html! {
        (prose(&entry.message))
        @if let Some(code) = entry.exit_code { " Exit code " (code) "." }
        @for (words, log) in logs {
            @if let Some(log) = log {
                details id={ (id) "." (words) } { summary { (words) } pre tabindex="0" { (clean(log)) } }
            }
        }
    };
    let memory = html! {
        @if let Some(limit) = &entry.memory_limit { "limit " (clean(limit)) }
        @if let Some(peak) = &entry.memory_peak { ", peak " (clean(peak)) }
        @if let Some(proposed) = &entry.proposed_memory_limit { ", proposed " b { (clean(proposed)) } }
    };
    let attempts = html! {
        (entry.attempts.unwrap_or(0))
        @if let Some(action) = &entry.last_action { ": " (prose(action)) }
        @if let Some(at) = &entry.next_attempt_time && at.0 > shown.now { "; the next in " (bits::until(at.0, shown.now)) }
    };
    (id.clone(), vec![html! { (clean(&entry.name)) }, html! { (state) }, why, memory, attempts])
}

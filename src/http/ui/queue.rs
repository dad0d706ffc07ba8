//! What is particular to a queue: how many of its tasks are where, and what those that wait do wait for.

use maud::{Markup, html};

use super::{
    bits::{self, clean, prose},
    overview::UiShown,
};
use crate::{
    http::{
        Api, ApiError, Item,
        status::{WaitingLine, waiting_lines},
        tasks,
    },
    store::{QueueCounts, world},
};

pub async fn body(api: &Api, shown: &UiShown<'_>, item: &Item) -> Result<Markup, ApiError> {
    let (namespace, name) = (item.namespace(), item.name());
    let counts = tasks::queue_counts(api, Some(namespace)).await?;
    let counts = counts.into_iter().find(|c| c.queue == name).unwrap_or_else(|| QueueCounts::none(namespace, name));
    let waiting = match counts.pending {
        0 => Vec::new(),
        _ => waiting_lines(api, &world::read(&*api.store).await?, Some(namespace)).await?,
    };
    let ours: Vec<&WaitingLine> = waiting.iter().filter(|line| line.queue == name).collect();
    let tasks_in = |state: &str, number: i64, words: &str| {
        let href = super::visit::link(&["tasks"], [("namespace", namespace), ("queue", name), ("state", state)]);
        html! { li { a.number.none[number == 0] href=(href) { b { (bits::grouped(number)) } " " (words) } } }
    };
    Ok(html! {
        div.columns {
            section.panel {
                h2 { "Tasks" }
                ul.numbers {
                    (tasks_in("pending", counts.pending, "waiting"))
                    (tasks_in("in_progress", counts.in_progress, "running"))
                    (tasks_in("deferred_to_human", counts.deferred_to_human, "for a human"))
                    (tasks_in("completed", counts.completed, "done in 24 h"))
                    (tasks_in("failed", counts.failed, "failed in 24 h"))
                }
                @if let Some(at) = counts.oldest_pending { p { "The oldest has waited for " (bits::since(at, shown.now)) "." } }
                @if let Some(at) = counts.oldest_deferred {
                    p { "One has waited for a human for " (bits::since(at, shown.now)) "." }
                }
            }
            (waits(&ours))
        }
    })
}

/// Why tasks wait, the most first.
pub fn waits(lines: &[&WaitingLine]) -> Markup {
    let queues =
        lines.windows(2).any(|pair| (&pair[0].namespace, &pair[0].queue) != (&pair[1].namespace, &pair[1].queue));
    html! {
        @if !lines.is_empty() {
            section.panel aria-labelledby="waits" {
                h2 #waits { "Why tasks wait" }
                ul.waits {
                    @for line in lines {
                        li.stuck[!line.group.waits] {
                            b { (bits::grouped(line.group.count)) }
                            span {
                                @if line.group.waits { "for " }
                                (prose(&line.group.what))
                                @if queues { span.note { " in " (clean(&line.namespace)) "/" (clean(&line.queue)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

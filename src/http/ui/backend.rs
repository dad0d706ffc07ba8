//! What is particular to a backend: its limit and why, what was seen of it, its models, and how it was healed.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    bits::{self, clean, prose},
    overview::UiShown,
};
use crate::{
    api::{LLMBackendStatus, RecoveryStatus},
    http::{Check, Item},
};

pub fn body(shown: &UiShown<'_>, item: &Item) -> Markup {
    let status = item.status.clone().unwrap_or_default();
    let status: LLMBackendStatus = serde_json::from_value(Value::Object(status)).unwrap_or_default();
    html! {
        div.columns {
            (evidence(shown, item, &status))
            (models(&status))
        }
        @if let Some(recovery) = &status.recovery { (healing(shown, recovery)) }
    }
}

fn evidence(shown: &UiShown<'_>, item: &Item, status: &LLMBackendStatus) -> Markup {
    let live = &item.live;
    let text = |name: &str| item.spec.get(name).and_then(Value::as_str).unwrap_or("–");
    let check = |check: &Check| {
        html! {
            (clean(&check.verdict))
            @if let Some(millis) = check.millis { ", " (millis) " ms" }
            ", " (bits::since(check.at, shown.now)) " ago"
        }
    };
    html! {
        section.panel {
            h2 { "Evidence" }
            dl {
                dt { "Server" } dd { (clean(text("engine"))) " at " code { (clean(text("url"))) } }
                dt { "Slots" } dd {
                    (bits::slots(live.slots_in_use, live.limit.or(status.effective_limit)))
                    @if let Some(why) = &status.limited_by { " limited by " (prose(why)) }
                    @if let Some(admission) = &live.admission { ", admission " (admission) }
                }
                @if let Some(proof) = &status.proved_by { dt { "Proved by" } dd { (prose(proof)) } }
                @for (name, seen) in
                    [("Last answer", &live.last_served), ("Last canary", &live.last_canary), ("Last probe", &live.last_probe)]
                {
                    @if let Some(seen) = seen { dt { (name) } dd { (check(seen)) } }
                }
                @if let Some(at) = live.last_byte_at { dt { "Last byte of an open call" } dd { (bits::since(at, shown.now)) " ago" } }
            }
        }
    }
}

fn models(status: &LLMBackendStatus) -> Markup {
    let rows = status.models.iter().map(|model| {
        let there = match (model.present, model.loaded) {
            (true, Some(true)) => "in memory",
            (true, _) => "there",
            (false, _) => "missing",
        };
        let pull = html! {
            @if let Some(percent) = model.pull_percent { "pulling: " (percent) " %" }
            @if let Some(error) = &model.pull_error { (prose(error)) }
        };
        (format!("model.{}", model.name), vec![html! { (clean(&model.name)) }, html! { (there) }, pull])
    });
    html! {
        @if !status.models.is_empty() {
            section.panel {
                h2 { "Models" }
                (bits::table("Models", &["Model", "State", "Pull"], rows))
            }
        }
    }
}

fn healing(shown: &UiShown<'_>, recovery: &RecoveryStatus) -> Markup {
    let attempts = recovery.history.iter().rev().enumerate().map(|(index, attempt)| {
        let cells = vec![
            html! { (bits::since(attempt.time.0, shown.now)) " ago" },
            html! { (clean(&attempt.cause)) },
            html! { (clean(&attempt.step)) },
            html! { span class={ "outcome " (clean(&attempt.outcome)) } { (outcome(&attempt.outcome)) } },
            html! { (prose(&attempt.evidence)) },
        ];
        (format!("attempt.{}.{index}", attempt.time.0.as_microsecond()), cells)
    });
    let tallies = recovery.tallies.iter().map(|tally| {
        let cells = vec![
            html! { (clean(&tally.cause)) },
            html! { (clean(&tally.step)) },
            html! { (tally.helped) " of " (tally.tried) },
        ];
        (format!("tally.{}.{}", tally.cause, tally.step), cells)
    });
    html! {
        section.panel {
            h2 { "Recovery" }
            p {
                @if let Some(cause) = &recovery.cause { "Cause " b { (clean(cause)) } ". " }
                @if let Some(step) = &recovery.step { "Step " b { (clean(step)) } ". " }
                (recovery.attempts) " attempts in this episode."
                @if let Some(at) = &recovery.next_attempt_time && at.0 > shown.now { " The next may come in " (bits::until(at.0, shown.now)) "." }
            }
            @if recovery.history.is_empty() { p.empty { "Nothing had to be done yet." } } @else {
                (bits::table("Attempts, the newest first", &["When", "Cause", "Step", "Outcome", "Evidence"], attempts))
            }
            @if !recovery.tallies.is_empty() {
                h3 { "Which step helped how often" }
                (bits::table("Which step helped how often", &["Cause", "Step", "Helped"], tallies))
            }
        }
    }
}

fn outcome(word: &str) -> String {
    match word {
        "DidNotHelp" => "did not help".to_owned(),
        "Helped" => "helped".to_owned(),
        "WouldDo" => "would be done".to_owned(),
        other => clean(other).to_lowercase(),
    }
}

//! What is wrong now, each cause once.

use maud::{Markup, html};

use super::{
    bits::{self, clean, prose},
    overview::UiShown,
};
use crate::{
    api::number_of,
    causes::CauseSeverity,
    http::{CauseView, status::Level},
};

/// Nothing where nothing is wrong for long enough. With `may_act` each has a button for whoever takes it into their hands.
pub fn list(shown: &UiShown<'_>, causes: &[CauseView], may_act: bool) -> Markup {
    html! {
        @if !causes.is_empty() {
            section.panel aria-labelledby="causes" {
                h2 #causes { "Causes" }
                ul.plain.causes data-rows { @for cause in causes { (one(shown, cause, may_act)) } }
            }
        }
    }
}

fn one(shown: &UiShown<'_>, cause: &CauseView, may_act: bool) -> Markup {
    let action = shown.visit.link(&["causes", "acknowledge"], &[]);
    let level = if cause.severity == CauseSeverity::Critical { Level::Bad } else { Level::Warning };
    html! {
        li id=(format!("cause-{}", cause.key)) {
            p { (bits::mark(level)) " " b { (clean(&cause.title)) } " for " (bits::since(cause.since, shown.now)) }
            p {
                @if !cause.evidence.is_empty() { (prose(&cause.evidence)) ". " }
                @if cause.affected > 0 { (cause.affected) " affected. " }
                @if cause.waiting > 0 { (number_of(usize::try_from(cause.waiting).unwrap_or(usize::MAX), "task")) " waiting. " }
                @if let Some(taken) = &cause.acknowledged { "Acknowledged by " (clean(&taken.by)) ". " }
                (prose(&cause.next))
            }
            @if may_act && cause.acknowledged.is_none() && let Some(session) = &shown.visit.session {
                (bits::button(session, &action, &[("cause", cause.key.as_str())], "I have it in my hands", "act"))
            }
        }
    }
}

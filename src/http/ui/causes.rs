//! What is wrong now, each cause once.

use maud::{Markup, html};

use super::{
    bits::{self, clean, prose},
    overview::UiShown,
};
use crate::{api::number_of, http::CauseView};

/// Nothing where nothing is wrong for long enough.
pub fn list(shown: &UiShown<'_>, causes: &[CauseView]) -> Markup {
    html! {
        @if !causes.is_empty() {
            section.panel aria-labelledby="causes" {
                h2 #causes { "Causes" }
                ul.plain.causes data-rows { @for cause in causes { (one(shown, cause)) } }
            }
        }
    }
}

fn one(shown: &UiShown<'_>, cause: &CauseView) -> Markup {
    html! {
        li id=(format!("cause-{}", cause.key)) {
            p { (bits::mark(cause.level())) " " b { (clean(&cause.title)) } " for " (bits::since(cause.since, shown.now)) }
            p {
                @if !cause.evidence.is_empty() { (prose(&cause.evidence)) ". " }
                @if cause.affected > 0 { (cause.affected) " affected. " }
                @if cause.waiting > 0 { (number_of(usize::try_from(cause.waiting).unwrap_or(usize::MAX), "task")) " waiting. " }
                @if let Some(taken) = &cause.acknowledged { "Acknowledged by " (clean(&taken.by)) ". " }
                (prose(&cause.next))
            }
        }
    }
}

//! A message in words; how each service wants it written is told elsewhere.

use jiff::Timestamp;

use super::{Cause, CauseSeverity, Telling};
use crate::{api::number_of, base::age};

/// Objects that a message names.
const MOST_NAMED: usize = 12;
/// Causes that a message tells in full.
const MOST_ITEMS: usize = 10;
/// Of a message, in characters.
const MOST_TEXT: usize = 3_000;
const MOST_SUBJECT: usize = 160;

/// What one message tells: one cause, or all that became due at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// When it was written, for ages.
    pub at: Timestamp,
    /// Empty: a test.
    pub items: Vec<LetterItem>,
}

/// One cause, as its reader may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterItem {
    pub telling: Telling,
    pub due_at: Timestamp,
    pub cause: Cause,
}

/// Without control characters, and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterWords {
    pub subject: String,
    pub text: String,
    /// Of what is open; `None`: all of it is over, or it is a test.
    pub severity: Option<CauseSeverity>,
}

impl Letter {
    /// In words.
    pub fn words(&self) -> LetterWords {
        let open = self.items.iter().filter(|item| item.is_open());
        let severity = open.map(|item| item.cause.severity).max();
        let subject = match self.items.as_slice() {
            [] => "Ostler: a test message".to_owned(),
            [one] => one.headline(),
            [first, ..] => format!("{}, first: {}", number_of(self.items.len(), "cause"), first.headline()),
        };
        let mut text = self.items.iter().take(MOST_ITEMS).map(|item| item.text(self.at)).collect::<Vec<_>>();
        if self.items.is_empty() {
            text.push("This Notifier works: what fails is told here.".to_owned());
        }
        if self.items.len() > MOST_ITEMS {
            let more = number_of(self.items.len() - MOST_ITEMS, "more cause");
            text.push(format!("{more}: `ostler causes` lists them"));
        }
        LetterWords { subject: cut(&subject, MOST_SUBJECT), text: cut(&text.join("\n\n"), MOST_TEXT), severity }
    }
}

impl LetterItem {
    fn is_open(&self) -> bool {
        matches!(self.telling, Telling::Opened | Telling::Again | Telling::Repeat)
    }

    fn headline(&self) -> String {
        let (cause, severity) = (&self.cause, <&str>::from(self.cause.severity));
        match self.telling {
            Telling::Opened => format!("{severity}: {}", cause.title),
            Telling::Again => format!("{severity}, again ({} times): {}", cause.times, cause.title),
            Telling::Repeat => format!("{severity}, still: {}", cause.title),
            Telling::Resolved => format!("Resolved: {}", cause.title),
            Telling::Passed => format!("Over: {}", cause.title),
        }
    }

    fn text(&self, now: Timestamp) -> String {
        let cause = &self.cause;
        let lasted = cause.resolved_at.unwrap_or(now).duration_since(cause.since).as_secs();
        let mut lines = vec![self.headline()];
        let since = cause.since.strftime("%Y-%m-%d %H:%M:%S UTC");
        match (&cause.ended, cause.resolved_at) {
            (Some(ended), Some(_)) => lines.push(format!("since {since}, over after {}: {ended}", age(lasted))),
            _ => lines.push(format!("since {since} ({})", age(lasted))),
        }
        if !cause.evidence.is_empty() {
            lines.push(format!("why: {}", cause.evidence));
        }
        lines.extend(cause.tried.iter().map(|tried| format!("tried: {tried}")));
        if cause.member_count > 0 {
            lines.push(format!("affected ({}): {}", cause.member_count, some_of(cause)));
        }
        if cause.waiting > 0 {
            let wait = if cause.waiting == 1 { "waits" } else { "wait" };
            lines.push(format!("{} {wait} because of it", number_of(cause.waiting, "task")));
        }
        if self.is_open() {
            lines.push(format!("next: {}", cause.next));
            lines.push(format!("`ostler ack {}` stops repeats", cause.key));
        }
        lines.join("\n")
    }
}

/// The first members by name, and how many more there are.
pub fn some_of(cause: &Cause) -> String {
    let names: Vec<String> = cause.members.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    let more = cause.member_count.saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

//! Pieces that pages are made of. Whatever comes from outside is text: escaped by the templates, and freed here of what would steer a reader.

use std::borrow::Cow;

use jiff::Timestamp;
use maud::{Markup, html};

use super::session::UiSession;
use crate::{
    api::number_of,
    base::{age, escape},
    http::status::{Level, LinePart, LineText},
};

/// Text from outside, as it is shown: controls and what reorders a line are written out.
pub fn clean(text: &str) -> Cow<'_, str> {
    escape::for_terminal(text)
}

/// A sentence; what stands between backticks is something to type.
pub fn prose(text: &str) -> Markup {
    let text = clean(text);
    let parts: Vec<&str> = text.split('`').collect();
    // An odd backtick is one.
    let paired = parts.len() % 2 == 1;
    html! {
        @if paired {
            @for (index, part) in parts.iter().enumerate() {
                @if index % 2 == 1 { code { (part) } } @else { (part) }
            }
        } @else { (text) }
    }
}

/// What a line says, with its times as ages.
pub fn line_text(text: &LineText, now: Timestamp) -> Markup {
    html! {
        @for part in &text.0 {
            @match part {
                LinePart::Words(words) => (prose(words)),
                LinePart::Since(at) => (since(*at, now)),
                LinePart::Until(at) => (until(*at, now)),
            }
        }
    }
}

/// How long ago: `12s`. The script lets it pass.
pub fn since(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) data-age="since" { (age(now.duration_since(at).as_secs())) } }
}

/// In how long.
pub fn until(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) data-age="until" { (age(at.duration_since(now).as_secs())) } }
}

/// A time; the script tells it in the browser's zone.
pub fn moment(at: Timestamp) -> Markup {
    let seconds = Timestamp::from_second(at.as_second()).unwrap_or(at);
    html! { time datetime=(at) data-moment { (seconds.strftime("%Y-%m-%d %H:%M:%S UTC")) } }
}

/// The class of a level.
pub fn class(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Bad => "bad",
    }
}

/// A mark that is told apart by its shape, and read aloud.
pub fn mark(level: Level) -> Markup {
    let (sign, words) = match level {
        Level::Ok => ("✓", "as declared: "),
        Level::Warning => ("!", "to be known: "),
        Level::Bad => ("✗", "not as declared: "),
    };
    html! {
        span class={ "mark " (class(level)) } aria-hidden="true" { (sign) }
        span.aloud { (words) }
    }
}

/// Slots in use and their limit: as dots while they can be counted at a glance.
pub fn slots(used: Option<i64>, limit: Option<i32>) -> Markup {
    const MOST_DOTS: i32 = 16;
    let used = used.unwrap_or(0);
    html! {
        @if let Some(limit) = limit {
            span.slots {
                @if limit <= MOST_DOTS {
                    span.dots aria-hidden="true" {
                        @for slot in 0..limit { i.on[i64::from(slot) < used] {} }
                    }
                }
                (used) "/" (limit) " slots"
            }
        }
    }
}

/// A count; what is none stands back.
pub fn count(number: i64) -> Markup {
    html! { span.count.none[number == 0] { (grouped(number)) } }
}

/// `1,234,567`
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + 6);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// What every form of a session carries.
pub fn form_token(session: &UiSession) -> Markup {
    html! { input type="hidden" name="token" value=(session.form_token()); }
}

/// A form of one button.
pub fn button(session: &UiSession, action: &str, fields: &[(&str, &str)], words: &str, class: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            (form_token(session))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button class=(class) { (words) }
        }
    }
}

/// What a form did, by the word that its answer's link carries.
pub fn done_in_words(word: &str, count: Option<u64>) -> Option<String> {
    let tasks = || number_of(count.unwrap_or(0), "task");
    Some(match word {
        "cancel" => format!("{} cancelled.", tasks()),
        "retry" => format!("{} made pending again.", tasks()),
        "resume-tasks" => format!("{} resumed.", tasks()),
        "close" => format!("{} closed.", tasks()),
        "end-call" => "The call is being ended.".to_owned(),
        "reconcile" => "It is looked at now.".to_owned(),
        "suspend" => "It is suspended.".to_owned(),
        "resume" => "It is resumed.".to_owned(),
        "run" => "It runs once its gate is open.".to_owned(),
        "pause" => "Paused: nothing acts until the pause ends.".to_owned(),
        "acknowledge" => "It is not repeated for eight hours; that it is over is told.".to_owned(),
        "unpause" => "The pause is over.".to_owned(),
        _ => return None,
    })
}

/// Columns and their cells; on a narrow screen each row is a card, whose cells name their columns.
pub fn table(caption: &str, columns: &[&str], rows: impl IntoIterator<Item = (String, Vec<Markup>)>) -> Markup {
    html! {
        table {
            caption.aloud { (clean(caption)) }
            thead { tr { @for column in columns { th scope="col" { (clean(column)) } } } }
            tbody data-rows {
                @for (id, cells) in rows {
                    tr id=(id) {
                        @for (column, cell) in columns.iter().zip(cells) { td data-column=(clean(column)) { (cell) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "<script>alert(1)</script>\" onload=\"x\u{202e}\u{1b}[2J`";

    #[test]
    fn what_comes_from_outside_is_text() {
        let now = Timestamp::from_second(100).unwrap();
        let text = LineText::new(EVIL).since(now);
        let rows = [("row".to_owned(), vec![prose(EVIL)])];
        for html in [prose(EVIL), line_text(&text, now), table(EVIL, &[EVIL], rows), html! { p title=(clean(EVIL)) {} }]
        {
            let html = html.into_string();
            assert!(!html.contains("<script") && !html.contains("\" onload"), "{html}");
            assert!(!html.contains('\u{1b}'), "{html}");
        }
        assert!(!prose(EVIL).into_string().contains('\u{202e}'));
    }

    #[test]
    fn what_is_to_be_typed_is_told_apart() {
        assert_eq!(prose("do `ostler x`; then").into_string(), "do <code>ostler x</code>; then");
        assert_eq!(prose("one ` only").into_string(), "one ` only");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (405, "405"), (1_000, "1,000"), (1_234_567, "1,234,567"), (-12_345, "-12,345")]
        {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn only_known_words_say_what_was_done() {
        assert_eq!(done_in_words("cancel", Some(1)).as_deref(), Some("1 task cancelled."));
        assert_eq!(done_in_words("Your session expired: call 555", None), None);
    }
}

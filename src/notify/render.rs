//! A message as each service wants it: pure. What comes from outside is escaped for whoever reads it, and mentions nobody.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::causes::{CauseSeverity, Letter, LetterWords, Telling};

/// ntfy makes a file of what is longer, in bytes.
const MOST_NTFY: usize = 4_000;

/// For Slack's incoming webhooks, and for what takes the same.
pub fn slack(words: &LetterWords) -> Value {
    let LetterWords { subject, text, severity } = words;
    let color = match severity {
        Some(CauseSeverity::Critical) => "#c0392b",
        Some(CauseSeverity::Warning) => "#e0a800",
        Some(CauseSeverity::Info) | None => "#2e8b57",
    };
    let (subject, text) = (for_slack(subject), for_slack(text));
    json!({"text": subject, "attachments": [{"color": color, "fallback": subject, "text": text, "mrkdwn_in": []}]})
}

/// Slack reads `<…>` and `&…;` only; others read `@all` as well.
fn for_slack(text: &str) -> String {
    html(text).replace('@', "@\u{200b}")
}

/// For `sendMessage` of Telegram's Bot API.
pub fn telegram(words: &LetterWords, chat: &str) -> Value {
    let text = format!("<b>{}</b>\n{}", html(&words.subject), html(&words.text));
    json!({"chat_id": chat, "text": text, "parse_mode": "HTML", "link_preview_options": {"is_disabled": true}})
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// For ntfy, which takes JSON at its root.
pub fn ntfy(words: &LetterWords, topic: &str) -> Value {
    let (priority, tag) = match words.severity {
        Some(CauseSeverity::Critical) => (5, "rotating_light"),
        Some(CauseSeverity::Warning) => (4, "warning"),
        Some(CauseSeverity::Info) | None => (3, "white_check_mark"),
    };
    let end = (0..=MOST_NTFY.min(words.text.len())).rev().find(|at| words.text.is_char_boundary(*at)).unwrap_or(0);
    json!({"topic": topic, "title": words.subject, "message": &words.text[..end], "priority": priority, "tags": [tag]})
}

/// For programs.
pub fn webhook(letter: &Letter, words: &LetterWords) -> Value {
    let messages: Vec<Value> = letter
        .items
        .iter()
        .map(|item| {
            let cause = &item.cause;
            json!({
                "telling": item.telling,
                "key": cause.key,
                "openedAt": cause.opened_at,
                "severity": cause.severity,
                "class": cause.class,
                "title": cause.title,
                "evidence": cause.evidence,
                "since": cause.since,
                "resolvedAt": cause.resolved_at,
                "times": cause.times,
                "tried": cause.tried,
                "affected": cause.member_count,
                "members": cause.members,
                "waiting": cause.waiting,
                "next": cause.next,
            })
        })
        .collect();
    json!({"type": "ostler.causes", "timestamp": letter.at, "subject": words.subject, "messages": messages})
}

/// The same for each attempt of the same message. It has no full stop.
pub fn message_id(letter: &Letter) -> String {
    let mut hash = Sha256::new();
    for item in &letter.items {
        let telling = telling(item.telling);
        hash.update(format!("{}\n{}\n{telling}\n{}\n", item.cause.key, item.cause.opened_at, item.due_at));
    }
    if letter.items.is_empty() {
        hash.update(letter.at.to_string());
    }
    hex(&hash.finalize())
}

/// The same for all messages about one cause.
pub fn thread_id(key: &str, opened_at: Timestamp) -> String {
    hex(&Sha256::digest(format!("{key}\n{opened_at}")))
}

fn telling(telling: Telling) -> &'static str {
    telling.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> LetterWords {
        LetterWords { subject: text.to_owned(), text: text.to_owned(), severity: Some(CauseSeverity::Critical) }
    }

    #[test]
    fn what_comes_from_outside_is_text_for_each_service() {
        let evil = "<!channel> & <b>@everyone</b> <https://evil|click>";
        let slack = slack(&words(evil));
        let text = slack["attachments"][0]["text"].as_str().unwrap();
        assert!(
            !text.contains('<') && !text.contains("@everyone") && text.contains("&lt;!channel&gt; &amp;"),
            "{text}"
        );
        assert_eq!(slack["text"], slack["attachments"][0]["fallback"]);
        let telegram = telegram(&words(evil), "-100");
        let text = telegram["text"].as_str().unwrap();
        assert_eq!(
            (text.matches("<b>").count(), &telegram["parse_mode"], &telegram["chat_id"]),
            (1, &"HTML".into(), &"-100".into())
        );
        assert!(text.contains("&lt;b&gt;@everyone"), "{text}");
        let ntfy = ntfy(&words(evil), "alerts");
        assert_eq!((&ntfy["topic"], &ntfy["message"], &ntfy["priority"]), (&"alerts".into(), &evil.into(), &5.into()));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let ntfy = ntfy(&words(&"ä".repeat(3_000)), "t");
        assert_eq!(ntfy["message"].as_str().unwrap().len(), MOST_NTFY);
    }

    #[test]
    fn an_attempt_has_the_id_of_the_one_before_and_a_thread_that_of_its_cause() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let test = |second: i64| message_id(&Letter { at: at(second), items: Vec::new() });
        assert_ne!(test(0), test(1));
        assert_eq!(thread_id("a", at(0)), thread_id("a", at(0)));
        assert_ne!(thread_id("a", at(0)), thread_id("a", at(1)));
    }
}

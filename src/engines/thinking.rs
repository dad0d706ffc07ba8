//! Tells what a model reasons before its answer from the answer. Pure.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
/// Reasoning that is kept; the rest counts as tokens and is dropped.
const MOST_BYTES: usize = 1 << 20;

/// An answer that grows by pieces. `<think>…</think>` at its beginning is reasoning, though its tags come in pieces.
#[derive(Debug, Default)]
pub(super) struct SplitAnswer {
    text: String,
    reasoning: String,
    place: Place,
    /// What may become a tag.
    held: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Beginning,
    Inside,
    /// Behind the closing tag: white space is no part of the answer.
    Behind,
    Answer,
}

impl SplitAnswer {
    pub(super) fn len(&self) -> usize {
        self.text.len() + self.held.len()
    }

    pub(super) fn reason(&mut self, piece: &str) {
        let room = MOST_BYTES.saturating_sub(self.reasoning.len());
        self.reasoning.push_str(&piece[..piece.floor_char_boundary(room)]);
    }

    pub(super) fn push(&mut self, piece: &str) {
        match self.place {
            Place::Answer => self.text.push_str(piece),
            Place::Behind => {
                let piece = piece.trim_start();
                if !piece.is_empty() {
                    self.place = Place::Answer;
                    self.text.push_str(piece);
                }
            }
            Place::Inside => self.inside(piece),
            Place::Beginning => {
                self.held.push_str(piece);
                let start = self.held.trim_start();
                if let Some(rest) = start.strip_prefix(OPEN).map(str::to_owned) {
                    self.place = Place::Inside;
                    self.held.clear();
                    self.inside(&rest);
                } else if !OPEN.starts_with(start) || self.held.len() > 64 {
                    self.place = Place::Answer;
                    self.text.push_str(&std::mem::take(&mut self.held));
                }
            }
        }
    }

    fn inside(&mut self, piece: &str) {
        self.held.push_str(piece);
        let held = std::mem::take(&mut self.held);
        if let Some((reasoning, answer)) = held.split_once(CLOSE) {
            self.reason(reasoning);
            self.place = Place::Behind;
            self.push(answer);
            return;
        }
        let kept = (1..CLOSE.len()).rev().find(|length| held.ends_with(&CLOSE[..*length])).unwrap_or(0);
        let (reasoning, tag) = held.split_at(held.len() - kept);
        self.reason(reasoning);
        tag.clone_into(&mut self.held);
    }

    /// Text and reasoning.
    pub(super) fn finish(mut self) -> (String, String) {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Inside => self.reason(&held),
            Place::Beginning | Place::Behind | Place::Answer => self.text.push_str(&held),
        }
        if self.reasoning.is_empty()
            && let Some((reasoning, answer)) = unopened(&self.text)
        {
            return (answer.to_owned(), reasoning.to_owned());
        }
        (self.text, self.reasoning)
    }
}

/// Some models' templates open the reasoning within the prompt: the answer has the closing tag alone, on a line of its own.
fn unopened(text: &str) -> Option<(&str, &str)> {
    let (reasoning, answer) = text.split_once(CLOSE)?;
    let own_line = (reasoning.trim_end_matches([' ', '\t']).ends_with('\n') || reasoning.trim().is_empty())
        && (answer.is_empty() || answer.trim_start_matches([' ', '\t']).starts_with(['\n', '\r']));
    let quoted = reasoning.matches("```").count() % 2 == 1;
    let whole = own_line && !quoted && !reasoning.contains(OPEN) && !answer.contains(CLOSE);
    whole.then(|| (reasoning.trim_end(), answer.trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&str]) -> (String, String) {
        let mut answer = SplitAnswer::default();
        pieces.iter().for_each(|piece| answer.push(piece));
        answer.finish()
    }

    #[test]
    fn reasoning_is_kept_apart_and_nothing_else_is() {
        let cases = [
            ("Paris", ("Paris", "")),
            ("  Paris ", ("  Paris ", "")),
            ("", ("", "")),
            ("<think>Hm.</think>\n\nParis", ("Paris", "Hm.")),
            ("\n<think>\nHm. < 3 </thi\n</think>Paris", ("Paris", "\nHm. < 3 </thi\n")),
            ("<think></think>{\"n\":1}", ("{\"n\":1}", "")),
            ("<think>Hm, and then", ("", "Hm, and then")),
            ("<think>Hm</thin", ("", "Hm</thin")),
            ("<thi", ("<thi", "")),
            ("<thinking>x", ("<thinking>x", "")),
            ("a <think>b</think> c", ("a <think>b</think> c", "")),
            ("<think>a</think>b <think>c</think>", ("b <think>c</think>", "a")),
            ("Hm.\n</think>\n\nParis", ("Paris", "Hm.")),
            ("The tag </think> ends it.", ("The tag </think> ends it.", "")),
            ("```\n</think>\n```", ("```\n</think>\n```", "")),
            ("<think>é</think>ü", ("ü", "é")),
        ];
        for (whole, (text, reasoning)) in cases {
            assert_eq!(read(&[whole]), (text.to_owned(), reasoning.to_owned()), "{whole:?}");
        }
    }

    #[test]
    fn reasoning_is_bounded() {
        let mut answer = SplitAnswer::default();
        (0..3).for_each(|_| answer.reason(&"é".repeat(300_000)));
        assert!(answer.finish().1.len() <= MOST_BYTES);
    }

    proptest! {
        #[test]
        fn the_cuts_of_the_network_change_nothing(whole in "(\n|<think>|</think>|<|a|é| ){0,9}", cuts in proptest::collection::vec(0usize..30, 0..9)) {
            let mut places: Vec<usize> = cuts.into_iter().map(|cut| whole.floor_char_boundary(cut.min(whole.len()))).collect();
            places.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for place in places {
                pieces.push(&whole[from..place]);
                from = place;
            }
            pieces.push(&whole[from..]);
            prop_assert_eq!(read(&pieces), read(&[&whole]));
        }
    }
}

//! What a line says: words, and times that are shown as ages. Pages keep them apart, so that a page that says the same is the same.

use jiff::Timestamp;

use crate::base::age;

/// A part of what a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinePart {
    Words(String),
    /// How long ago that was.
    Since(Timestamp),
    /// In how long that will be.
    Until(Timestamp),
}

/// What a line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineText(pub Vec<LinePart>);

impl LineText {
    pub fn new(words: impl Into<String>) -> Self {
        Self::default().words(words)
    }

    #[must_use]
    pub fn words(mut self, words: impl Into<String>) -> Self {
        self.0.push(LinePart::Words(words.into()));
        self
    }

    #[must_use]
    pub fn since(mut self, at: Timestamp) -> Self {
        self.0.push(LinePart::Since(at));
        self
    }

    #[must_use]
    pub fn until(mut self, at: Timestamp) -> Self {
        self.0.push(LinePart::Until(at));
        self
    }

    /// `words (for 12s)`
    #[must_use]
    pub fn lasting(self, since: Option<Timestamp>) -> Self {
        match since {
            Some(at) => self.words(" (for ").since(at).words(")"),
            None => self,
        }
    }

    /// Those that say something, with `between` in between.
    pub fn joined(parts: impl IntoIterator<Item = Self>, between: &str) -> Self {
        let mut all = Self::default();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            if !all.0.is_empty() {
                all = all.words(between);
            }
            all.0.extend(part.0);
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|part| matches!(part, LinePart::Words(words) if words.is_empty()))
    }

    pub fn in_words(&self, now: Timestamp) -> String {
        let words = self.0.iter().map(|part| match part {
            LinePart::Words(words) => words.clone(),
            LinePart::Since(at) => age(now.duration_since(*at).as_secs()),
            LinePart::Until(at) => age(at.duration_since(now).as_secs()),
        });
        words.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_where_times_are_kept() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let text = LineText::joined(
            [
                LineText::new("refused").lasting(Some(at(40))),
                LineText::new(""),
                LineText::new("again in ").until(at(130)),
            ],
            "; ",
        );
        assert_eq!(text.in_words(at(100)), "refused (for 60s); again in 30s");
        assert!(LineText::new("").is_empty() && !LineText::default().since(at(1)).is_empty());
    }
}

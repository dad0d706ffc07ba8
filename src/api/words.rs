//! Numbers in sentences.

use std::fmt::Display;

/// `1 model`, `2 models`.
pub fn number_of(count: impl Display, what: &str) -> String {
    let count = count.to_string();
    let end = if count == "1" { "" } else { "s" };
    format!("{count} {what}{end}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|n| super::number_of(n, "model")), ["0 models", "1 model", "2 models"]);
    }
}

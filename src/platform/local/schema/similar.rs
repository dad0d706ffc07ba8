//! "Did you mean …?"

/// Nobody means a known name by a longer word, in bytes.
const LONGEST: usize = 100;

/// The candidate nearest to a word, when it is near enough to have been meant.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognized_and_another_word_is_not() {
        let known = ["url", "engine", "concurrency", "authSecretRef"];
        for (word, meant) in [
            ("ulr", None),
            ("urls", Some("url")),
            ("Engine", Some("engine")),
            ("concurency", Some("concurrency")),
            ("authSecret", Some("authSecretRef")),
            ("replicas", None),
            (&"url".repeat(10_000_000), None),
        ] {
            assert_eq!(closest(word, known.into_iter()), meant, "{word}");
        }
    }
}

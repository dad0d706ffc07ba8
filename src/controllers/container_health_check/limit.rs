//! How far a limit of memory is raised.

use crate::api::{OutOfMemory, quantity};

/// What a container that ran out of memory should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// In bytes.
    To(i64),
    /// It has all that it may have: a person's turn.
    AtMax,
}

/// The next limit, for one that ran out of memory under `limit`. Without a limit its own use was not the matter, but the
/// host's: nothing to raise.
pub fn raised(policy: &OutOfMemory, limit: Option<i64>) -> Option<Raised> {
    let limit = limit.filter(|limit| *limit > 0)?;
    let bytes = |text: &str| quantity::bytes(text).and_then(|bytes| i64::try_from(bytes).ok());
    let by_percent = i128::from(limit) * i128::from(100 + policy.increase_percent) / 100;
    let least = i128::from(limit) + i128::from(bytes(&policy.min_increase).unwrap_or_default());
    let wanted = i64::try_from(by_percent.max(least)).unwrap_or(i64::MAX);
    Some(match policy.max.as_deref().and_then(bytes) {
        Some(max) if limit >= max => Raised::AtMax,
        Some(max) => Raised::To(wanted.min(max)),
        None => Raised::To(wanted),
    })
}

/// Bytes as people write them: `1229Mi`.
pub fn shown(bytes: i64) -> String {
    for (unit, size) in [("Gi", 1_i64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
        if bytes >= size && bytes % size == 0 {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MI: i64 = 1 << 20;

    #[test]
    fn a_limit_grows_by_percent_at_least_by_so_much_and_never_past_its_max() {
        let policy = |increase_percent, min_increase: &str, max: Option<&str>| OutOfMemory {
            increase_percent,
            min_increase: min_increase.into(),
            max: max.map(str::to_owned),
            ..OutOfMemory::default()
        };
        for (policy, limit, expected) in [
            (policy(20, "100Mi", None), Some(1000 * MI), Some(Raised::To(1200 * MI))),
            (policy(20, "100Mi", None), Some(20 * MI), Some(Raised::To(120 * MI))),
            (policy(20, "100Mi", Some("64Mi")), Some(20 * MI), Some(Raised::To(64 * MI))),
            (policy(20, "100Mi", Some("64Mi")), Some(64 * MI), Some(Raised::AtMax)),
            (policy(20, "100Mi", Some("64Mi")), Some(65 * MI), Some(Raised::AtMax)),
            (policy(20, "100Mi", Some("64Mi")), None, None),
            (policy(1000, "1", None), Some(i64::MAX), Some(Raised::To(i64::MAX))),
        ] {
            assert_eq!(raised(&policy, limit), expected, "{policy:?} {limit:?}");
        }
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_fits() {
        for (bytes, expected) in
            [(120 * MI, "120Mi"), (2 << 30, "2Gi"), (1 << 10, "1Ki"), (1000, "1000"), (20_000_001, "20000001")]
        {
            assert_eq!(shown(bytes), expected);
        }
    }
}

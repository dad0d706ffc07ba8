//! Ages as kubectl writes them.

/// `12s`, `3m20s`, `2h5m`, `3d4h`: two units at most, and one from ten of it on, as in kubectl's AGE column.
pub fn age(seconds: i64) -> String {
    let s = seconds.max(0);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 || big >= 10 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match s {
        0..120 => format!("{s}s"),
        120..3_600 => two(s / 60, "m", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "m"),
        _ => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn an_age_has_two_units_at_most() {
        for (seconds, text) in [
            (-3, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (750, "12m"),
            (3_600, "1h"),
            (7_500, "2h5m"),
            (43_200, "12h"),
            (273_600, "3d4h"),
            (2_592_000, "30d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}

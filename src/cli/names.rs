//! What people type: `KIND/NAME`, `2h30m`.

use std::time::Duration;

use super::CliError;
use crate::http::{KINDS, Kind};

/// `KIND NAME`, `KIND/NAME` or `KIND`.
pub fn kind_and_name(text: &str, name: Option<String>) -> Result<(Kind, Option<String>), CliError> {
    let (kind, inner) = match text.split_once('/') {
        Some((kind, inner)) => (kind, Some(inner.to_owned())),
        None => (text, None),
    };
    let known = || KINDS.map(|k| format!("{} ({})", k.plural, k.short)).join(", ");
    let kind = Kind::find(nickname(kind))
        .ok_or_else(|| CliError::misused(format!("there is no kind {kind:?}: there are {}", known())))?;
    match (inner, name) {
        (Some(a), Some(b)) => Err(CliError::misused(format!("two names, {a:?} and {b:?}: write one"))),
        (Some(inner), None) if inner.is_empty() => {
            Err(CliError::misused(format!("{text:?} has no name: write {}/NAME", kind.short)))
        }
        (inner, name) => Ok((kind, inner.or(name))),
    }
}

/// What people call a kind, by its whole name.
fn nickname(word: &str) -> &str {
    match word {
        "queue" | "queues" => "taskqueues",
        "pool" | "pools" => "workerpools",
        "schedule" | "schedules" => "taskschedules",
        other => other,
    }
}

/// `KIND/NAME`, and nothing less.
pub fn one(text: &str) -> Result<(Kind, String), CliError> {
    match kind_and_name(text, None)? {
        (kind, Some(name)) => Ok((kind, name)),
        (kind, None) => Err(CliError::misused(format!("{text:?} names no resource: write {}/NAME", kind.short))),
    }
}

/// `90s`, `15m`, `2h`, `1d12h`: whole numbers with units.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration: write 90s, 15m, 2h or 1d12h");
    let (mut total, mut number) = (0_u64, String::new());
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let count: u64 = number.parse().map_err(|_| bad())?;
        total = count.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        number.clear();
    }
    if number.is_empty() && total > 0 { Ok(Duration::from_secs(total)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_named_as_with_kubectl() {
        let name = |text: &str, name: Option<&str>| {
            kind_and_name(text, name.map(str::to_owned)).map(|(k, n)| (k.short, n)).map_err(|e| e.to_string())
        };
        assert_eq!(name("llm", None), Ok(("llm", None)));
        assert_eq!(name("llm/mlx", None), Ok(("llm", Some("mlx".into()))));
        assert_eq!(name("HostAgent", Some("mac")), Ok(("ha", Some("mac".into()))));
        for (text, second) in [("pods", None), ("llm/", None), ("llm/a", Some("b"))] {
            assert!(name(text, second).is_err(), "{text} {second:?}");
        }
        assert!(one("llm").unwrap_err().to_string().contains("llm/NAME"));
    }

    #[test]
    fn a_duration_has_units() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7_200), ("1d12h", 129_600)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "2", "h", "2 h", "-2h", "2w", "0s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}

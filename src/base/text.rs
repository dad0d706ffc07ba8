//! Ages as kubectl writes them, durations as people write them, "did you mean …?", and which value of the chart
//! grants what an API server refuses.

use std::time::Duration;

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

/// Nobody means a known name by a longer word, in bytes.
const LONGEST: usize = 100;

/// The candidate nearest to a word, when it is near enough to have been meant.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The refusal of an API server, with the value of the chart that would allow it where one does.
pub fn with_mend(refusal: &str) -> String {
    match chart_value(refusal) {
        Some(value) => format!("{refusal}; the chart grants it by {value}"),
        None => refusal.to_owned(),
    }
}

/// Of `… cannot VERB resource "RESOURCE" in API group …`.
fn chart_value(refusal: &str) -> Option<&'static str> {
    let (verb, rest) = refusal.split_once(" cannot ")?.1.split_once(" resource \"")?;
    let resource = rest.split_once('"')?.0;
    Some(match (verb, resource) {
        ("get", "secrets") => "secretNamespaces: [NAMESPACE]",
        ("get", "configmaps") => "readConfigMaps: true",
        ("get", "pods/log") => "readLogs: true",
        ("patch", "pods/resize") => "resizePods: true",
        (_, "deployments/scale") => "scaleWorkers: true",
        ("create", "deployments") | ("patch", "pods") => "makeWorkers: true",
        ("patch", "deployments" | "statefulsets" | "daemonsets") => "patchWorkloads: true",
        ("get", "deployments") | ("list", "pods") => "restartWorkloads: true, or for a WorkerPool scaleWorkers: true",
        ("delete", "pods") | ("list", "replicasets") | ("get", "statefulsets" | "daemonsets") => {
            "restartWorkloads: true"
        }
        (_, "llmbackends" | "hostagents" | "experts" | "taskqueues" | "workerpools")
        | (_, "taskschedules" | "containerhealthchecks" | "callers") => "watchNamespaces: [NAMESPACE]",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_duration_has_units() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7_200), ("1d12h", 129_600)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "2", "h", "2 h", "-2h", "2w", "0s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

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

    #[test]
    fn a_refusal_names_the_value_that_would_allow_it() {
        let refused = |verb: &str, resource: &str| {
            format!(
                "{resource} \"x\" is forbidden: User \"system:serviceaccount:o:ostler\" cannot {verb} resource \"{resource}\" in API group \"\" in the namespace \"team\""
            )
        };
        for (verb, resource, value) in [
            ("get", "secrets", Some("secretNamespaces: [NAMESPACE]")),
            ("get", "configmaps", Some("readConfigMaps: true")),
            ("get", "pods/log", Some("readLogs: true")),
            ("patch", "pods/resize", Some("resizePods: true")),
            ("patch", "deployments/scale", Some("scaleWorkers: true")),
            ("create", "deployments", Some("makeWorkers: true")),
            ("patch", "statefulsets", Some("patchWorkloads: true")),
            ("delete", "pods", Some("restartWorkloads: true")),
            ("get", "daemonsets", Some("restartWorkloads: true")),
            ("get", "deployments", Some("restartWorkloads: true, or for a WorkerPool scaleWorkers: true")),
            ("list", "llmbackends", Some("watchNamespaces: [NAMESPACE]")),
            ("list", "nodes", None),
        ] {
            let said = refused(verb, resource);
            assert_eq!(chart_value(&said), value, "{verb} {resource}");
            assert!(with_mend(&said).starts_with(&said));
        }
        assert_eq!(with_mend("no"), "no");
    }
}

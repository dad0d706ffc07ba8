//! Alerts, board and runbooks: they ask for series that exist, fire when they should, and each leads somewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rules() -> Vec<Value> {
    let document: Value = serde_saphyr::from_str(&read("charts/ostler/files/rules.yaml")).expect("YAML");
    document["groups"][0]["rules"].as_array().expect("rules").clone()
}

/// What docs/metrics.md lists, with its labels. That the page is whole is what its own test sees to.
fn series() -> BTreeMap<String, String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).filter(|row| is_series(row));
    let row = |row: &str| {
        let (name, rest) = row.split_once('`').expect("a name");
        (name.to_owned(), rest.to_owned())
    };
    rows.map(row).collect()
}

/// Whether a name is that of a series, and not that of a label.
fn is_series(name: &str) -> bool {
    ["ostler_", "gen_ai_server_", "gen_ai_client_"].iter().any(|begin| name.starts_with(begin))
}

/// The names of series in an expression.
fn asked(expression: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_of_name(c)).filter(|word| is_series(word));
    let base = |word: &str| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

/// Labels that an expression groups by or selects.
fn labels(expression: &str) -> BTreeSet<String> {
    let by = expression.split(" by (").skip(1).filter_map(|rest| rest.split(')').next());
    let selected = expression.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let selected = selected.flat_map(|all| all.split(',').filter_map(|one| one.split('=').next()));
    by.flat_map(|all| all.split(','))
        .chain(selected)
        .map(|label| label.trim().to_owned())
        .filter(|l| l != "le")
        .collect()
}

#[test]
fn every_query_of_alerts_and_board_asks_for_series_and_labels_that_exist() {
    let board: Value = serde_json::from_str(&read("charts/ostler/files/dashboard.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels").clone();
    let of_panels = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets").clone());
    let queries: Vec<String> =
        rules().into_iter().chain(of_panels).map(|one| one["expr"].as_str().expect("a query").to_owned()).collect();
    assert!(queries.len() > 20, "{queries:?}");
    let known = series();
    for query in queries {
        let names = asked(&query);
        assert!(!names.is_empty(), "{query}");
        for label in labels(&query) {
            let has = names.iter().any(|name| known.get(name).is_some_and(|row| row.contains(&format!("`{label}`"))));
            assert!(has, "{query}: no series of it has the label {label}");
        }
        for name in names {
            assert!(known.contains_key(&name), "{query}: docs/metrics.md has no {name}");
        }
    }
}

#[test]
fn every_alert_has_its_runbook_and_every_runbook_its_alert() {
    let mut alerts = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name").to_owned();
        let runbook = rule["annotations"]["runbook_url"].as_str().expect("a runbook");
        assert_eq!(runbook, format!("docs/runbooks/{name}.md"));
        let text = read(runbook);
        for part in ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"] {
            assert!(text.contains(part), "{runbook} has no {part}");
        }
        let expression = rule["expr"].as_str().expect("an expression");
        assert!(text.contains(expression), "{runbook} shows another expression than {expression}");
        alerts.insert(format!("{name}.md"));
    }
    let files = fs::read_dir(repository("docs/runbooks")).expect("read the folder");
    let files: BTreeSet<String> =
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(files, alerts);
}

#[test]
fn real_promtool_takes_the_rules_and_each_fires_when_it_should_and_else_does_not() {
    let promtool = |args: &[&str]| {
        let output = Command::new("promtool").args(args).current_dir(repository(".")).output().expect("run promtool");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "promtool {args:?}: {said}");
        said
    };
    let said = promtool(&["check", "rules", "charts/ostler/files/rules.yaml"]);
    assert!(said.contains(&format!("{} rules found", rules().len())), "{said}");
    let cases = "tests/parts/prometheus/rules-test.yaml";
    promtool(&["test", "rules", cases]);
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name").to_owned();
        let tested = read(cases).matches(&format!("ALERTS{{alertname=\"{name}\"")).count();
        assert!(tested >= 2, "{name}: at least once firing, once quiet");
    }
}

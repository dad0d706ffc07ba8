use std::sync::LazyLock;

use serde_json::json;

use super::*;
use crate::platform::ManifestPlace;

const A: &str = "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: a}\nspec: {engine: Ollama, url: 'http://127.0.0.1:1'}\n";
const A_CHANGED: &str = "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: a}\nspec: {engine: Ollama, url: 'http://127.0.0.1:2'}\n";
const A_DEFAULTS: &str = "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: a}\nspec: {engine: Ollama, url: 'http://127.0.0.1:1', priority: 100, mode: Enforce}\n";
const A_LABELED: &str = "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: a, labels: {x: z}}\nspec: {engine: Ollama, url: 'http://127.0.0.1:1'}\n";
const A_WRONG: &str = "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: a}\nspec: {engine: Ollama, uri: 'http://127.0.0.1:1'}\n";
const B: &str = "apiVersion: ostler.dev/v1alpha1\nkind: HostAgent\nmetadata: {name: b, namespace: team}\nspec: {url: 'http://127.0.0.1:9099'}\n";
const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aGVsbG8=}\nstringData: {b: world}\n";
const BROKEN: &str = "apiVersion: [ostler.dev\n";
const GRACE: SignedDuration = SignedDuration::from_secs(30);

static KINDS: LazyLock<Kinds> = LazyLock::new(|| Kinds::new(&[]).unwrap());

/// A folder over time, as the platform drives the core.
struct Home {
    state: FolderState,
    now: Timestamp,
    uids: u32,
    derive: Derive,
}

impl Home {
    fn new() -> Self {
        Self { state: FolderState::default(), now: Timestamp::UNIX_EPOCH, uids: 0, derive: Arc::new(|_| Vec::new()) }
    }

    fn sees(&mut self, files: &[(&str, &str)]) -> FolderPlan {
        self.takes(Ok(files
            .iter()
            .map(|(name, text)| ManifestFile { name: (*name).to_owned(), text: Ok((*text).to_owned()) })
            .collect()))
    }

    fn takes(&mut self, files: Result<Vec<ManifestFile>, String>) -> FolderPlan {
        let folder = FolderSnapshot { name: "team".to_owned(), files };
        let uids = &mut self.uids;
        let plan = plan(&folder, &KINDS, &self.derive, &self.state, GRACE, self.now, || {
            *uids += 1;
            format!("uid-{uids}")
        });
        for record in &plan.puts {
            let version = record.resource_version;
            assert!(version > self.state.resource_version, "versions rise");
            self.state.resource_version = version;
            self.state.records.insert(record.key.clone(), record.clone());
        }
        for key in &plan.deletes {
            self.state.records.remove(key);
        }
        self.state.secrets.clone_from(&plan.secrets);
        self.state.missing.clone_from(&plan.missing);
        self.state.files.clone_from(&plan.files);
        self.state.of_another = false;
        plan
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn names(&self) -> Vec<&str> {
        self.state.records.keys().map(|key| key.name.as_str()).collect()
    }

    fn a(&self) -> &LocalRecord {
        let mut records = self.state.records.values();
        records.find(|record| record.key.name == "a").unwrap()
    }
}

fn said(plan: &FolderPlan) -> Vec<String> {
    plan.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_new_manifest_is_a_new_resource_in_the_default_namespace() {
    let mut home = Home::new();
    let plan = home.sees(&[("a.yaml", A)]);
    assert_eq!(said(&plan), Vec::<String>::new());
    let record = home.a();
    assert_eq!(record.key.to_string(), "LLMBackend default/a");
    assert_eq!((record.uid.as_str(), record.generation), ("uid-1", 1));
    assert_eq!(record.manifest["spec"]["priority"], 100, "defaults are filled in");
}

#[test]
fn the_generation_rises_only_when_the_defaulted_spec_differs() {
    for (text, generation, writes) in [(A, 1, 0), (A_DEFAULTS, 1, 0), (A_LABELED, 1, 1), (A_CHANGED, 2, 1)] {
        let mut home = Home::new();
        home.sees(&[("a.yaml", A)]);
        let plan = home.sees(&[("renamed.yaml", text)]);
        assert_eq!(plan.puts.len(), writes, "{text}");
        assert_eq!(home.a().generation, generation, "{text}");
        assert_eq!(home.a().uid, "uid-1", "{text}");
    }
}

#[test]
fn a_deletion_takes_effect_after_the_grace_period() {
    let mut home = Home::new();
    home.sees(&[("a.yaml", A), ("b.yaml", B)]);
    home.sees(&[("b.yaml", B)]);
    home.later(29);
    assert!(home.sees(&[("b.yaml", B)]).deletes.is_empty());
    home.later(1);
    assert_eq!(home.sees(&[("b.yaml", B)]).deletes.len(), 1);
    assert_eq!(home.names(), ["b"]);
}

#[test]
fn what_comes_back_in_time_keeps_its_uid_and_what_comes_back_later_is_new() {
    for (away, uid) in [(29, "uid-1"), (31, "uid-2")] {
        let mut home = Home::new();
        home.sees(&[("a.yaml", A), ("s.yaml", SECRET)]);
        home.sees(&[("s.yaml", SECRET)]);
        home.later(away);
        home.sees(&[("s.yaml", SECRET)]);
        home.sees(&[("a.yaml", A), ("s.yaml", SECRET)]);
        assert_eq!(home.a().uid, uid, "away for {away}s");
    }
}

#[test]
fn an_emptied_or_vanished_folder_deletes_nothing() {
    for gone in [Ok(Vec::new()), Err("no such file".to_owned())] {
        let mut home = Home::new();
        home.sees(&[("a.yaml", A), ("b.yaml", B), ("s.yaml", SECRET)]);
        for _ in 0..3 {
            let plan = home.takes(gone.clone());
            assert!(plan.deletes.is_empty());
            assert!(said(&plan).iter().any(|p| p.contains("LLMBackend default/a: keeps its last good version")));
            home.later(3600);
        }
        assert_eq!(home.names(), ["b", "a"]);
        assert_eq!(home.state.secrets.len(), 1);
        home.sees(&[("b.yaml", B)]);
        assert_eq!(home.names(), ["b", "a"], "the grace period begins when the folder is back");
    }
}

#[test]
fn a_broken_file_keeps_its_last_good_resources_and_nothing_is_deleted_meanwhile() {
    let mut home = Home::new();
    home.sees(&[("a.yaml", A), ("b.yaml", B)]);
    for _ in 0..3 {
        let plan = home.sees(&[("a.yaml", BROKEN)]);
        assert!(plan.deletes.is_empty() && plan.puts.is_empty());
        assert_eq!(plan.problems[0].place, Some(ManifestPlace { file: "a.yaml".into(), line: 1 }));
        home.later(60);
    }
    assert_eq!(home.names(), ["b", "a"]);
    home.sees(&[("a.yaml", A)]);
    home.later(30);
    home.sees(&[("a.yaml", A)]);
    assert_eq!(home.names(), ["a"]);
}

#[test]
fn a_wrong_document_keeps_its_last_good_version_and_the_others_go_on() {
    let mut home = Home::new();
    home.sees(&[("all.yaml", A)]);
    let plan = home.sees(&[("all.yaml", &format!("{B}---\n{A_WRONG}"))]);
    assert_eq!(
        said(&plan),
        [
            "all.yaml:9: LLMBackend default/a: spec.uri: unknown field; did you mean url?",
            "all.yaml:9: LLMBackend default/a: spec.url: is required: set it",
        ]
    );
    assert_eq!(home.a().manifest["spec"]["url"], "http://127.0.0.1:1");
    assert_eq!(home.names(), ["b", "a"]);
}

#[test]
fn of_what_is_declared_twice_none_counts() {
    let mut home = Home::new();
    home.sees(&[("a.yaml", A)]);
    let plan = home.sees(&[("a.yaml", A), ("z.yaml", A_CHANGED)]);
    assert_eq!(said(&plan), ["z.yaml:1: LLMBackend default/a: is declared in a.yaml:1 already: remove one of them"]);
    assert_eq!(home.a().generation, 1);
}

#[test]
fn secrets_are_taken_decoded_and_never_recorded_or_shown() {
    let mut home = Home::new();
    let plan = home.sees(&[("s.yaml", SECRET)]);
    assert!(plan.puts.is_empty());
    let data = home.state.secrets.values().next().unwrap();
    assert_eq!(data.data["a"], b"hello");
    assert_eq!(data.data["b"], b"world");
    let shown = format!("{:?}", home.state);
    assert!(!shown.contains("104, 101") && !shown.contains("world"), "{shown}");

    let wrong = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {pin: 4711}\ndata: {k: 's3cr3t!'}\n";
    let plan = home.sees(&[("s.yaml", wrong)]);
    assert_eq!(
        said(&plan),
        [
            "s.yaml:4: Secret default/s: stringData.pin: must be a string, but is a number: put it in quotes",
            "s.yaml:5: Secret default/s: data.k: must be base64; plain text goes under stringData",
        ]
    );
}

#[test]
fn documents_that_are_not_ours_are_skipped_with_a_warning_and_delete_nothing_of_ours() {
    let mut home = Home::new();
    let foreign = "apiVersion: v1\nkind: Service\nmetadata: {name: c}\n";
    let plan = home.sees(&[("a.yaml", A), ("c.yaml", foreign)]);
    assert_eq!(plan.problems.len(), 1);
    assert_eq!(plan.problems[0].severity, Severity::Warning);
    assert_eq!(home.names(), ["a"]);
}

#[test]
fn identity_problems_are_named() {
    for (text, said_is) in [
        ("kind: LLMBackend\n", "x.yaml:1: apiVersion: is required: set it"),
        ("apiVersion: ostler.dev/v1alpha1\n", "x.yaml:1: kind: is required: set it"),
        ("- a\n", "x.yaml:1: is no manifest (it has neither apiVersion nor kind), and is skipped"),
        (
            "apiVersion: ostler.dev/v1alpha1\nkind: LLMBakend\n",
            "x.yaml:2: kind: unknown kind \"LLMBakend\"; did you mean LLMBackend?",
        ),
        (
            "apiVersion: ostler.dev/v1\nkind: LLMBackend\n",
            "x.yaml:2: kind: LLMBackend has apiVersion ostler.dev/v1alpha1, not \"ostler.dev/v1\"",
        ),
    ] {
        let plan = Home::new().sees(&[("x.yaml", text)]);
        assert_eq!(said(&plan), [said_is]);
    }
}

#[test]
fn a_list_is_its_items() {
    let mut home = Home::new();
    let indented = A.trim_end().replace('\n', "\n  ");
    let plan = home.sees(&[("l.yaml", &format!("apiVersion: v1\nkind: List\nitems:\n- {indented}\n"))]);
    assert_eq!(said(&plan), Vec::<String>::new());
    assert_eq!(home.names(), ["a"]);
}

#[test]
fn an_empty_folder_says_what_it_looks_for() {
    let plan = Home::new().sees(&[]);
    assert_eq!(said(&plan), ["team: there are no manifests here (*.yaml, *.yml, *.json)"]);
}

mod derived;

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is written, in whatever order: an undeleted resource keeps its uid, versions rise (asserted above), and
        /// nothing goes before its grace period.
        #[test]
        fn a_uid_stays_until_a_deletion_that_was_due(steps in prop::collection::vec((0..7usize, 0..40i64), 1..30)) {
            let mut home = Home::new();
            let mut declared_at: BTreeMap<ObjectKey, Timestamp> = BTreeMap::new();
            for (choice, wait) in steps {
                home.later(wait);
                let before = home.state.records.clone();
                let files: &[(&str, &str)] = match choice {
                    0 => &[("a", A), ("b", B)],
                    1 => &[("a", A_CHANGED)],
                    2 => &[("b", B)],
                    3 => &[("a", BROKEN), ("b", B)],
                    4 => &[("a", A_WRONG)],
                    5 => &[],
                    _ => &[("s", SECRET)],
                };
                let plan = home.sees(files);
                for (key, old) in &before {
                    match home.state.records.get(key) {
                        Some(new) => prop_assert_eq!(&new.uid, &old.uid),
                        None => {
                            prop_assert!(plan.problems.iter().all(|p| p.severity != Severity::Error));
                            prop_assert!(home.now.duration_since(declared_at[key]) >= GRACE);
                        }
                    }
                }
                for key in home.state.records.keys() {
                    let name = key.name.as_str();
                    if !declared_at.contains_key(key) || files.iter().any(|(file, _)| *file == name) {
                        declared_at.insert(key.clone(), home.now);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_clearly_no_manifest_is_a_note_and_stops_nothing() {
    for text in [
        "replicas: 3\nimage: {tag: x}\n",
        "resources: [a.yaml]\n",
        "{{ if .Values.x }}\na: {{ .b }}\n",
        "- hosts: all\n",
        "just words\n",
    ] {
        let mut home = Home::new();
        home.sees(&[("a.yaml", A), ("b.yaml", B), ("values.yaml", text)]);
        let plan = home.sees(&[("b.yaml", B), ("values.yaml", text)]);
        assert!(plan.problems.iter().all(|p| p.severity == Severity::Warning), "{:?}", said(&plan));
        assert!(said(&plan)[0].contains("values.yaml") && said(&plan)[0].contains("no manifest"), "{:?}", said(&plan));
        home.later(31);
        home.sees(&[("b.yaml", B), ("values.yaml", text)]);
        assert_eq!(home.names(), ["b"], "{text}");
    }
    for half in ["apiVersion: ostler.dev/v1alpha1\nmetadata: {name: x}\n", "spec: {}\n", "kind: LLMBackend\n"] {
        let plan = Home::new().sees(&[("x.yaml", half)]);
        assert!(plan.problems.iter().any(|p| p.severity == Severity::Error), "{half}: {:?}", said(&plan));
    }
}

#[test]
fn what_get_printed_is_taken_back() {
    let mut home = Home::new();
    home.sees(&[("a.yaml", A)]);
    let mut item = home.a().manifest.clone();
    item["metadata"]["uid"] = json!("u");
    item["metadata"]["resourceVersion"] = json!("7");
    item["status"] = json!({"observedGeneration": 1, "state": "Idle"});
    item["live"] = json!({"slotsInUse": 1});
    for text in [
        item.to_string(),
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [item]}).to_string(),
        json!({"apiVersion": "ostler.dev/v1alpha1", "kind": "LLMBackendList", "items": [item]}).to_string(),
        json!([item]).to_string(),
    ] {
        let plan = home.sees(&[("a.json", &text)]);
        assert_eq!(said(&plan), Vec::<String>::new(), "{text}");
        assert!(plan.puts.is_empty() && plan.missing.is_empty(), "{text}");
    }
}

#[test]
fn a_document_with_thousands_of_faults_is_told_shortly() {
    let fields: String = (0..20_000).map(|n| format!("  k{n}: 1\n")).collect();
    let plan = Home::new().sees(&[("a.yaml", &A.replace("spec: {", &format!("wrong:\n{fields}spec: {{")))]);
    assert!(plan.problems.len() < 60, "{}", plan.problems.len());
    let spec: String = (0..20_000).map(|n| format!("  k{n}: 1\n")).collect();
    let text = format!("apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: a}}\nspec:\n{spec}");
    let plan = Home::new().sees(&[("a.yaml", &text)]);
    assert!((50..60).contains(&plan.problems.len()), "{}", plan.problems.len());
    assert!(said(&plan).last().unwrap().contains("more of the kind"), "{:?}", said(&plan).last());
}

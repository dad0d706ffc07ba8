//! What is derived from resources, and folders that take the place of others.

use super::*;

#[test]
fn what_is_derived_lives_and_goes_with_what_it_is_derived_from_and_a_file_wins() {
    let mut home = Home::new();
    // For each backend, an agent and its Secret of the same name.
    home.derive = Arc::new(|documents: &[&Value]| {
        let backends = documents.iter().filter(|d| d["kind"] == "LLMBackend");
        let names: Vec<&Value> = backends.map(|d| &d["metadata"]["name"]).collect();
        let of = |name: &&Value| {
            let agent = json!({"apiVersion": "ostler.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": name},
                "spec": {"url": "http://127.0.0.1:7"}});
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                "stringData": {"token": "abc"}});
            [agent, secret]
        };
        names.iter().flat_map(of).collect()
    });
    let plan = home.sees(&[("a.yaml", A)]);
    assert!(plan.problems.is_empty(), "{:?}", said(&plan));
    assert_eq!((home.names(), plan.secrets.len()), (vec!["a", "a"], 1));

    let mine = B.replace("name: b, namespace: team", "name: a").replace("9099", "8");
    home.sees(&[("a.yaml", A), ("mine.yaml", &mine)]);
    let agent = home.state.records.values().find(|r| r.key.kind == "HostAgent").unwrap();
    assert_eq!((agent.manifest["spec"]["url"].as_str(), agent.generation), (Some("http://127.0.0.1:8"), 2));

    home.sees(&[("b.yaml", B)]);
    home.later(30);
    home.sees(&[("b.yaml", B)]);
    assert_eq!(home.names(), ["b"]);
    assert!(home.state.secrets.is_empty());
}

#[test]
fn what_is_derived_of_what_a_broken_folder_keeps_is_there_for_a_new_process_too() {
    let derive: Derive = Arc::new(|documents: &[&Value]| {
        let is_a = |d: &&&Value| d["kind"] == "LLMBackend";
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "made"}, "stringData": {"token": "abc"}});
        documents.iter().filter(is_a).map(|_| secret.clone()).collect()
    });
    for (what, later, of_another, made) in [
        ("a broken file", &[("a.yaml", BROKEN)][..], false, 1),
        ("an emptied folder", &[], false, 1),
        ("its home is broken, another file is not", &[("a.yaml", BROKEN), ("b.yaml", B)], false, 1),
        ("a folder without it", &[("b.yaml", B)], false, 0),
        ("another folder", &[("x.yaml", BROKEN)], true, 0),
    ] {
        let mut home = Home::new();
        home.derive = Arc::clone(&derive);
        home.sees(&[("a.yaml", A)]);
        // A new process: records are kept, Secrets and the files of each are not.
        home.state.secrets.clear();
        home.state.files.clear();
        home.state.of_another = of_another;
        assert_eq!(home.sees(later).secrets.len(), made, "{what}");
        assert_eq!(home.names().contains(&"a"), !of_another, "{what}");
    }
}

#[test]
fn another_folder_is_another_set_whatever_state_it_is_in() {
    for files in [&[("b.yaml", B)][..], &[("b.yaml", B), ("x.yaml", BROKEN)], &[]] {
        let mut home = Home::new();
        home.sees(&[("a.yaml", A), ("b.yaml", B)]);
        home.state.of_another = true;
        home.sees(files);
        assert!(!home.names().contains(&"a"), "{files:?}");
        assert_eq!(home.names().contains(&"b"), !files.is_empty(), "{files:?}");
    }
    let mut home = Home::new();
    home.sees(&[("a.yaml", A), ("b.yaml", B)]);
    home.state.of_another = true;
    home.sees(&[("a.yaml", A_WRONG)]);
    assert!(home.names().is_empty(), "its last good version is of the other folder");
}

#[test]
fn a_broken_file_keeps_what_it_declared_also_when_another_declares_it_otherwise() {
    let url = |home: &Home| home.a().manifest["spec"]["url"].as_str().unwrap().to_owned();
    for broken in [BROKEN, A_WRONG] {
        let mut home = Home::new();
        home.sees(&[("a.yaml", A)]);
        let both = home.sees(&[("a.yaml", A), ("other.yaml", A_CHANGED)]);
        assert!(said(&both)[0].contains("is declared in a.yaml:1 already"), "{:?}", said(&both));
        for _ in 0..2 {
            let plan = home.sees(&[("a.yaml", broken), ("other.yaml", A_CHANGED)]);
            assert_eq!(url(&home), "http://127.0.0.1:1");
            assert!(
                said(&plan).iter().any(|p| p.contains("other.yaml:1") && p.contains("by a.yaml")),
                "{:?}",
                said(&plan)
            );
        }
        // A restart forgets which file it was.
        home.state.files.clear();
        home.sees(&[
            ("a.yaml", &broken.replace("[ostler.dev", "[ostler.dev\nkind: LLMBackend\nmetadata: {name: a}")),
            ("other.yaml", A_CHANGED),
        ]);
        assert_eq!(url(&home), "http://127.0.0.1:1");
        assert!(said(&home.sees(&[("other.yaml", A_CHANGED)])).is_empty(), "it moved");
        assert_eq!(url(&home), "http://127.0.0.1:2");
    }
}

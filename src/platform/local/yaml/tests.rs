use super::*;
use serde_json::json;

fn one(text: &str) -> Value {
    let documents = parse(text).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents[0].to_json()
}

#[test]
fn scalars_have_the_types_that_kubectl_gives_them() {
    for (text, value) in [
        ("yes", json!(true)),
        ("off", json!(false)),
        ("\"yes\"", json!("yes")),
        ("'10'", json!("10")),
        ("10", json!(10)),
        ("-3", json!(-3)),
        ("+3", json!(3)),
        ("1_000", json!(1000)),
        ("0x1f", json!(31)),
        ("010", json!(8)),
        ("0o10", json!(8)),
        ("08", json!(8)),
        ("2.0", json!(2)),
        ("2.5", json!(2.5)),
        (".5", json!(0.5)),
        ("1e3", json!(1000)),
        ("18446744073709551615", json!(18446744073709551615u64)),
        ("2024-01-02", json!("2024-01-02")),
        ("50Mi", json!("50Mi")),
        ("llama3.2:3b", json!("llama3.2:3b")),
        ("1.2.3", json!("1.2.3")),
        ("!!str 10", json!("10")),
        ("!!int 10", json!(10)),
    ] {
        let text = format!("v: {text}\n");
        assert_eq!(one(&text), json!({ "v": value }), "{text}");
    }
    assert_eq!(one("v: ~\nw:\n"), json!({"v": null, "w": null}));
}

#[test]
fn a_duplicate_key_is_named_with_both_lines() {
    let error = parse("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n").unwrap_err();
    assert_eq!(error.line, 5);
    assert_eq!(error.message, "key \"c\" is already set in line 3");
}

#[test]
fn documents_are_split_and_empty_ones_left_out() {
    let documents = parse("# only a comment\n---\na: 1\n---\n---\nb: 2\n...\n").unwrap();
    let lines: Vec<_> = documents.iter().map(|d| d.line).collect();
    assert_eq!(lines, [3, 6]);
}

#[test]
fn a_fields_line_is_its_keys_line_and_a_missing_fields_line_its_parents() {
    let text = "a: 1\nspec:\n  url: x\n  models:\n  - name: m\n    pull: true\n  - name: n\n";
    let document = &parse(text).unwrap()[0];
    let models = FieldPath::keys(&["spec", "models"]);
    for (path, line) in [
        (models.index(0).key("pull"), 6),
        (models.index(1).key("name"), 7),
        (models.index(1).key("alias"), 7),
        (FieldPath::keys(&["spec", "priority"]), 2),
        (FieldPath::default(), 1),
    ] {
        assert_eq!(document.line_of(&path), line, "{path}");
    }
}

#[test]
fn anchors_and_merge_keys_are_taken_in() {
    let text = "base: &b {x: 1, z: 2}\nown:\n  v: 3\n  <<: *b\nagain: *b\n";
    let base = json!({"x": 1, "z": 2});
    assert_eq!(one(text), json!({"base": base, "own": {"v": 3, "x": 1, "z": 2}, "again": base}));
    let own = one("models: [&m {name: a, alias: s}, {<<: *m, alias: other}]\n");
    assert_eq!(own, json!({"models": [{"name": "a", "alias": "s"}, {"alias": "other", "name": "a"}]}));
    let first = one("a: &a {x: 1}\nb: &b {x: 2, z: 2}\nown: {<<: [*a, *b]}\n");
    assert_eq!(first["own"], json!({"x": 1, "z": 2}));
    let error = parse("a: &a {x: 1}\nown: {x: 3, x: 4, <<: *a}\n").unwrap_err();
    assert_eq!(error.message, "key \"x\" is already set in line 2");
}

#[test]
fn json_documents_may_follow_each_other() {
    let documents = parse("{\"a\": 1}\n{\n  \"b\": [2]\n} {\"c\":3}\n").unwrap();
    let read: Vec<_> = documents.iter().map(|d| (d.line, d.to_json())).collect();
    assert_eq!(read, [(1, json!({"a": 1})), (2, json!({"b": [2]})), (4, json!({"c": 3}))]);
    assert_eq!(documents[1].line_of(&FieldPath::keys(&["b"])), 3);
    let error = parse("{\"a\": 1}\n\n{}\n{\"b\": 1,\n\"b\": 2}\n").unwrap_err();
    assert_eq!(error.to_string(), "line 5: key \"b\" is already set in line 4");
}

#[test]
fn a_file_of_many_keys_is_read_in_time_that_grows_with_it() {
    let text = |keys: usize| (0..keys).map(|n| format!("k{n}: {n}\n")).collect::<String>();
    let took = |keys: usize| {
        let text = text(keys);
        let once = || {
            let began = std::time::Instant::now();
            assert_eq!(parse(&text).unwrap().len(), 1);
            began.elapsed()
        };
        // The fastest of some: a machine may be busy with something else.
        (0..4).map(|_| once()).min().unwrap()
    };
    let (small, large) = (took(5_000), took(80_000));
    // Sixteen times as many keys; a search through all for each would take 256 times as long.
    assert!(large < small * 90, "{small:?} for 5,000 keys, {large:?} for 80,000");
    let merged =
        format!("base: &b\n{}own:\n  <<: *b\n", (0..50_000).map(|n| format!("  k{n}: 1\n")).collect::<String>());
    assert_eq!(one(&merged)["own"].as_object().unwrap().len(), 50_000);
    assert!(parse(&text(300_000)).unwrap_err().message.contains("split the file"));
}

#[test]
fn what_is_nested_without_end_is_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let error = parse(&text).unwrap_err();
        assert!(error.message.contains("deep") || error.message.contains("recursion limit"), "{error}");
    }
    assert!(parse(&format!("a: {}{}", "[".repeat(90), "]".repeat(90))).is_ok());
}

#[test]
fn json_is_read_too() {
    assert_eq!(one("{\"a\": [1, \"two\", {\"b\": null}]}"), json!({"a": [1, "two", {"b": null}]}));
}

#[test]
fn aliases_of_aliases_do_not_grow_without_bound() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    let error = parse(&text).unwrap_err();
    assert!(error.message.contains("split the file"), "{error}");
}

#[test]
fn what_is_no_yaml_is_refused_with_its_line() {
    for (text, line) in [("a: 1\nb: [1, 2\n", 2), ("a: 1\nb: c: d\n", 2), ("a: .inf\n", 1)] {
        assert_eq!(parse(text).unwrap_err().line, line, "{text}");
    }
}

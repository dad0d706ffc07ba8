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
    let error = parse("base: &b {x: 1}\nown:\n  x: 3\n  <<: *b\n").unwrap_err();
    assert_eq!(error.to_string(), "line 3: key \"x\" is set beside a << that sets it too");
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

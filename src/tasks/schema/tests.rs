use serde_json::{Map, json};

use super::*;

/// `levels` definitions, each of which refers twice to the next; `leaf` is the last.
fn doubling(keyword: &str, levels: usize, leaf: Value) -> Value {
    let mut defs = Map::new();
    for level in 0..levels {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        defs.insert(format!("d{level}"), json!({keyword: [next.clone(), next]}));
    }
    defs.insert(format!("d{levels}"), leaf);
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

fn refused(schema: &Value) -> String {
    check(schema).map_or_else(|Unusable { field, why }| format!("schema{field}: {why}"), |()| "taken".to_owned())
}

#[test]
fn what_doubles_at_each_level_is_not_taken() {
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for levels in [12, 26, 40] {
            for leaf in [json!({"type": "object"}), json!(false)] {
                let said = refused(&doubling(keyword, levels, leaf));
                assert!(said.contains("looks at one value more than 2000 times"), "{keyword} {levels}: {said}");
            }
        }
        assert_eq!(refused(&doubling(keyword, 5, json!(true))), "taken");
    }
    let nots = (0..40).fold(json!({}), |inner, _| json!({"not": inner, "if": {"$ref": "#/$defs/a"}}));
    assert_eq!(refused(&json!({"$defs": {"a": {}}, "allOf": [nots]})), "taken");
}

#[tokio::test]
async fn what_doubles_with_each_level_of_the_answer_is_compiled_once() {
    for (keyword, member) in [("properties", true), ("prefixItems", false)] {
        let mut defs = Map::new();
        for level in 0..50 {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            let both = if member { json!({"a": next, "b": next}) } else { json!([next, next]) };
            defs.insert(format!("d{level}"), json!({keyword: both}));
        }
        defs.insert("d50".to_owned(), json!({}));
        let schema = json!({"$ref": "#/$defs/d0", "$defs": defs});
        let began = std::time::Instant::now();
        assert_eq!(refused(&schema), "taken", "{keyword}");
        let deep =
            (0..40).fold(json!(1), |inner, _| if member { json!({"a": inner, "b": 2}) } else { json!([inner, 2]) });
        assert!(matches(&schema, deep).await.is_ok(), "{keyword}");
        assert!(began.elapsed() < Duration::from_secs(5), "{keyword}: {:?}", began.elapsed());
    }
}

#[test]
fn what_can_not_be_used_is_named_by_its_field() {
    for (schema, expected) in [
        (json!({"type": 7}), "schema.type: is no JSON Schema that can be used"),
        (
            json!({"$ref": "https://example.com/a.json"}),
            "schema.$ref: is \"https://example.com/a.json\": schemas elsewhere",
        ),
        (json!({"properties": {"a": {"$ref": "other.json#/x"}}}), "schema.properties.a.$ref: is"),
        (json!({"$ref": "file:///etc/passwd"}), "schema.$ref: is"),
        (json!({"$ref": "#/$defs/none"}), "schema.$ref: is \"#/$defs/none\", which is not in this schema"),
        (json!({"$ref": "#"}), "schema: refers to itself for the same value"),
        (json!({"allOf": [{"anyOf": [{"$ref": "#/allOf/0"}]}]}), "schema.allOf[0]: refers to itself"),
        (json!({"$dynamicRef": "#node"}), "schema.$dynamicRef: is not followed"),
        (json!({"properties": {"a": {"$id": "https://x/y"}}}), "schema.properties.a.$id: is allowed at the root only"),
        (
            json!({"properties": {"a": {"pattern": "^(a|aa)+(?=bN)c$"}}}),
            "schema.properties.a.pattern: is \"^(a|aa)+(?=bN)c$\": patterns that look around",
        ),
        (json!({"pattern": "(a)\\1"}), "schema.pattern: is"),
        (json!({"patternProperties": {"(?<!a)b": {}}}), "schema.patternProperties: is"),
        (json!({"pattern": "(((a{1000}){1000}){1000}){1000}"}), "schema"),
        (json!({"pattern": "a".repeat(2_000)}), "schema.pattern: has more than 1000 characters"),
    ] {
        let said = refused(&schema);
        assert!(said.starts_with(expected) && said != "taken", "{schema}: {said}");
    }
    let patterns: Vec<Value> = (0..300).map(|i| json!({"pattern": format!("^(a|aa)+b{i}c$")})).collect();
    assert!(refused(&json!({"anyOf": patterns})).contains("has 300 patterns"));
    assert!(refused(&json!({"description": "x".repeat(200_000)})).contains("131072 are allowed"));
}

#[test]
fn schemas_as_people_write_them_are_taken() {
    let tree = json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "name": {"type": "string"}}});
    let expression = json!({"$ref": "#/$defs/E", "$defs": {"E": {"anyOf": [
        {"type": "number"},
        {"properties": {"op": {"const": "add"}, "left": {"$ref": "#/$defs/E"}, "right": {"$ref": "#/$defs/E"}}, "required": ["op"]},
        {"properties": {"op": {"const": "mul"}, "left": {"$ref": "#/$defs/E"}, "right": {"$ref": "#/$defs/E"}}, "required": ["op"]}]}}});
    for schema in [
        json!({}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/x", "definitions": {"a b": {"enum": [1]}}, "items": {"$ref": "#/definitions/a%20b"}}),
        json!({"properties": {"$ref": {"type": "string"}, "id": {"type": "integer"}, "pattern": {"type": "string"}}}),
        json!({"properties": {"mail": {"type": "string", "pattern": "^[^@ ]+@[^@ ]+\\.[a-z]{2,}$"}}, "additionalProperties": false}),
        json!({"pattern": "^\\(?=[0-9]+$"}),
        tree,
        expression,
    ] {
        assert_eq!(refused(&schema), "taken", "{schema}");
    }
}

#[tokio::test]
async fn an_answer_is_checked_within_a_budget() {
    let twice = json!({"$defs": {"n": {"allOf": [
        {"properties": {"x": {"$ref": "#/$defs/n"}}}, {"properties": {"x": {"$ref": "#/$defs/n"}}}]}}, "$ref": "#/$defs/n"});
    assert_eq!(refused(&twice), "taken", "an answer that is flat costs little");
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({"x": inner}));
    assert!(matches(&twice, nested(8)).await.is_ok());
    let Err(Mismatch::Schema(why)) = matches(&twice, nested(40)).await else { panic!("2^40 steps") };
    assert!(why.contains("1000000 steps"), "{why}");
}

#[tokio::test]
async fn what_does_not_match_is_told_shortly() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    assert_eq!(matches(&schema, json!({"n": 1})).await, Ok(json!({"n": 1})));
    let Err(Mismatch::Answer(why)) = matches(&schema, json!({"n": "x".repeat(100_000)})).await else {
        panic!("a text")
    };
    assert!(why.starts_with("the answer does not match the schema at /n: ") && why.len() < 2_000, "{}", why.len());
    let Err(Mismatch::Schema(why)) = matches(&json!({"type": 7}), json!(1)).await else { panic!("no schema") };
    assert!(why.starts_with("the task's schema.type is no JSON Schema"), "{why}");
}

#[tokio::test]
async fn an_answer_as_deep_as_answers_may_be_does_not_overflow_the_stack() {
    let levels = 100;
    let mut defs = Map::new();
    for level in 0..levels {
        defs.insert(format!("d{level}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", level + 1)}]}));
    }
    defs.insert(format!("d{levels}"), json!({"items": {"$ref": "#/$defs/d0"}}));
    let schema = json!({"$ref": "#/$defs/d60", "$defs": defs});
    let said = refused(&schema);
    let deep = (0..crate::json::MAX_DEPTH).fold(json!(1), |inner, _| json!([inner]));
    if said == "taken" {
        assert!(matches(&schema, deep).await.is_ok());
    } else {
        assert!(said.contains("inside each other"), "{said}");
    }
}

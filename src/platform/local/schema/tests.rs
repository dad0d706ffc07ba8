use super::*;

fn schema() -> Schema {
    Schema::compile(
        "Thing",
        json!({
            "type": "object",
            "properties": {"spec": {
                "type": "object",
                "required": ["engine"],
                "properties": {
                    "engine": {"type": "string", "enum": ["Ollama", "MLX"]},
                    "count": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 10, "default": 4},
                    "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]*$", "description": "A short word."},
                    "on": {"type": "boolean"},
                    "probe": {
                        "type": "object",
                        "default": {},
                        "properties": {"seconds": {"type": "integer", "default": 10}},
                    },
                    "models": {
                        "type": "array",
                        "maxItems": 3,
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {"name": {"type": "string"}, "pull": {"type": "boolean", "default": false}},
                        },
                    },
                    "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "max": {"x-kubernetes-int-or-string": true},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
                "x-kubernetes-validations": [
                    {"rule": "self.engine != 'MLX' || self.count <= 2",
                     "message": "set count to 2 or less", "fieldPath": ".count"},
                    {"rule": "!has(self.models) || self.models.all(m, m.name != 'bad' || !m.pull)",
                     "message": "bad can't be pulled"},
                ],
            }},
        }),
    )
    .unwrap()
}

fn faults(spec: Value) -> Vec<String> {
    let mut object = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec});
    let faults = schema().admit(&mut object);
    faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
}

#[test]
fn each_fault_names_its_field_and_the_mend() {
    for (spec, expected) in [
        (json!({}), vec!["spec.engine: is required: set it"]),
        (
            json!({"engine": "ollama"}),
            vec!["spec.engine: must be one of Ollama, MLX, but is \"ollama\"; did you mean Ollama?"],
        ),
        (json!({"engine": "Ollama", "count": 0}), vec!["spec.count: must be 1 or more, but is 0"]),
        (
            json!({"engine": "Ollama", "count": "3"}),
            vec!["spec.count: must be an integer, but is \"3\": remove the quotes"],
        ),
        (json!({"engine": "Ollama", "count": 2.5}), vec!["spec.count: must be an integer, but is 2.5"]),
        (json!({"engine": "Ollama", "name": true}), vec!["spec.name: must be a string, but is true: put it in quotes"]),
        (json!({"engine": "Ollama", "name": ""}), vec!["spec.name: must not be empty"]),
        (json!({"engine": "Ollama", "name": "toolong"}), vec!["spec.name: must have 5 characters or fewer"]),
        (
            json!({"engine": "Ollama", "name": "A"}),
            vec!["spec.name: must match ^[a-z]*$, but is \"A\" (A short word.)"],
        ),
        (
            json!({"engine": "Ollama", "models": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}),
            vec!["spec.models[2]: name \"a\" is already at [0]: remove one of them"],
        ),
        (
            json!({"engine": "Ollama", "tags": ["a", "a"]}),
            vec!["spec.tags[1]: \"a\" is already at [0]: remove one of them"],
        ),
        (
            json!({"engine": "Ollama", "probe": {"second": 1}}),
            vec!["spec.probe.second: unknown field; did you mean seconds?"],
        ),
        (
            json!({"engine": "Ollama", "models": [{"name": "a", "prefetch": 1}]}),
            vec!["spec.models[0].prefetch: unknown field; known ones are name, pull"],
        ),
        (json!({"engine": "Ollama", "max": true}), vec!["spec.max: must be an integer or a string, but is true"]),
        (
            json!({"engine": "Ollama", "labels": {"a": 1}}),
            vec!["spec.labels.a: must be a string, but is 1: put it in quotes"],
        ),
        (json!({"engine": "MLX"}), vec!["spec.count: set count to 2 or less"]),
        (json!({"engine": "Ollama", "models": [{"name": "bad", "pull": true}]}), vec!["spec: bad can't be pulled"]),
        (json!({"engine": "MLX", "count": 11}), vec!["spec.count: must be 10 or less, but is 11"]),
    ] {
        assert_eq!(faults(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn what_fits_is_admitted() {
    for spec in [
        json!({"engine": "MLX", "count": 2}),
        json!({"engine": "Ollama", "max": "50%", "free": {"any": [1, {"thing": null}]}, "labels": {"a": "b"}}),
        json!({"engine": "Ollama", "max": 3, "name": "abc", "models": [{"name": "bad"}], "tags": ["a", "b"]}),
    ] {
        assert_eq!(faults(spec.clone()), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn defaults_are_filled_in_at_any_depth_and_nulls_make_way_for_them() {
    let mut object = json!({"spec": {
        "engine": "Ollama", "count": null, "name": null, "models": [{"name": "a"}, {"name": "b", "pull": null}],
    }});
    assert_eq!(schema().admit(&mut object), Vec::new());
    assert_eq!(
        object["spec"],
        json!({
            "engine": "Ollama", "count": 4, "probe": {"seconds": 10},
            "models": [{"name": "a", "pull": false}, {"name": "b", "pull": false}],
        })
    );
}

#[test]
fn a_rule_that_is_no_cel_is_found_when_the_schema_is_compiled() {
    let wrong = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.a ==", "message": "m"}]});
    let error = Schema::compile("Thing", wrong).err().unwrap();
    assert!(error.to_string().contains("self.a =="), "{error}");
}

#[test]
fn a_secrets_values_are_in_no_message() {
    let schema = schema().hiding_values();
    for spec in [
        json!({"engine": "hunter2"}),
        json!({"engine": "Ollama", "count": "hunter2"}),
        json!({"engine": "Ollama", "name": "HUNTER2"}),
        json!({"engine": "Ollama", "labels": {"a": ["hunter2"]}}),
    ] {
        let faults = schema.admit(&mut json!({ "spec": spec }));
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(!fault.message.to_lowercase().contains("hunter2"), "{}", fault.message);
        }
    }
}

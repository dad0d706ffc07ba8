//! The CustomResourceDefinitions: `crds/` and docs/resources.md are what the types say, and every kind keeps the
//! conventions of its group.

use std::{collections::BTreeSet, fs, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use ostler::{api, cli::crds};
use serde_json::Value;

fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_generated_manifests_are_not_stale() {
    let generated = crds::files().expect("the CRDs can be written as YAML");
    let names: BTreeSet<String> = generated.iter().map(|(name, _)| name.clone()).collect();
    for (name, text) in &generated {
        let path = repository("crds").join(name);
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == *text, "{} is stale: run `ostler crds --output crds`", path.display());
    }
    let found = fs::read_dir(repository("crds")).expect("read crds/").map(|entry| entry.expect("an entry").file_name());
    let found: BTreeSet<String> = found.map(|name| name.to_string_lossy().into_owned()).collect();
    let names = names.into_iter().chain(["kustomization.yaml".to_owned()]).collect();
    assert_eq!(found, names, "crds/ has files of kinds that are no more, or lacks some");
}

#[test]
fn a_kustomization_names_every_definition() {
    let text = fs::read_to_string(repository("crds/kustomization.yaml")).expect("read it");
    let listed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    let generated: Vec<String> = crds::files().expect("write").into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, generated);
}

#[test]
fn every_definition_tells_its_release() {
    for crd in api::crds() {
        let release = crd.metadata.annotations.unwrap_or_default().remove(api::RELEASE);
        assert_eq!(release.as_deref(), Some(env!("CARGO_PKG_VERSION")), "{:?}", crd.metadata.name);
    }
}

#[test]
fn what_is_written_is_read_back_as_the_same_definition() {
    for ((name, text), crd) in crds::files().expect("write").into_iter().zip(api::crds()) {
        let read: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read, crd, "{name}");
    }
}

#[test]
fn the_reference_of_fields_is_not_stale() {
    let found = fs::read_to_string(repository("docs/resources.md")).unwrap_or_default();
    assert!(found == crds::reference_text(), "docs/resources.md is stale: run `ostler crds --docs --output docs`");
}

/// A field of some kind's schema, with the path that names it in a failure.
struct Field {
    path: String,
    schema: Value,
    in_status: bool,
}

fn all_fields() -> Vec<Field> {
    let mut found = Vec::new();
    for (kind, schema) in schemas_and_agent_file() {
        for part in ["spec", "status"].into_iter().filter(|part| schema["properties"][part].is_object()) {
            collect(&schema["properties"][part], format!("{kind}.{part}"), part == "status", &mut found);
        }
    }
    assert!(found.len() > 50, "the walk finds the fields");
    found
}

fn collect(schema: &Value, path: String, in_status: bool, found: &mut Vec<Field>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        collect(field, format!("{path}.{name}"), in_status, found);
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            collect(&schema[part], format!("{path}[]"), in_status, found);
        }
    }
    found.push(Field { path, schema: schema.clone(), in_status });
}

/// The kinds' schemas, and that of the agent's file, which keeps the conventions of fields and rules.
fn schemas_and_agent_file() -> Vec<(String, Value)> {
    schemas_of(api::crds().into_iter().chain([api::agent_config_definition()]))
}

fn schemas() -> Vec<(String, Value)> {
    schemas_of(api::crds())
}

fn schemas_of(definitions: impl IntoIterator<Item = CustomResourceDefinition>) -> Vec<(String, Value)> {
    let of = |crd: CustomResourceDefinition| {
        let version = crd.spec.versions.into_iter().next().expect("a version");
        let schema = version.schema.and_then(|schema| schema.open_api_v3_schema).expect("a schema");
        (crd.spec.names.kind, serde_json::to_value(schema).expect("a schema as JSON"))
    };
    definitions.into_iter().map(of).collect()
}

/// Fails with every field that breaks a convention.
fn every_field(convention: &str, holds: impl Fn(&Field) -> bool) {
    let broken: Vec<String> = all_fields().into_iter().filter(|field| !holds(field)).map(|field| field.path).collect();
    assert!(broken.is_empty(), "{convention}: broken by {}", broken.join(", "));
}

fn is_enum(field: &Field) -> bool {
    field.schema["enum"].is_array()
}

#[test]
fn every_field_has_a_description() {
    every_field("a description", |field| {
        let is_item = field.path.ends_with("[]");
        is_item || field.schema["description"].as_str().is_some_and(|text| text.len() > 3)
    });
}

#[test]
fn nothing_is_nullable() {
    every_field("no nullable", |field| field.schema.get("nullable").is_none());
}

#[test]
fn every_string_is_bounded() {
    every_field("maxLength, an enum or a format that bounds it", |field| {
        field.schema["type"] != "string"
            || is_enum(field)
            || field.schema["maxLength"].is_u64()
            || field.schema["format"] == "date-time"
    });
}

#[test]
fn every_integer_is_signed_and_bounded() {
    every_field("format int32 or int64, minimum and maximum", |field| {
        if field.schema["type"] != "integer" {
            return true;
        }
        let signed = matches!(field.schema["format"].as_str(), Some("int32" | "int64"));
        let counts_generations = field.path.ends_with("observedGeneration");
        let bounded = field.schema["minimum"].is_number() && field.schema["maximum"].is_number();
        signed && (bounded || (counts_generations && field.schema["minimum"].is_number()))
    });
}

#[test]
fn every_duration_names_its_unit_and_is_at_least_one() {
    every_field("minimum 1 of …Seconds", |field| {
        let skew = field.in_status && field.path.ends_with("SkewSeconds");
        !field.path.ends_with("Seconds") || skew || field.schema["minimum"].as_f64() >= Some(1.0)
    });
    every_field("a unit in the name", |field| {
        let name = field.path.rsplit('.').next().unwrap_or_default().to_lowercase();
        let vague = ["timeout", "period", "interval", "backoff", "grace", "delay", "duration"];
        field.schema["type"] != "integer" || !vague.iter().any(|word| name.ends_with(word))
    });
}

#[test]
fn every_list_is_bounded_and_says_its_type_where_items_have_names() {
    every_field("maxItems", |field| field.schema["type"] != "array" || field.schema["maxItems"].is_u64());
    every_field("a list type for lists of objects", |field| {
        let of_objects = field.schema["type"] == "array" && field.schema["items"]["type"] == "object";
        !of_objects || field.schema["x-kubernetes-list-type"].is_string()
    });
}

#[test]
fn every_map_is_bounded() {
    every_field("maxProperties", |field| {
        !field.schema["additionalProperties"].is_object() || field.schema["maxProperties"].is_u64()
    });
}

#[test]
fn there_are_no_floats() {
    every_field("no number", |field| field.schema["type"] != "number");
}

#[test]
fn enums_are_camel_case_words() {
    every_field("CamelCase", |field| {
        field.schema["enum"].as_array().into_iter().flatten().all(|value| {
            let word = value.as_str().unwrap_or_default();
            word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(|c| c.is_ascii_alphanumeric())
        })
    });
}

#[test]
fn a_reference_is_a_name_in_the_same_namespace() {
    every_field("fooRef: {name}", |field| {
        let fields = field.schema["properties"].as_object();
        !field.path.ends_with("Ref")
            || fields.is_some_and(|fields| fields.contains_key("name") && !fields.contains_key("namespace"))
    });
}

#[test]
fn every_rule_tells_the_mend_and_is_standard_cel() {
    let not_standard = ["oldSelf", "isURL(", "url(", "quantity(", "isQuantity(", "optional", "cel.bind", "format."];
    let mut rules = 0;
    for field in all_fields() {
        for rule in field.schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            let text = rule["rule"].as_str().unwrap_or_default();
            let message = rule["message"].as_str().unwrap_or_default();
            let path = &field.path;
            assert!(message.len() > 20, "{path}: {text}: a message that tells the mend");
            let mends = ["set ", "remove ", "lower ", "name ", "list ", "raise "];
            assert!(mends.iter().any(|mend| message.contains(mend)), "{path}: {message}: what is to be done?");
            assert!(rule.get("messageExpression").is_none(), "{path}: {text}: a message that both homes can tell");
            for word in not_standard {
                assert!(!text.contains(word), "{path}: {text}: {word} is not standard CEL");
            }
        }
    }
    assert!(rules > 0, "the walk finds the rules");
}

#[test]
fn a_rule_asks_whether_an_optional_field_is_there_before_it_reads_it() {
    // A field without a default may be absent; reading it then is an error, and the resource is refused without a word
    // that helps.
    for field in all_fields() {
        for rule in field.schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let text = rule["rule"].as_str().unwrap_or_default();
            let required: Vec<&str> = words(&field.schema["required"]);
            for (name, schema) in field.schema["properties"].as_object().into_iter().flatten() {
                let reads = text.contains(&format!("self.{name}"));
                let safe = required.contains(&name.as_str())
                    || schema.get("default").is_some()
                    || text.contains(&format!("has(self.{name})"));
                assert!(!reads || safe, "{}: {text}: has(self.{name})?", field.path);
            }
        }
    }
}

#[test]
fn a_default_fits_its_own_schema() {
    for field in all_fields() {
        let Some(default) = field.schema.get("default") else { continue };
        let in_range = default.as_f64().is_none_or(|value| {
            field.schema["minimum"].as_f64().is_none_or(|least| value >= least)
                && field.schema["maximum"].as_f64().is_none_or(|most| value <= most)
        });
        let in_enum = field.schema["enum"].as_array().is_none_or(|values| values.contains(default));
        assert!(in_range && in_enum, "{}: {default}", field.path);
    }
}

#[test]
fn every_kind_can_be_suspended() {
    for (kind, schema) in schemas() {
        let suspend = &schema["properties"]["spec"]["properties"]["suspend"];
        assert_eq!((&suspend["type"], &suspend["default"]), (&"boolean".into(), &false.into()), "{kind}");
    }
}

#[test]
fn every_kind_that_acts_can_be_told_to_observe() {
    for (kind, schema) in schemas() {
        let acts = ["LLMBackend", "ContainerHealthCheck", "WorkerPool", "TaskSchedule"].contains(&kind.as_str());
        let mode = &schema["properties"]["spec"]["properties"]["mode"];
        if acts {
            assert_eq!(words(&mode["enum"]), ["Enforce", "Observe"], "{kind}");
            assert_eq!(mode["default"], "Enforce", "{kind}");
        }
    }
}

#[test]
fn every_status_can_be_read_by_kstatus() {
    for (kind, schema) in schemas() {
        let status = &schema["properties"]["status"];
        assert_eq!(status["default"], serde_json::json!({"observedGeneration": -1}), "{kind}: new is not done");
        let fields = &status["properties"];
        assert_eq!(fields["observedGeneration"]["default"], -1, "{kind}");
        assert!(fields["state"]["enum"].is_array(), "{kind}: state is an enum");
        assert_eq!(fields["lastHandledReconcileAt"]["type"], "string", "{kind}");
        let conditions = &fields["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{kind}");
        assert_eq!(words(&conditions["x-kubernetes-list-map-keys"]), ["type"], "{kind}");
        let required = words(&conditions["items"]["required"]);
        for field in ["type", "status", "reason", "message", "lastTransitionTime"] {
            assert!(required.contains(&field), "{kind}: conditions[].{field}");
        }
    }
}

#[test]
fn every_kind_is_namespaced_in_the_category_and_has_a_short_name_and_columns() {
    for crd in api::crds() {
        let kind = &crd.spec.names.kind;
        assert_eq!((crd.spec.group.as_str(), crd.spec.scope.as_str()), (api::GROUP, "Namespaced"), "{kind}");
        assert_eq!(crd.spec.names.categories.as_deref(), Some(&["ostler".to_owned()][..]), "{kind}");
        assert!(crd.spec.names.short_names.is_some_and(|names| names.len() == 1), "{kind}");
        let version = &crd.spec.versions[0];
        assert_eq!(version.name, api::VERSION, "{kind}");
        assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()), "{kind}: status is a subresource");
        let columns = version.additional_printer_columns.iter().flatten();
        let shown: Vec<&str> = columns.filter(|c| c.priority.unwrap_or(0) == 0).map(|c| c.name.as_str()).collect();
        assert_eq!(shown[..3], ["Ready", "State", "Reason"], "{kind}");
        assert_eq!(shown.last(), Some(&"Age"), "{kind}");
        assert_eq!(shown.len(), 5, "{kind}: one number of its own, and nothing that makes the line wrap");
    }
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn real_api_server_takes_the_manifests_without_a_warning_and_shows_each_kind_on_one_line() {
    let server = crate::real::ApiServer::shared();
    server.install_crds();
    let folder = repository("crds").display().to_string();
    server.kubectl(&["apply", "--server-side", "--force-conflicts", "--warnings-as-errors", "-k", &folder]);
    let namespace = server.namespace();
    server.apply(&format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: mlx, namespace: {namespace}}}\nspec: {{engine: MLX, url: 'http://mac:1'}}"
    ));
    let status = r#"{"status": {"observedGeneration": 1, "state": "Down", "effectiveLimit": 2, "conditions": [{"type": "Ready",
        "status": "False", "reason": "Refused", "message": "connection refused", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}"#;
    let patch =
        ["--namespace", &namespace, "patch", "llm", "mlx", "--subresource=status", "--type=merge", "-p", status];
    server.kubectl(&patch);
    let shown = server.kubectl(&["--namespace", &namespace, "get", "ostler"]);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "STATE", "REASON", "LIMIT", "AGE"], "{shown}");
    assert_eq!(lines[1][..5], ["llmbackend.ostler.dev/mlx", "False", "Down", "Refused", "2"], "{shown}");
}

//! A document's metadata, by the rules of the API machinery.

use serde_json::{Map, Value};

use super::{path::FieldPath, schema::SchemaFault};
use crate::base::closest;

/// Where kubectl puts what names no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Every field of `ObjectMeta`. What only a server sets (uid, resourceVersion, …) is taken from no manifest, so that the
/// output of `kubectl get -o yaml` can be used as it is.
const FIELDS: [&str; 15] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What a folder keeps of the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub labels: Map<String, Value>,
    pub annotations: Map<String, Value>,
}

/// The metadata of a document, and what is wrong with it. The name is empty when there is none that can be used.
pub fn read(document: &Value) -> (Metadata, Vec<SchemaFault>) {
    let path = FieldPath::keys(&["metadata"]);
    let mut metadata = Metadata { namespace: DEFAULT_NAMESPACE.to_owned(), ..Metadata::default() };
    let mut faults = Vec::new();
    let fields = match document.get("metadata") {
        Some(Value::Object(fields)) => fields,
        None | Some(Value::Null) => {
            faults.push(SchemaFault::new(path.key("name"), "is required: set it"));
            return (metadata, faults);
        }
        Some(_) => {
            faults.push(SchemaFault::new(path, "must be a map"));
            return (metadata, faults);
        }
    };
    for key in fields.keys().filter(|key| !FIELDS.contains(&key.as_str())) {
        let message = match closest(key, FIELDS.into_iter()) {
            Some(meant) => format!("unknown field; did you mean {meant}?"),
            None => "unknown field: remove it".to_owned(),
        };
        faults.push(SchemaFault::new(path.key(key), message));
    }
    match word(fields, "name", &path, &mut faults) {
        Some(name) => match subdomain(name) {
            Ok(()) => metadata.name = name.to_owned(),
            Err(message) => faults.push(SchemaFault::new(path.key("name"), message)),
        },
        None if faults.iter().any(|fault| fault.field == path.key("name")) => {}
        None if fields.contains_key("generateName") => faults.push(SchemaFault::new(
            path.key("generateName"),
            "a manifest of a folder needs a fixed name: set metadata.name",
        )),
        None => faults.push(SchemaFault::new(path.key("name"), "is required: set it")),
    }
    if let Some(namespace) = word(fields, "namespace", &path, &mut faults) {
        match label(namespace) {
            Ok(()) => metadata.namespace = namespace.to_owned(),
            Err(message) => faults.push(SchemaFault::new(path.key("namespace"), message)),
        }
    }
    metadata.labels = strings(fields, "labels", &path, &mut faults);
    metadata.annotations = strings(fields, "annotations", &path, &mut faults);
    for (key, value) in &metadata.labels {
        let at = path.key("labels").key(key);
        if let Err(message) = label_value(value.as_str().unwrap_or_default()) {
            faults.push(SchemaFault::new(at, message));
        }
    }
    (metadata, faults)
}

fn word<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
    path: &FieldPath,
    faults: &mut Vec<SchemaFault>,
) -> Option<&'a str> {
    match fields.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            faults.push(SchemaFault::new(path.key(key), "must be a string: put it in quotes"));
            None
        }
    }
}

fn strings(
    fields: &Map<String, Value>,
    key: &str,
    path: &FieldPath,
    faults: &mut Vec<SchemaFault>,
) -> Map<String, Value> {
    let path = path.key(key);
    let mut kept = Map::new();
    match fields.get(key) {
        None | Some(Value::Null) => {}
        Some(Value::Object(entries)) => {
            for (name, value) in entries {
                if let Err(message) = qualified_name(name) {
                    faults.push(SchemaFault::new(path.key(name), message));
                } else if value.is_null() {
                    // The API server reads null as the empty string.
                    kept.insert(name.clone(), Value::String(String::new()));
                } else if value.is_string() {
                    kept.insert(name.clone(), value.clone());
                } else {
                    faults.push(SchemaFault::new(path.key(name), "must be a string: put it in quotes"));
                }
            }
        }
        Some(_) => faults.push(SchemaFault::new(path, "must be a map of strings")),
    }
    kept
}

/// RFC 1123's subdomain, as names of resources are.
fn subdomain(text: &str) -> Result<(), String> {
    let fits = text.len() <= 253 && text.split('.').all(is_label);
    fits.then_some(()).ok_or_else(|| {
        format!(
            "must have lower-case letters, digits, '-' and '.' only, begin and end with a letter or digit, and have 253 characters or fewer (RFC 1123 subdomain), but is {text:?}"
        )
    })
}

/// RFC 1123's label, as names of namespaces are.
fn label(text: &str) -> Result<(), String> {
    let fits = text.len() <= 63 && is_label(text);
    fits.then_some(()).ok_or_else(|| {
        format!(
            "must have lower-case letters, digits and '-' only, begin and end with a letter or digit, and have 63 characters or fewer (RFC 1123 label), but is {text:?}"
        )
    })
}

fn is_label(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// `prefix/name`, as keys of labels and annotations are.
pub fn qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        subdomain(&prefix.to_lowercase())?;
    }
    let fits = (1..=63).contains(&name.len()) && is_word(name);
    fits.then_some(()).ok_or_else(|| {
        "a key is a name of at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, with a domain before a '/' if wanted".to_owned()
    })
}

fn label_value(value: &str) -> Result<(), String> {
    let fits = value.is_empty() || (value.len() <= 63 && is_word(value));
    fits.then_some(()).ok_or_else(|| {
        "a label's value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit".to_owned()
    })
}

fn is_word(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

//! From the text of a file to resources, each problem with its file, line and field.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    kinds::{KindMatch, Kinds},
    metadata::{self, Metadata},
    path::FieldPath,
    records::SecretData,
    schema::{Schema, SchemaFault},
    yaml::{self, YamlContent, YamlNode},
};
use crate::{
    api::ObjectKey,
    platform::{ManifestPlace, PlatformProblem},
};

/// A good document.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub key: ObjectKey,
    pub place: ManifestPlace,
    pub content: ManifestContent,
}

/// What a document declares.
#[derive(Clone, Debug, PartialEq)]
pub enum ManifestContent {
    /// The defaulted document, without status.
    Resource(Value),
    Secret(SecretData),
}

/// Of one document; more say nothing new.
const MOST_FAULTS: usize = 50;

/// What became of a file.
#[derive(Clone, Debug, Default)]
pub struct FileReading {
    pub manifests: Vec<Manifest>,
    pub problems: Vec<PlatformProblem>,
}

/// Reads all documents of a file. What is broken is in `problems`; the rest of the file is taken all the same, unless it
/// is no YAML.
pub fn read(file: &str, text: &str, kinds: &Kinds) -> FileReading {
    let mut reading = FileReading::default();
    match yaml::parse(text) {
        Ok(documents) => {
            for document in &documents {
                Document { file, node: document, kinds }.read(&mut reading);
            }
        }
        // What names neither is another program's: a template, or a file of settings with comments.
        Err(_) if !text.contains("apiVersion") && !text.contains("kind") => {
            reading.problems.push(PlatformProblem::warning(NO_MANIFEST).at(file, 0));
        }
        Err(error) => reading
            .problems
            .push(PlatformProblem::error(format!("can't be read as YAML: {}", error.message)).at(file, error.line)),
    }
    reading
}

const NO_MANIFEST: &str = "is no manifest (it has neither apiVersion nor kind), and is skipped";

struct Document<'a> {
    file: &'a str,
    node: &'a YamlNode,
    kinds: &'a Kinds,
}

impl Document<'_> {
    fn read(&self, reading: &mut FileReading) {
        if let YamlContent::List(items) = &self.node.content
            && items.iter().any(|item| item.get("apiVersion").is_some() || item.get("kind").is_some())
        {
            for node in items {
                Document { node, ..*self }.read(reading);
            }
            return;
        }
        // One half of a manifest is a mistake; what has nothing of one is another program's.
        if !["apiVersion", "kind", "metadata", "spec"].into_iter().any(|field| self.node.get(field).is_some()) {
            reading.problems.push(PlatformProblem::warning(NO_MANIFEST).at(self.file, self.node.line));
            return;
        }
        let word = |field: &str| self.node.get(field).and_then(YamlNode::as_str);
        let (Some(api_version), Some(kind)) = (word("apiVersion"), word("kind")) else {
            let missing = if word("kind").is_none() { "kind" } else { "apiVersion" };
            let fault = SchemaFault::new(FieldPath::keys(&[missing]), "is required: set it");
            reading.problems.push(self.problem(None, &fault));
            return;
        };
        let items = self.node.get("items").map(|node| &node.content);
        if let Some(YamlContent::List(items)) = items.filter(|_| kind.ends_with("List")) {
            for node in items {
                Document { node, ..*self }.read(reading);
            }
            return;
        }
        match self.kinds.find(api_version, kind) {
            KindMatch::Resource(schema) => self.resource(api_version, kind, schema, reading),
            KindMatch::Secret(schema) => self.texts(&SECRET, schema, reading),
            KindMatch::ConfigMap(schema) => self.texts(&CONFIG_MAP, schema, reading),
            KindMatch::Foreign => reading.problems.push(
                PlatformProblem::warning(format!(
                    "{kind} ({api_version}) is nothing that runs here, and is skipped: it belongs to a cluster"
                ))
                .at(self.file, self.node.line),
            ),
            KindMatch::Unknown(message) => {
                let fault = SchemaFault::new(FieldPath::keys(&["kind"]), message);
                reading.problems.push(self.problem(None, &fault));
            }
        }
    }

    fn resource(&self, api_version: &str, kind: &str, schema: &Schema, reading: &mut FileReading) {
        let mut object = self.node.to_json();
        let (metadata, mut faults) = metadata::read(&object);
        if let Value::Object(fields) = &mut object {
            // What `ostler get -o yaml` adds.
            fields.remove("live");
        }
        // What a manifest says about status is ignored, but must be something that a status has.
        faults.extend(schema.unknown_fields_of("status", &object));
        if let Value::Object(fields) = &mut object {
            fields.remove("status");
        }
        faults.extend(schema.admit(&mut object));
        let key = self.key(kind, &metadata);
        if !faults.is_empty() {
            self.refuse(key.as_ref(), &faults, reading);
            return;
        }
        let Some(key) = key else { return };
        if let Value::Object(fields) = &mut object {
            fields.remove("status");
            fields.insert("apiVersion".to_owned(), json!(api_version));
            fields.insert("metadata".to_owned(), as_json(&metadata));
        }
        reading.manifests.push(self.manifest(key, ManifestContent::Resource(object)));
    }

    /// A Secret or a ConfigMap: bytes by key.
    fn texts(&self, shape: &Texts, schema: &Schema, reading: &mut FileReading) {
        let mut object = self.node.to_json();
        let (metadata, mut faults) = metadata::read(&object);
        faults.extend(schema.admit(&mut object));
        for part in [shape.encoded, shape.plain] {
            let names = entries(&object, part).map(|(name, _)| name).filter(|name| !is_secret_key(name));
            let message = "a key has letters, digits, '-', '_' and '.' only";
            faults.extend(names.map(|name| SchemaFault::new(FieldPath::keys(&[part, name]), message)));
        }
        let mut values = BTreeMap::new();
        for (name, encoded) in entries(&object, shape.encoded) {
            match STANDARD.decode(encoded.replace(['\n', '\r'], "")) {
                Ok(value) => {
                    values.insert(name.to_owned(), value);
                }
                Err(_) => faults.push(SchemaFault::new(
                    FieldPath::keys(&[shape.encoded]).key(name),
                    format!("must be base64; plain text goes under {}", shape.plain),
                )),
            }
        }
        for (name, plain) in entries(&object, shape.plain) {
            values.insert(name.to_owned(), plain.as_bytes().to_vec());
        }
        let key = self.key(shape.kind, &metadata);
        if !faults.is_empty() {
            self.refuse(key.as_ref(), &faults, reading);
            return;
        }
        let Some(key) = key else { return };
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let labels = metadata.labels.iter().filter_map(text).collect();
        let content = ManifestContent::Secret(SecretData { data: values, labels });
        reading.manifests.push(self.manifest(key, content));
    }

    fn refuse(&self, key: Option<&ObjectKey>, faults: &[SchemaFault], reading: &mut FileReading) {
        reading.problems.extend(faults.iter().take(MOST_FAULTS).map(|fault| self.problem(key, fault)));
        if let Some(more) = faults.len().checked_sub(MOST_FAULTS).filter(|more| *more > 0) {
            let fault = SchemaFault::new(FieldPath::default(), format!("and {more} more of the kind"));
            reading.problems.push(self.problem(key, &fault));
        }
    }

    fn manifest(&self, key: ObjectKey, content: ManifestContent) -> Manifest {
        Manifest { key, place: ManifestPlace { file: self.file.to_owned(), line: self.node.line }, content }
    }

    fn key(&self, kind: &str, metadata: &Metadata) -> Option<ObjectKey> {
        (!metadata.name.is_empty()).then(|| ObjectKey {
            kind: kind.to_owned(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        })
    }

    fn problem(&self, key: Option<&ObjectKey>, fault: &SchemaFault) -> PlatformProblem {
        let problem = PlatformProblem::error(fault.message.clone()).at(self.file, self.node.line_of(&fault.field));
        let problem = match key {
            Some(key) => problem.about(key),
            None => problem,
        };
        if fault.field.0.is_empty() { problem } else { problem.field(&fault.field) }
    }
}

/// Where a kind keeps its bytes, and where its texts.
struct Texts {
    kind: &'static str,
    encoded: &'static str,
    plain: &'static str,
}

const SECRET: Texts = Texts { kind: "Secret", encoded: "data", plain: "stringData" };
const CONFIG_MAP: Texts = Texts { kind: "ConfigMap", encoded: "binaryData", plain: "data" };

fn entries<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

/// The API server's rule for keys of Secrets and ConfigMaps.
fn is_secret_key(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=253).contains(&name.len()) && name.chars().all(fits) && name != "." && !name.starts_with("..")
}

fn as_json(metadata: &Metadata) -> Value {
    let Metadata { name, namespace, labels, annotations } = metadata;
    let mut json = json!({"name": name, "namespace": namespace});
    for (key, map) in [("labels", labels), ("annotations", annotations)] {
        if !map.is_empty() {
            json[key] = Value::Object(map.clone());
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde::de::DeserializeOwned;

    use super::*;
    use crate::api::{
        Caller, ContainerHealthCheck, Expert, HostAgent, LLMBackend, Notifier, TaskQueue, TaskSchedule, WorkerPool,
    };

    static KINDS: LazyLock<Kinds> = LazyLock::new(|| Kinds::new(&[]).unwrap());

    fn decodes<K: DeserializeOwned>(object: &Value) -> Result<(), serde_json::Error> {
        serde_json::from_value::<K>(object.clone()).map(drop)
    }

    #[test]
    fn a_problem_repeats_no_more_than_a_few_lines_of_the_file() {
        let long = "\u{2028}".repeat(20_000);
        for text in [
            format!("apiVersion: ostler.dev/v1alpha1\nkind: 'A{long}'\n"),
            format!("apiVersion: ostler.dev/v1alpha1\nkind: TaskQueue\nmetadata: {{name: a}}\nspec: {{'{long}': 1}}\n"),
        ] {
            let problems = read("a.yaml", &text, &KINDS).problems;
            assert!(!problems.is_empty());
            assert!(
                problems.iter().all(|problem| problem.to_string().len() < 16_384),
                "{}",
                problems[0].to_string().len()
            );
        }
    }

    #[test]
    fn keys_of_match_labels_are_labels() {
        let said = |key: &str| {
            let text = format!(
                "apiVersion: ostler.dev/v1alpha1\nkind: TaskSchedule\nmetadata: {{name: a}}\nspec:\n  queueRef: {{name: a}}\n  \
                 schedule: '@daily'\n  task: {{prompt: x}}\n  forEachExpert:\n    matchLabels:\n      '{key}': b\n"
            );
            read("a.yaml", &text, &KINDS).problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for good in ["team", "ostler.dev/team", "a.b_c-d"] {
            assert_eq!(said(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["a b", "", "/a", "a/b/c", "-a", "Ä"] {
            let said = said(bad);
            assert!(
                said.len() == 1
                    && said[0].starts_with("a.yaml:10: TaskSchedule default/a: spec.forEachExpert.matchLabels"),
                "{bad:?}: {said:?}"
            );
        }
    }

    #[test]
    fn any_bytes_of_a_file_are_manifests_that_controllers_can_decode_or_problems_with_a_place() {
        let _ = &*KINDS;
        crate::testing::any_bytes("manifests", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let reading = read("a.yaml", &text, &KINDS);
            let lines = text.split(['\n', '\r']).count();
            for problem in &reading.problems {
                let line = problem.place.as_ref().map_or(0, |place| place.line);
                assert!(line <= lines + 1, "{problem} of {lines} lines");
                assert!(problem.to_string().len() < 16_384, "{} bytes", problem.to_string().len());
            }
            let mut word: String = reading.problems.iter().take(3).map(|p| short(&p.message)).collect();
            for manifest in &reading.manifests {
                let ManifestContent::Resource(object) = &manifest.content else { continue };
                let decoded = match manifest.key.kind.as_str() {
                    "LLMBackend" => decodes::<LLMBackend>(object),
                    "HostAgent" => decodes::<HostAgent>(object),
                    "Expert" => decodes::<Expert>(object),
                    "TaskQueue" => decodes::<TaskQueue>(object),
                    "WorkerPool" => decodes::<WorkerPool>(object),
                    "TaskSchedule" => decodes::<TaskSchedule>(object),
                    "Caller" => decodes::<Caller>(object),
                    "Notifier" => decodes::<Notifier>(object),
                    _ => decodes::<ContainerHealthCheck>(object),
                };
                assert!(decoded.is_ok(), "{decoded:?}: {object}");
                let again = read("b.json", &object.to_string(), &KINDS);
                let same = again.manifests.first().is_some_and(|again| again.content == manifest.content);
                assert!(same, "{object} is read back as {again:?}");
                word.push_str(&manifest.key.kind);
            }
            word
        });

        fn short(message: &str) -> String {
            message.chars().filter(|c| c.is_ascii_alphabetic()).take(24).collect()
        }
    }
}

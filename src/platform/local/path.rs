//! Paths of fields, as Kubernetes writes them: `spec.models[0].name`.

use std::fmt;

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Key(String),
    Index(usize),
}

/// Where in a document. The empty path is the document itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(pub Vec<Segment>);

impl FieldPath {
    /// A path of plain keys: `FieldPath::keys(&["metadata", "name"])`.
    pub fn keys(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| Segment::Key((*key).to_owned())).collect())
    }

    pub fn key(&self, key: &str) -> Self {
        let mut deeper = self.clone();
        deeper.0.push(Segment::Key(key.to_owned()));
        deeper
    }

    pub fn index(&self, index: usize) -> Self {
        let mut deeper = self.clone();
        deeper.0.push(Segment::Index(index));
        deeper
    }

    /// Appends `.concurrency` or `.models[0].name`, as `fieldPath` of a CEL rule has it.
    pub fn join_dotted(&self, dotted: &str) -> Self {
        let mut deeper = self.clone();
        for part in dotted.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
            deeper.0.push(match part.parse() {
                Ok(index) => Segment::Index(index),
                Err(_) => Segment::Key(part.trim_matches(['\'', '"']).to_owned()),
            });
        }
        deeper
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if key.contains(['.', '/', '[']) => write!(f, "[{key}]")?,
                Segment::Key(key) if at == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_kubernetes_writes_it() {
        let path = FieldPath::keys(&["spec", "models"]).index(0).key("name");
        assert_eq!(path.to_string(), "spec.models[0].name");
        assert_eq!(FieldPath::keys(&["metadata", "labels"]).key("a.b/c").to_string(), "metadata.labels[a.b/c]");
    }

    #[test]
    fn a_rules_field_path_is_appended() {
        let spec = FieldPath::keys(&["spec"]);
        assert_eq!(spec.join_dotted(".models[2].name").to_string(), "spec.models[2].name");
    }
}

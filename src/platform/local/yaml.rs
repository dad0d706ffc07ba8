//! YAML with line numbers, read as kubectl reads it: YAML 1.1 words for booleans, duplicate keys refused, several
//! documents, anchors and merge keys. JSON is YAML too.

mod scalar;

use std::collections::HashMap;

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use super::path::{FieldPath, Segment};

/// More nodes than any manifest needs; aliases count each time, so that a few lines can't grow to gigabytes.
const MAX_NODES: usize = 200_000;

/// A value and where it begins (lines from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub line: usize,
    pub content: Content,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub line: usize,
    pub value: Node,
}

/// Why a file can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    pub line: usize,
    pub message: String,
}

/// The documents of a file; empty ones are left out.
pub fn parse(text: &str) -> Result<Vec<Node>, YamlError> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) =
            next.map_err(|error| YamlError { line: error.marker().line(), message: error.to_string() })?;
        builder.feed(event, span.start.line())?;
    }
    Ok(builder.documents.into_iter().filter(|node| node.content != Content::Scalar(Value::Null)).collect())
}

impl Node {
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The line of a field, or of the nearest thing around it that is written.
    pub fn line_of(&self, path: &FieldPath) -> usize {
        let (mut node, mut line) = (self, self.line);
        for segment in &path.0 {
            match (segment, &node.content) {
                (Segment::Key(key), Content::Map(entries)) => {
                    let Some(entry) = entries.iter().find(|e| e.key == *key) else {
                        break;
                    };
                    (node, line) = (&entry.value, entry.line);
                }
                (Segment::Index(index), Content::List(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    (node, line) = (item, item.line);
                }
                _ => break,
            }
        }
        line
    }
}

/// A collection whose end has not come yet.
struct Open {
    line: usize,
    anchor: usize,
    content: Content,
    /// The key of a map that waits for its value.
    key: Option<(String, usize)>,
    /// Values of `<<`, taken in when the map ends.
    merged: Vec<Node>,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    documents: Vec<Node>,
    nodes: usize,
}

impl Builder {
    fn feed(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_ref().map(|tag| tag.to_string());
                let plain = style == ScalarStyle::Plain;
                if plain && tag.is_none() && text == "<<" && self.wants_key() {
                    self.top().key = Some(("<<".to_owned(), 0));
                    return Ok(());
                }
                let value =
                    scalar::resolve(&text, plain, tag.as_deref()).map_err(|message| YamlError { line, message })?;
                self.add(line, anchor, Content::Scalar(value))
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(line, anchor, Content::List(Vec::new()));
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.begin(line, anchor, Content::Map(Vec::new()));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let target = self
                    .anchors
                    .get(&id)
                    .ok_or(YamlError { line, message: "an alias refers to what contains it".to_owned() })?;
                let (size, content) = (size(target), &target.content);
                // Counted before it is copied: aliases of aliases grow by a power.
                if self.nodes + size > MAX_NODES {
                    return Err(too_many(line));
                }
                self.nodes += size;
                let content = content.clone();
                self.add(line, 0, content)
            }
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn top(&mut self) -> &mut Open {
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map(_), key: None, .. }))
    }

    fn begin(&mut self, line: usize, anchor: usize, content: Content) {
        self.open.push(Open { line, anchor, content, key: None, merged: Vec::new() });
    }

    fn end(&mut self) -> Result<(), YamlError> {
        let Some(mut open) = self.open.pop() else {
            return Ok(());
        };
        if let Content::Map(entries) = &mut open.content {
            merge(entries, open.merged)?;
        }
        self.add(open.line, open.anchor, open.content)
    }

    fn add(&mut self, line: usize, anchor: usize, content: Content) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(too_many(line));
        }
        let node = Node { line, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match (&mut open.content, open.key.take()) {
            (Content::List(items), _) => items.push(node),
            (Content::Map(_), None) => open.key = Some((key_of(&node)?, line)),
            (Content::Map(_), Some((_, 0))) => open.merged.push(node),
            (Content::Map(entries), Some((key, key_line))) => {
                if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                    let message = format!("key {key:?} is already set in line {}", first.line);
                    return Err(YamlError { line: key_line, message });
                }
                entries.push(Entry { key, line: key_line, value: node });
            }
            (Content::Scalar(_), _) => {}
        }
        Ok(())
    }
}

fn too_many(line: usize) -> YamlError {
    YamlError { line, message: format!("more than {MAX_NODES} values: split the file") }
}

fn size(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) => 1,
        Content::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Content::Map(entries) => 1 + entries.iter().map(|e| size(&e.value)).sum::<usize>(),
    }
}

fn key_of(node: &Node) -> Result<String, YamlError> {
    match &node.content {
        Content::Scalar(Value::String(key)) => Ok(key.clone()),
        Content::Scalar(Value::Null) => Ok("null".to_owned()),
        Content::Scalar(other) => Ok(other.to_string()),
        _ => Err(YamlError {
            line: node.line,
            message: "a key must be a plain word; quote it if it begins with { or [".to_owned(),
        }),
    }
}

/// Takes in what `<<` names. What is there already is a duplicate, as the API server has it.
fn merge(entries: &mut Vec<Entry>, merged: Vec<Node>) -> Result<(), YamlError> {
    for node in merged {
        let maps = match node.content {
            Content::List(items) => items,
            _ => vec![node],
        };
        for map in maps {
            let Content::Map(more) = map.content else {
                let message = "<< takes a map, or a list of maps".to_owned();
                return Err(YamlError { line: map.line, message });
            };
            for entry in more {
                if let Some(own) = entries.iter().find(|own| own.key == entry.key) {
                    let message = format!("key {:?} is set beside a << that sets it too", entry.key);
                    return Err(YamlError { line: own.line, message });
                }
                entries.push(entry);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

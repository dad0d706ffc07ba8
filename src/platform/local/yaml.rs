//! YAML with line numbers, read as kubectl reads it: YAML 1.1 words for booleans, duplicate keys refused, several
//! documents, anchors and merge keys. JSON is YAML too.

mod scalar;

use std::collections::HashMap;

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use super::path::{FieldPath, Segment};

/// More nodes than any manifest needs; aliases count each time, so that a few lines can't grow to gigabytes.
const MAX_NODES: usize = 200_000;
/// Deeper than any manifest goes.
const MAX_DEPTH: usize = 100;

/// A value and where it begins (lines from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct YamlNode {
    pub line: usize,
    pub content: YamlContent,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum YamlContent {
    Scalar(Value),
    List(Vec<YamlNode>),
    Map(Vec<YamlEntry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct YamlEntry {
    pub key: String,
    pub line: usize,
    pub value: YamlNode,
}

/// Why a file can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    pub line: usize,
    pub message: String,
}

/// The documents of a file; empty ones are left out. JSON documents may follow each other as they are, as kubectl takes them.
pub fn parse(text: &str) -> Result<Vec<YamlNode>, YamlError> {
    let Some(documents) = json_documents(text).filter(|documents| documents.len() > 1) else {
        return parse_yaml(text, 0);
    };
    let mut all = Vec::new();
    for (before, document) in documents {
        all.extend(parse_yaml(document, before)?);
    }
    Ok(all)
}

/// Where the text is JSON documents and nothing else: each with the lines before it.
fn json_documents(text: &str) -> Option<Vec<(usize, &str)>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let (mut documents, mut begin, mut lines) = (Vec::new(), 0, 0);
    while let Some(next) = stream.next() {
        next.ok()?;
        let end = stream.byte_offset();
        let document = text.get(begin..end)?;
        documents.push((lines, document));
        lines += document.matches('\n').count();
        begin = end;
    }
    Some(documents)
}

/// `before`: lines of the file before this text.
fn parse_yaml(text: &str, before: usize) -> Result<Vec<YamlNode>, YamlError> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) =
            next.map_err(|error| YamlError { line: error.marker().line() + before, message: error.to_string() })?;
        builder.feed(event, span.start.line() + before)?;
    }
    Ok(builder.documents.into_iter().filter(|node| node.content != YamlContent::Scalar(Value::Null)).collect())
}

impl YamlNode {
    pub fn to_json(&self) -> Value {
        match &self.content {
            YamlContent::Scalar(value) => value.clone(),
            YamlContent::List(items) => Value::Array(items.iter().map(YamlNode::to_json).collect()),
            YamlContent::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    pub fn get(&self, key: &str) -> Option<&YamlNode> {
        match &self.content {
            YamlContent::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            YamlContent::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The line of a field, or of the nearest thing around it that is written.
    pub fn line_of(&self, path: &FieldPath) -> usize {
        let (mut node, mut line) = (self, self.line);
        for segment in &path.0 {
            match (segment, &node.content) {
                (Segment::Key(key), YamlContent::Map(entries)) => {
                    let Some(entry) = entries.iter().find(|e| e.key == *key) else {
                        break;
                    };
                    (node, line) = (&entry.value, entry.line);
                }
                (Segment::Index(index), YamlContent::List(items)) => {
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
    content: YamlContent,
    /// The key of a map that waits for its value.
    key: Option<(String, usize)>,
    /// The line of each key of a map.
    keys: HashMap<String, usize>,
    /// Values of `<<`, taken in when the map ends.
    merged: Vec<YamlNode>,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, YamlNode>,
    documents: Vec<YamlNode>,
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
                self.add(line, anchor, YamlContent::Scalar(value))
            }
            Event::SequenceStart(_, anchor, _) => self.begin(line, anchor, YamlContent::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.begin(line, anchor, YamlContent::Map(Vec::new())),
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
        matches!(self.open.last(), Some(Open { content: YamlContent::Map(_), key: None, .. }))
    }

    fn begin(&mut self, line: usize, anchor: usize, content: YamlContent) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlError { line, message: format!("is nested more than {MAX_DEPTH} deep: no manifest is") });
        }
        self.open.push(Open { line, anchor, content, key: None, keys: HashMap::new(), merged: Vec::new() });
        Ok(())
    }

    fn end(&mut self) -> Result<(), YamlError> {
        let Some(mut open) = self.open.pop() else {
            return Ok(());
        };
        if let YamlContent::Map(entries) = &mut open.content {
            merge(entries, open.keys, open.merged)?;
        }
        self.add(open.line, open.anchor, open.content)
    }

    fn add(&mut self, line: usize, anchor: usize, content: YamlContent) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(too_many(line));
        }
        let node = YamlNode { line, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match (&mut open.content, open.key.take()) {
            (YamlContent::List(items), _) => items.push(node),
            (YamlContent::Map(_), None) => open.key = Some((key_of(&node)?, line)),
            (YamlContent::Map(_), Some((_, 0))) => open.merged.push(node),
            (YamlContent::Map(entries), Some((key, key_line))) => {
                if let Some(first) = open.keys.insert(key.clone(), key_line) {
                    let message = format!("key {key:?} is already set in line {first}");
                    return Err(YamlError { line: key_line, message });
                }
                entries.push(YamlEntry { key, line: key_line, value: node });
            }
            (YamlContent::Scalar(_), _) => {}
        }
        Ok(())
    }
}

fn too_many(line: usize) -> YamlError {
    YamlError { line, message: format!("more than {MAX_NODES} values: split the file") }
}

fn size(node: &YamlNode) -> usize {
    match &node.content {
        YamlContent::Scalar(_) => 1,
        YamlContent::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        YamlContent::Map(entries) => 1 + entries.iter().map(|e| size(&e.value)).sum::<usize>(),
    }
}

fn key_of(node: &YamlNode) -> Result<String, YamlError> {
    match &node.content {
        YamlContent::Scalar(Value::String(key)) => Ok(key.clone()),
        YamlContent::Scalar(Value::Null) => Ok("null".to_owned()),
        YamlContent::Scalar(other) => Ok(other.to_string()),
        _ => Err(YamlError {
            line: node.line,
            message: "a key must be a plain word; quote it if it begins with { or [".to_owned(),
        }),
    }
}

/// Takes in what `<<` names. The map's own keys win, then what is named first, as YAML has it and kubectl takes it.
fn merge(
    entries: &mut Vec<YamlEntry>,
    mut keys: HashMap<String, usize>,
    merged: Vec<YamlNode>,
) -> Result<(), YamlError> {
    for node in merged {
        let maps = match node.content {
            YamlContent::List(items) => items,
            _ => vec![node],
        };
        for map in maps {
            let YamlContent::Map(more) = map.content else {
                let message = "<< takes a map, or a list of maps".to_owned();
                return Err(YamlError { line: map.line, message });
            };
            for entry in more {
                if keys.insert(entry.key.clone(), entry.line).is_none() {
                    entries.push(entry);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

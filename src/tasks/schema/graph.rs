//! A schema as a graph: its subschemas, and which of them look at the same value or at one inside.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Unusable;

/// Subschemas, and references between them.
const MAX_NODES: usize = 5_000;
const MAX_PATTERNS: usize = 200;
const MAX_PATTERN_CHARS: usize = 1_000;
/// Subschemas that look at one value, however often they are referred to.
const MAX_WEIGHT: u64 = 2_000;
/// Subschemas that are inside each other, references followed.
const MAX_CHAIN: usize = 128;

/// Keywords with a schema for the same value.
const SAME: [&str; 4] = ["not", "if", "then", "else"];
const SAME_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords with schemas for some of its members, by name.
const SAME_MAPS: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords with a schema for each value inside.
const INSIDE: [&str; 7] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Where schemas are kept for references.
const KEPT: [&str; 2] = ["$defs", "definitions"];

#[derive(Debug)]
pub struct Graph<'a> {
    pub nodes: Vec<SchemaNode<'a>>,
    /// By its address.
    by_place: HashMap<usize, usize>,
    root: &'a Value,
}

#[derive(Debug)]
pub struct SchemaNode<'a> {
    pub schema: &'a Value,
    /// `.properties.name`
    path: String,
    /// What looks at the same value.
    pub same: Vec<usize>,
    pub properties: Vec<(&'a str, usize)>,
    pub prefix: Vec<usize>,
    /// What looks at any value inside.
    pub inside: Vec<usize>,
}

impl<'a> Graph<'a> {
    /// Refuses what costs too much whatever the answer is, and what refers to elsewhere.
    pub fn of(root: &'a Value) -> Result<Self, Unusable> {
        let mut graph = Self { nodes: Vec::new(), by_place: HashMap::new(), root };
        graph.node(root, String::new())?;
        let mut read = 0;
        while read < graph.nodes.len() {
            graph.read(read)?;
            read += 1;
        }
        let patterns = graph.patterns().count();
        if patterns > MAX_PATTERNS {
            return Err(Unusable::new("", format!("has {patterns} patterns, {MAX_PATTERNS} are allowed")));
        }
        if let Some((path, _)) = graph.patterns().find(|(_, text)| text.chars().count() > MAX_PATTERN_CHARS) {
            return Err(Unusable::new(&path, format!("has more than {MAX_PATTERN_CHARS} characters")));
        }
        graph.bounded()?;
        Ok(graph)
    }

    /// Patterns with where they stand.
    pub fn patterns(&self) -> impl Iterator<Item = (String, &'a str)> {
        self.nodes.iter().flat_map(|node| {
            let one = node.schema.get("pattern").and_then(Value::as_str).map(|p| (format!("{}.pattern", node.path), p));
            let names = node.schema.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
            one.into_iter().chain(names.map(|p| (format!("{}.patternProperties", node.path), p.as_str())))
        })
    }

    fn node(&mut self, schema: &'a Value, path: String) -> Result<usize, Unusable> {
        if let Some(known) = self.by_place.get(&std::ptr::from_ref(schema).addr()) {
            return Ok(*known);
        }
        if self.nodes.len() == MAX_NODES {
            return Err(Unusable::new("", format!("has more than {MAX_NODES} subschemas")));
        }
        self.by_place.insert(std::ptr::from_ref(schema).addr(), self.nodes.len());
        self.nodes.push(SchemaNode { schema, path, same: vec![], properties: vec![], prefix: vec![], inside: vec![] });
        Ok(self.nodes.len() - 1)
    }

    /// Finds what a node refers to.
    fn read(&mut self, at: usize) -> Result<(), Unusable> {
        let (schema, path) = (self.nodes[at].schema, self.nodes[at].path.clone());
        let Some(keywords) = schema.as_object() else { return Ok(()) };
        let inside = |keyword: &str| format!("{path}.{keyword}");
        for (keyword, value) in keywords {
            let name = keyword.as_str();
            match value {
                Value::String(target) if name == "$ref" => {
                    let target = self.target(target, &inside(name))?;
                    let node = self.node(target.0, target.1)?;
                    self.nodes[at].same.push(node);
                }
                _ if name == "$dynamicRef" || name == "$recursiveRef" => {
                    return Err(Unusable::new(&inside(name), "is not followed: write $ref, such as #/$defs/NAME"));
                }
                Value::String(_) if matches!(name, "$id" | "id") && at > 0 => {
                    return Err(Unusable::new(
                        &inside(name),
                        "is allowed at the root only: references go by #/$defs/NAME",
                    ));
                }
                Value::Array(list) if SAME_LISTS.contains(&name) || name == "prefixItems" || name == "items" => {
                    for (i, value) in list.iter().enumerate() {
                        let node = self.node(value, format!("{path}.{name}[{i}]"))?;
                        match SAME_LISTS.contains(&name) {
                            true => self.nodes[at].same.push(node),
                            false => self.nodes[at].prefix.push(node),
                        }
                    }
                }
                Value::Object(map) if SAME_MAPS.contains(&name) || KEPT.contains(&name) => {
                    for (key, value) in map.iter().filter(|(_, value)| !value.is_array()) {
                        let node = self.node(value, format!("{path}.{name}.{key}"))?;
                        if SAME_MAPS.contains(&name) {
                            self.nodes[at].same.push(node);
                        }
                    }
                }
                Value::Object(map) if name == "properties" || name == "patternProperties" => {
                    for (key, value) in map {
                        let node = self.node(value, format!("{path}.{name}.{key}"))?;
                        match name {
                            "properties" => self.nodes[at].properties.push((key, node)),
                            _ => self.nodes[at].inside.push(node),
                        }
                    }
                }
                _ if SAME.contains(&name) => {
                    let node = self.node(value, inside(name))?;
                    self.nodes[at].same.push(node);
                }
                _ if INSIDE.contains(&name) => {
                    let node = self.node(value, inside(name))?;
                    self.nodes[at].inside.push(node);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn target(&self, target: &str, field: &str) -> Result<(&'a Value, String), Unusable> {
        let shown: String = target.chars().take(200).collect();
        let Some(pointer) = target.strip_prefix('#') else {
            return Err(Unusable::new(
                field,
                format!("is {shown:?}: schemas elsewhere are not fetched; put it into $defs and write #/$defs/NAME"),
            ));
        };
        // Names in references are written as in URLs.
        let pointer = percent_decoded(pointer);
        match self.root.pointer(&pointer) {
            Some(found) => Ok((found, pointer.replace('/', "."))),
            None => Err(Unusable::new(field, format!("is {shown:?}, which is not in this schema: write #/$defs/NAME"))),
        }
    }

    /// Bounds the work at one value, and how deep references go.
    fn bounded(&self) -> Result<(), Unusable> {
        let mut weights = vec![Weight::Unknown; self.nodes.len()];
        for at in 0..self.nodes.len() {
            self.weigh(at, &mut weights, 0)?;
        }
        let mut chains = vec![None; self.nodes.len()];
        for at in 0..self.nodes.len() {
            self.chain(at, &mut chains, 0)?;
        }
        Ok(())
    }

    fn weigh(&self, at: usize, weights: &mut [Weight], depth: usize) -> Result<u64, Unusable> {
        let node = &self.nodes[at];
        match weights[at] {
            Weight::Known(weight) => return Ok(weight),
            Weight::Weighing => {
                return Err(Unusable::new(&node.path, "refers to itself for the same value, without end"));
            }
            Weight::Unknown if depth == MAX_CHAIN => return Err(too_deep(&node.path)),
            Weight::Unknown => weights[at] = Weight::Weighing,
        }
        let mut weight = 1;
        for other in &node.same {
            weight += self.weigh(*other, weights, depth + 1)?;
        }
        weight = weight.saturating_mul(node.repeats());
        if weight > MAX_WEIGHT {
            let why = format!(
                "looks at one value more than {MAX_WEIGHT} times, by alternatives and references in each other"
            );
            return Err(Unusable::new(&node.path, why));
        }
        weights[at] = Weight::Known(weight);
        Ok(weight)
    }

    /// How many schemas follow each other from here, each counted once.
    fn chain(&self, at: usize, chains: &mut [Option<usize>], depth: usize) -> Result<usize, Unusable> {
        if depth > MAX_CHAIN {
            return Err(too_deep(&self.nodes[at].path));
        }
        if let Some(known) = chains[at] {
            return if depth + known > MAX_CHAIN { Err(too_deep(&self.nodes[at].path)) } else { Ok(known) };
        }
        // Whoever comes back here has gone round: that is bounded by the depth of answers.
        chains[at] = Some(0);
        let node = &self.nodes[at];
        let others =
            node.same.iter().chain(&node.prefix).chain(&node.inside).chain(node.properties.iter().map(|(_, n)| n));
        let mut longest = 0;
        for other in others {
            longest = longest.max(1 + self.chain(*other, chains, depth + 1)?);
        }
        chains[at] = Some(longest);
        Ok(longest)
    }
}

#[derive(Clone, Copy, Debug)]
enum Weight {
    Unknown,
    Weighing,
    Known(u64),
}

fn too_deep(path: &str) -> Unusable {
    Unusable::new(path, format!("is the {MAX_CHAIN}th schema inside each other, references followed: make it flatter"))
}

impl SchemaNode<'_> {
    /// How often its schemas look at the same value: to know what they left over, they are asked again.
    pub fn repeats(&self) -> u64 {
        let asks =
            ["unevaluatedProperties", "unevaluatedItems"].iter().filter(|k| self.schema.get(**k).is_some()).count();
        1 + 2 * u64::try_from(asks).unwrap_or(2)
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

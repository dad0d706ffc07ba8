//! What it costs to check an answer: it is walked as a validator would that tries everything, and steps are counted.

use serde_json::Value;

use super::graph::Graph;

/// A step takes a validator less than a microsecond.
pub const BUDGET: u64 = 1_000_000;

/// How many steps it takes; counting ends where they are too many.
pub fn steps(graph: &Graph<'_>, answer: &Value) -> u64 {
    let mut count = Count { graph, steps: 0 };
    count.visit(0, answer, 1);
    count.steps
}

struct Count<'a> {
    graph: &'a Graph<'a>,
    steps: u64,
}

impl Count<'_> {
    fn visit(&mut self, at: usize, value: &Value, times: u64) {
        let node = &self.graph.nodes[at];
        self.steps = self.steps.saturating_add(times.saturating_mul(1 + own_work(node.schema, value)));
        if self.steps > BUDGET {
            return;
        }
        let times = times.saturating_mul(node.repeats());
        for other in &node.same {
            self.visit(*other, value, times);
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    for (_, other) in node.properties.iter().filter(|(property, _)| property == name) {
                        self.visit(*other, member, times);
                    }
                    self.each(&node.inside, member, times);
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    if let Some(other) = node.prefix.get(i) {
                        self.visit(*other, item, times);
                    }
                    self.each(&node.inside, item, times);
                }
            }
            _ => {}
        }
    }

    fn each(&mut self, nodes: &[usize], value: &Value, times: u64) {
        for other in nodes {
            if self.steps > BUDGET {
                return;
            }
            self.visit(*other, value, times);
        }
    }
}

/// What a schema does with a value besides its subschemas, in steps.
fn own_work(schema: &Value, value: &Value) -> u64 {
    let has = |keyword: &str| schema.get(keyword).is_some();
    let size = match value {
        Value::String(text) => text.len() / 32,
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    let choices = schema.get("enum").and_then(Value::as_array).map_or(0, |choices| choices.len() / 4);
    let looks_at_all = has("uniqueItems") || has("pattern") || has("const") || has("enum") || has("patternProperties");
    u64::try_from(choices + if looks_at_all { size } else { 0 }).unwrap_or(u64::MAX)
}

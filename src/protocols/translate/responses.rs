//! OpenAI's Responses, without anything that is kept between calls.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    super::{AskError, Usage, beat::named_event, object::Object},
    chat::{ChatPart, ChatReader, function, tool_call},
    field, list, words, wrong,
};

/// The chat of a request.
pub(super) fn chat(object: &Object<'_>) -> Result<Value, AskError> {
    let mut messages = Vec::new();
    let instructions = field(object, "instructions")?;
    if let Some(text) = instructions.as_str().filter(|text| !text.is_empty()) {
        messages.push(json!({"role": "system", "content": text}));
    }
    for kept in ["conversation", "prompt"] {
        if !field(object, kept)?.is_null() {
            return Err(wrong(
                kept,
                format!("{kept}: nothing is kept between calls here; send the whole conversation"),
            ));
        }
    }
    match field(object, "input")? {
        Value::String(text) => messages.push(json!({"role": "user", "content": text})),
        Value::Array(items) => items.iter().try_for_each(|item| self::item(item, &mut messages))?,
        _ => return Err(wrong("input", "input must be a text or a list of items".to_owned())),
    }
    let mut chat = Map::new();
    chat.insert("model".into(), field(object, "model")?);
    chat.insert("messages".into(), messages.into());
    for (theirs, ours) in [
        ("max_output_tokens", "max_tokens"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("parallel_tool_calls", "parallel_tool_calls"),
        ("stream", "stream"),
    ] {
        let value = field(object, theirs)?;
        if !value.is_null() {
            chat.insert(ours.into(), value);
        }
    }
    if let Some(format) = response_format(&field(object, "text")?["format"]) {
        chat.insert("response_format".into(), format);
    }
    // What only OpenAI's servers run (web search and the like) no other model can call.
    let tools: Vec<Value> =
        list(object, "tools")?.iter().filter(|tool| words(tool, "type") == "function").map(tool).collect();
    if tools.is_empty() {
        chat.remove("parallel_tool_calls");
    } else {
        chat.insert("tools".into(), tools.into());
        choice(&field(object, "tool_choice")?, &mut chat);
    }
    Ok(chat.into())
}

fn tool(tool: &Value) -> Value {
    function(&tool["name"], &tool["description"], &tool["parameters"])
}

fn choice(choice: &Value, chat: &mut Map<String, Value>) {
    let chosen = match (choice, words(choice, "type")) {
        (Value::String(_), _) => choice.clone(),
        (_, "function") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => return,
    };
    chat.insert("tool_choice".into(), chosen);
}

fn response_format(format: &Value) -> Option<Value> {
    match words(format, "type") {
        "json_object" => Some(json!({"type": "json_object"})),
        "json_schema" => {
            let mut schema = json!({"name": format["name"], "schema": format["schema"]});
            if !format["strict"].is_null() {
                schema["strict"] = format["strict"].clone();
            }
            Some(json!({"type": "json_schema", "json_schema": schema}))
        }
        _ => None,
    }
}

fn item(item: &Value, messages: &mut Vec<Value>) -> Result<(), AskError> {
    match words(item, "type") {
        "" | "message" => {
            let role = match words(item, "role") {
                role @ ("user" | "assistant" | "system") => role,
                // Templates of other models know no developer.
                "developer" => "system",
                other => return Err(wrong("input", format!("input: the role {other:?} is not known"))),
            };
            messages.push(json!({"role": role, "content": content(&item["content"])?}));
        }
        "function_call" => {
            let call = tool_call(words(item, "call_id"), words(item, "name"), words(item, "arguments"));
            // Calls of one turn stand in one message.
            match messages.last_mut().filter(|last| last["role"] == "assistant") {
                Some(last) => match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                },
                None => messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]})),
            }
        }
        "function_call_output" => {
            // A tool message of a chat has text alone, so pictures follow it.
            let (given, pictures) = match content(&item["output"])? {
                Value::Array(parts) => {
                    let (texts, pictures): (Vec<Value>, Vec<Value>) =
                        parts.into_iter().partition(|part| part["type"] == "text");
                    (texts.iter().map(|part| words(part, "text")).collect::<Vec<_>>().join("\n"), pictures)
                }
                text => (text.as_str().unwrap_or_default().to_owned(), Vec::new()),
            };
            messages.push(json!({"role": "tool", "tool_call_id": item["call_id"], "content": given}));
            if !pictures.is_empty() {
                messages.push(json!({"role": "user", "content": pictures}));
            }
        }
        // A model is not shown what it thought in former turns.
        "reasoning" => {}
        other => {
            let message = format!("input: this server's engine takes no item of type {other:?}: send it as text");
            return Err(wrong("input", message));
        }
    }
    Ok(())
}

fn content(content: &Value) -> Result<Value, AskError> {
    let parts = match content {
        Value::Array(parts) => parts,
        Value::String(_) => return Ok(content.clone()),
        Value::Null => return Ok("".into()),
        _ => return Err(wrong("input", "input: content must be a text or a list of parts".to_owned())),
    };
    let mut said = Vec::new();
    for part in parts {
        said.push(match words(part, "type") {
            "input_text" | "output_text" | "text" => json!({"type": "text", "text": part["text"]}),
            "refusal" => json!({"type": "text", "text": part["refusal"]}),
            "input_image" if !part["image_url"].is_string() => {
                let message = "input: a picture must be given by image_url: files are not kept here".to_owned();
                return Err(wrong("input", message));
            }
            "input_image" => json!({"type": "image_url", "image_url": {"url": part["image_url"]}}),
            other => {
                let message =
                    format!("input: this server's engine takes no content of type {other:?}: send it as text");
                return Err(wrong("input", message));
            }
        });
    }
    if said.iter().all(|part| part["type"] == "text") {
        return Ok(said.iter().map(|part| words(part, "text")).collect::<Vec<_>>().join("\n\n").into());
    }
    Ok(said.into())
}

/// Writes a response, streamed or whole.
pub(super) struct ResponseWriter {
    id: String,
    model: String,
    created: i64,
    /// The number of the next event.
    number: u64,
    has_begun: bool,
    /// What was answered so far, of a message that has begun.
    text: Option<String>,
    output: Vec<Value>,
}

impl ResponseWriter {
    pub fn new(id: &str, model: &str, now: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            model: model.to_owned(),
            created: now.as_second(),
            number: 0,
            has_begun: false,
            text: None,
            output: Vec::new(),
        }
    }

    pub fn part(&mut self, part: &ChatPart, out: &mut String) {
        let ChatPart::Text(text) = part else { return };
        self.begin(out);
        if self.text.is_none() {
            self.text = Some(String::new());
            let item = self.message("in_progress", &[]);
            self.event("response.output_item.added", json!({"output_index": 0, "item": item}), out);
            self.content_part("response.content_part.added", "", out);
        }
        let data = json!({"item_id": self.message_id(), "output_index": 0, "content_index": 0, "delta": text,
            "logprobs": []});
        self.event("response.output_text.delta", data, out);
        self.text.get_or_insert_default().push_str(text);
    }

    pub fn end(&mut self, read: &ChatReader, out: &mut String) {
        self.begin(out);
        if let Some(text) = self.text.take() {
            let data = json!({"item_id": self.message_id(), "output_index": 0, "content_index": 0, "text": text,
                "logprobs": []});
            self.event("response.output_text.done", data, out);
            self.content_part("response.content_part.done", &text, out);
            let item = self.message("completed", &[output_text(&text)]);
            self.event("response.output_item.done", json!({"output_index": 0, "item": item}), out);
            self.output.push(item);
        }
        for call in &read.calls {
            let at = self.output.len();
            let of = |status: &str, arguments: &str| {
                json!({"id": format!("fc_{}_{at}", self.id), "type": "function_call", "status": status,
                    "call_id": call.id, "name": call.name, "arguments": arguments})
            };
            let (begun, done) = (of("in_progress", ""), of("completed", &call.arguments));
            let id = begun["id"].clone();
            self.event("response.output_item.added", json!({"output_index": at, "item": begun}), out);
            let data = json!({"item_id": id, "output_index": at, "delta": call.arguments});
            self.event("response.function_call_arguments.delta", data, out);
            let data = json!({"item_id": id, "output_index": at, "arguments": call.arguments});
            self.event("response.function_call_arguments.done", data, out);
            self.event("response.output_item.done", json!({"output_index": at, "item": done}), out);
            self.output.push(done);
        }
        let (status, kind) = match cut(read) {
            Some(_) => ("incomplete", "response.incomplete"),
            None => ("completed", "response.completed"),
        };
        let response = self.response(status, read);
        self.event(kind, json!({"response": response}), out);
    }

    pub fn whole(&mut self, parts: &[ChatPart], read: &ChatReader) -> Value {
        // The events that would have been sent make the same output.
        let mut events = String::new();
        parts.iter().for_each(|part| self.part(part, &mut events));
        self.end(read, &mut events);
        self.response(if cut(read).is_some() { "incomplete" } else { "completed" }, read)
    }

    fn begin(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let response = self.response("in_progress", &ChatReader::default());
        self.event("response.created", json!({"response": response}), out);
        self.event("response.in_progress", json!({"response": response}), out);
    }

    fn event(&mut self, kind: &str, mut data: Value, out: &mut String) {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        *out += &named_event(kind, &data);
    }

    fn content_part(&mut self, kind: &str, text: &str, out: &mut String) {
        let data = json!({"item_id": self.message_id(), "output_index": 0, "content_index": 0,
            "part": output_text(text)});
        self.event(kind, data, out);
    }

    fn message_id(&self) -> String {
        format!("msg_{}", self.id)
    }

    fn message(&self, status: &str, content: &[Value]) -> Value {
        json!({"id": self.message_id(), "type": "message", "status": status, "role": "assistant", "content": content})
    }

    fn response(&self, status: &str, read: &ChatReader) -> Value {
        let cut = cut(read).map(|reason| json!({"reason": reason}));
        let usage = (status != "in_progress").then(|| usage(read.usage));
        json!({
            "id": format!("resp_{}", self.id), "object": "response", "created_at": self.created, "status": status,
            "model": self.model, "output": self.output, "error": null, "incomplete_details": cut, "usage": usage,
            "instructions": null, "metadata": {}, "parallel_tool_calls": true, "temperature": null, "top_p": null,
            "tool_choice": "auto", "tools": [], "store": false,
        })
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn usage(usage: Usage) -> Value {
    let (prompt, completion) = (usage.prompt.unwrap_or(0), usage.completion.unwrap_or(0));
    json!({
        "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": completion, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt.saturating_add(completion),
    })
}

/// Why it is not whole.
fn cut(read: &ChatReader) -> Option<&'static str> {
    match read.finish.as_deref() {
        Some("length") => Some("max_output_tokens"),
        Some("content_filter") => Some("content_filter"),
        _ => None,
    }
}

//! OpenAI's Responses, without anything that is kept between calls.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{
        Ask, AskError, Usage,
        beat::named_event,
        object::{Object, spliced, text},
    },
    chat::{ChatPart, ChatReader, WantedCall, tool_call},
    parts, renamed,
    response_tools::{self, CUSTOM_INPUT, ResponseTool, ToolWords, called_by},
    wrong,
};

/// The chat of a request.
pub(super) fn chat(object: &Object<'_>) -> Result<String, AskError> {
    let mut messages = Vec::new();
    let instructions = object.words("instructions");
    if !instructions.is_empty() {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    for kept in ["conversation", "prompt"] {
        if object.given(kept).is_some() {
            return Err(wrong(
                kept,
                format!("{kept}: nothing is kept between calls here; send the whole conversation"),
            ));
        }
    }
    match (object.text("input"), object.objects("input")) {
        (Some(text), _) => messages.push(json!({"role": "user", "content": text})),
        (None, Some(items)) => items.iter().try_for_each(|item| self::item(item, &mut messages))?,
        (None, None) => return Err(wrong("input", "input must be a text or a list of items".to_owned())),
    }
    let mut chat = renamed(
        object,
        &[
            ("model", "model"),
            ("max_output_tokens", "max_tokens"),
            ("temperature", "temperature"),
            ("top_p", "top_p"),
            ("stream", "stream"),
        ],
    );
    chat.push(("messages", Value::from(messages).to_string().into()));
    let format = response_format(&object.object("text").object("format"))?;
    chat.extend(format.map(|format| ("response_format", format.into())));
    let (functions, choice) = response_tools::functions(object)?;
    if !functions.is_empty() {
        chat.push(("tools", functions.list().into()));
        chat.extend(choice.map(|choice| ("tool_choice", choice.to_string().into())));
        chat.extend(renamed(object, &[("parallel_tool_calls", "parallel_tool_calls")]));
    }
    Ok(spliced(&json!({}), &chat))
}

fn response_format(format: &Object<'_>) -> Result<Option<String>, AskError> {
    match format.words("type").as_ref() {
        "" | "text" => Ok(None),
        "json_object" => Ok(Some(json!({"type": "json_object"}).to_string())),
        "json_schema" => {
            let names = ["name", "schema", "strict"].map(|name| (name, name));
            let schema = spliced(&json!({}), &renamed(format, &names));
            Ok(Some(spliced(&json!({"type": "json_schema"}), &[("json_schema", schema)])))
        }
        other => Err(wrong("text", format!("text: this server's engine knows no format {other:?}"))),
    }
}

fn item(item: &Object<'_>, messages: &mut Vec<Value>) -> Result<(), AskError> {
    let (id, name) = (item.words("call_id"), called_by(item));
    match item.words("type").as_ref() {
        "" | "message" => {
            let role = item.words("role");
            let role = match role.as_ref() {
                role @ ("user" | "assistant" | "system") => role,
                // Templates of other models know no developer.
                "developer" => "system",
                other => return Err(wrong("input", format!("input: the role {other:?} is not known"))),
            };
            messages.push(json!({"role": role, "content": content(item.get("content"))?}));
        }
        "function_call" => called(tool_call(&id, &name, &item.words("arguments")), messages),
        "custom_tool_call" => {
            let input = json!({CUSTOM_INPUT: item.words("input")}).to_string();
            called(tool_call(&id, &name, &input), messages);
        }
        "function_call_output" | "custom_tool_call_output" => {
            // A tool message of a chat has text alone, so pictures follow it.
            let (given, pictures) = match content(item.get("output"))? {
                Value::Array(parts) => {
                    let (texts, pictures): (Vec<Value>, Vec<Value>) =
                        parts.into_iter().partition(|part| part["type"] == "text");
                    (texts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"), pictures)
                }
                text => (text.as_str().unwrap_or_default().to_owned(), Vec::new()),
            };
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": given}));
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

/// Calls of one turn stand in one message.
fn called(call: Value, messages: &mut Vec<Value>) {
    match messages.last_mut().filter(|last| last["role"] == "assistant") {
        Some(last) => match last["tool_calls"].as_array_mut() {
            Some(calls) => calls.push(call),
            None => last["tool_calls"] = json!([call]),
        },
        None => messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]})),
    }
}

fn content(given: Option<&str>) -> Result<Value, AskError> {
    if let Some(text) = given.and_then(text) {
        return Ok(text.into());
    }
    let (mut said, mut is_text) = (Vec::new(), true);
    for part in parts(given, "input")? {
        said.push(match part.words("type").as_ref() {
            "input_text" | "output_text" | "text" => json!({"type": "text", "text": part.words("text")}),
            "refusal" => json!({"type": "text", "text": part.words("refusal")}),
            "input_image" => {
                let url = part.text("image_url").ok_or_else(|| {
                    wrong("input", "input: a picture must be given by image_url: files are not kept here".to_owned())
                })?;
                is_text = false;
                json!({"type": "image_url", "image_url": {"url": url}})
            }
            other => {
                let message =
                    format!("input: this server's engine takes no content of type {other:?}: send it as text");
                return Err(wrong("input", message));
            }
        });
    }
    if is_text {
        let texts = said.iter().filter_map(|part| part["text"].as_str());
        return Ok(texts.collect::<Vec<_>>().join("\n\n").into());
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
    tools: Vec<ResponseTool>,
}

impl ResponseWriter {
    pub fn new(ask: &Ask<'_>, id: &str, model: &str, now: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            model: model.to_owned(),
            created: now.as_second(),
            number: 0,
            has_begun: false,
            text: None,
            output: Vec::new(),
            tools: ResponseTool::all(&ask.object),
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
            let done = self.called(call, out);
            self.output.push(done);
        }
        let (status, kind) = match cut(read) {
            Some(_) => ("incomplete", "response.incomplete"),
            None => ("completed", "response.completed"),
        };
        let response = self.response(status, read);
        self.event(kind, json!({"response": response}), out);
    }

    /// A call of a tool, from its beginning to its end.
    fn called(&mut self, call: &WantedCall, out: &mut String) -> Value {
        let at = self.output.len();
        let known = self.tools.iter().find(|tool| tool.called == call.name).cloned();
        // A model may call what it was not told of.
        let unknown =
            || ResponseTool { called: String::new(), namespace: None, name: call.name.clone(), is_custom: false };
        let tool = known.unwrap_or_else(unknown);
        let ToolWords { input, kind, id, field, events } = tool.words(call);
        let id = format!("{id}_{}_{at}", self.id);
        let of = |status: &str, input: &str| {
            let mut item = json!({"id": id, "type": kind, "status": status, "call_id": call.id, "name": tool.name,
                field: input});
            if let Some(namespace) = &tool.namespace {
                item["namespace"] = namespace.as_str().into();
            }
            item
        };
        let done = of("completed", &input);
        self.event("response.output_item.added", json!({"output_index": at, "item": of("in_progress", "")}), out);
        let data = json!({"item_id": id, "output_index": at, "delta": input});
        self.event(&format!("response.{events}.delta"), data, out);
        let mut data = json!({"item_id": id, "output_index": at, field: input});
        if !tool.is_custom {
            data["name"] = tool.name.as_str().into();
        }
        self.event(&format!("response.{events}.done"), data, out);
        self.event("response.output_item.done", json!({"output_index": at, "item": done}), out);
        done
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

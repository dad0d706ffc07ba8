//! Anthropic's Messages.

use serde_json::{Map, Value, json};

use super::{
    super::{Ask, AskError, Usage, beat::named_event, edit::is_billing, object::Object},
    chat::{ChatPart, ChatReader, function, tool_call},
    field, list, words, wrong,
};

/// The chat of a request.
pub(super) fn chat(object: &Object<'_>) -> Result<Value, AskError> {
    let mut messages = Vec::new();
    let system = system(&field(object, "system")?);
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    for message in list(object, "messages")? {
        match words(&message, "role") {
            "user" => user(&message["content"], &mut messages)?,
            "assistant" => messages.push(assistant(&message["content"])?),
            // Newer clients remind models in the middle of a conversation.
            "system" => messages.push(json!({"role": "system", "content": self::system(&message["content"])})),
            role => {
                return Err(wrong("messages", format!("messages: the role {role:?} is neither user nor assistant")));
            }
        }
    }
    let mut chat = Map::new();
    chat.insert("model".into(), field(object, "model")?);
    chat.insert("messages".into(), messages.into());
    for (theirs, ours) in [
        ("max_tokens", "max_tokens"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("stop_sequences", "stop"),
        ("stream", "stream"),
    ] {
        let value = field(object, theirs)?;
        if !value.is_null() {
            chat.insert(ours.into(), value);
        }
    }
    let tools: Vec<Value> = list(object, "tools")?.iter().filter(|tool| is_own(tool)).map(tool).collect();
    if !tools.is_empty() {
        chat.insert("tools".into(), tools.into());
        choice(&field(object, "tool_choice")?, &mut chat);
    }
    Ok(chat.into())
}

/// What only Anthropic's servers run (web search and the like) no other model can call.
fn is_own(tool: &Value) -> bool {
    matches!(words(tool, "type"), "" | "custom")
}

fn tool(tool: &Value) -> Value {
    function(&tool["name"], &tool["description"], &tool["input_schema"])
}

fn choice(choice: &Value, chat: &mut Map<String, Value>) {
    let chosen = match words(choice, "type") {
        "auto" => json!("auto"),
        "any" => json!("required"),
        "none" => json!("none"),
        "tool" => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => return,
    };
    chat.insert("tool_choice".into(), chosen);
    if choice["disable_parallel_tool_use"] == true {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
}

fn system(given: &Value) -> String {
    match given {
        Value::String(text) => text.clone(),
        blocks => {
            let texts = blocks.as_array().into_iter().flatten().map(|block| words(block, "text"));
            texts.filter(|text| !text.is_empty() && !is_billing(text)).collect::<Vec<_>>().join("\n\n")
        }
    }
}

/// What a person said, and what their tools gave: that stands first, right after the calls.
fn user(content: &Value, messages: &mut Vec<Value>) -> Result<(), AskError> {
    let mut said = Vec::new();
    for block in blocks(content)? {
        match words(&block, "type") {
            "text" => said.push(json!({"type": "text", "text": block["text"]})),
            "image" => said.push(picture(&block["source"])?),
            "tool_result" => {
                let (id, (given, pictures)) = (words(&block, "tool_use_id"), given(&block["content"])?);
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": given}));
                said.extend(pictures);
            }
            other => return Err(unknown(other)),
        }
    }
    let is_text = said.iter().all(|part| part["type"] == "text");
    if !said.is_empty() {
        let texts = || said.iter().map(|part| words(part, "text")).collect::<Vec<_>>().join("\n\n");
        // Engines whose templates know texts alone are given one.
        let content = if is_text { texts().into() } else { Value::from(said) };
        messages.push(json!({"role": "user", "content": content}));
    }
    Ok(())
}

/// What a tool gave; a tool message of a chat has text alone, so pictures follow it.
fn given(content: &Value) -> Result<(String, Vec<Value>), AskError> {
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for block in blocks(content)? {
        match words(&block, "type") {
            "text" => texts.push(words(&block, "text").to_owned()),
            "image" => pictures.push(picture(&block["source"])?),
            "tool_reference" => texts.push(words(&block, "tool_name").to_owned()),
            other => return Err(unknown(other)),
        }
    }
    Ok((texts.join("\n"), pictures))
}

fn assistant(content: &Value) -> Result<Value, AskError> {
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    for block in blocks(content)? {
        match words(&block, "type") {
            "text" => texts.push(words(&block, "text").to_owned()),
            "tool_use" => {
                calls.push(tool_call(words(&block, "id"), words(&block, "name"), &input(&block["input"])));
            }
            // A model is not shown what it thought in former turns.
            "thinking" | "redacted_thinking" => {}
            other => return Err(unknown(other)),
        }
    }
    let mut message = json!({"role": "assistant", "content": texts.join("\n\n")});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

/// Of a call without arguments, none.
fn input(input: &Value) -> String {
    if input.is_null() { "{}".to_owned() } else { input.to_string() }
}

fn blocks(content: &Value) -> Result<Vec<Value>, AskError> {
    match content {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![json!({"type": "text", "text": text})]),
        Value::Array(blocks) => Ok(blocks.clone()),
        _ => Err(wrong("messages", "messages: content must be a text or a list of blocks".to_owned())),
    }
}

fn picture(source: &Value) -> Result<Value, AskError> {
    let url = match words(source, "type") {
        "base64" => format!("data:{};base64,{}", words(source, "media_type"), words(source, "data")),
        "url" => words(source, "url").to_owned(),
        other => return Err(wrong("messages", format!("messages: a picture's source {other:?} can't be passed on"))),
    };
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

fn unknown(block: &str) -> AskError {
    wrong("messages", format!("messages: this server's engine takes no content of type {block:?}: send it as text"))
}

/// Writes a message, streamed or whole.
pub(super) struct MessageWriter {
    id: String,
    model: String,
    prompt: u64,
    thinks: bool,
    has_begun: bool,
    /// The number of the next block, and what kind the open one is.
    next: u64,
    open: Option<&'static str>,
}

impl MessageWriter {
    pub fn new(ask: &Ask<'_>, id: &str, model: &str) -> Self {
        let thinking = field(&ask.object, "thinking").unwrap_or_default();
        Self {
            id: format!("msg_{id}"),
            model: model.to_owned(),
            prompt: ask.prompt_estimate(),
            // Others would take thoughts for an answer.
            thinks: matches!(words(&thinking, "type"), "enabled" | "adaptive"),
            has_begun: false,
            next: 0,
            open: None,
        }
    }

    pub fn part(&mut self, part: &ChatPart, out: &mut String) {
        match part {
            ChatPart::Text(text) => {
                self.open("text", json!({"type": "text", "text": ""}), out);
                self.delta(json!({"type": "text_delta", "text": text}), out);
            }
            ChatPart::Thought(thought) if self.thinks => {
                self.open("thinking", json!({"type": "thinking", "thinking": "", "signature": ""}), out);
                self.delta(json!({"type": "thinking_delta", "thinking": thought}), out);
            }
            ChatPart::Thought(_) | ChatPart::Failed(_) => {}
        }
    }

    pub fn end(&mut self, read: &ChatReader, out: &mut String) {
        self.begin(out);
        for call in &read.calls {
            self.close(out);
            self.open("tool_use", json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}), out);
            let json = call.input().to_string();
            self.delta(json!({"type": "input_json_delta", "partial_json": json}), out);
        }
        self.close(out);
        let stop = stop_reason(read);
        let data = json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": self.usage(read.usage)});
        *out += &named_event("message_delta", &data);
        *out += &named_event("message_stop", &json!({"type": "message_stop"}));
    }

    pub fn whole(&self, parts: &[ChatPart], read: &ChatReader) -> Value {
        let mut content: Vec<Value> = parts
            .iter()
            .filter_map(|part| match part {
                ChatPart::Text(text) => Some(json!({"type": "text", "text": text})),
                ChatPart::Thought(thought) if self.thinks => {
                    Some(json!({"type": "thinking", "thinking": thought, "signature": ""}))
                }
                ChatPart::Thought(_) | ChatPart::Failed(_) => None,
            })
            .collect();
        let calls = read.calls.iter();
        content.extend(
            calls.map(|call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.input()})),
        );
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": stop_reason(read), "stop_sequence": null, "usage": self.usage(read.usage),
        })
    }

    fn usage(&self, usage: Usage) -> Value {
        json!({"input_tokens": usage.prompt.unwrap_or(self.prompt), "output_tokens": usage.completion.unwrap_or(0)})
    }

    fn begin(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": self.usage(Usage::default()),
        });
        *out += &named_event("message_start", &json!({"type": "message_start", "message": message}));
    }

    /// Goes on with a block of this kind, or begins one.
    fn open(&mut self, kind: &'static str, block: Value, out: &mut String) {
        self.begin(out);
        if self.open == Some(kind) {
            return;
        }
        self.close(out);
        self.open = Some(kind);
        let data = json!({"type": "content_block_start", "index": self.next, "content_block": block});
        *out += &named_event("content_block_start", &data);
    }

    fn delta(&self, delta: Value, out: &mut String) {
        let data = json!({"type": "content_block_delta", "index": self.next, "delta": delta});
        *out += &named_event("content_block_delta", &data);
    }

    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            let data = json!({"type": "content_block_stop", "index": self.next});
            *out += &named_event("content_block_stop", &data);
            self.next += 1;
        }
    }
}

fn stop_reason(read: &ChatReader) -> &'static str {
    match read.finish.as_deref() {
        Some("length") => "max_tokens",
        Some("content_filter") => "refusal",
        // Some engines say "stop" after a tool call.
        _ if !read.calls.is_empty() => "tool_use",
        _ => "end_turn",
    }
}

//! Anthropic's Messages.

use serde_json::{Map, Value, json};

use super::{
    super::{
        Ask, AskError, Usage,
        beat::named_event,
        edit::is_billing,
        object::{Object, spliced, text},
    },
    chat::{ChatPart, ChatReader, Functions, function, tool_call},
    list, parts, renamed, wrong,
};

/// Tools that Anthropic's own servers run: no other model can call them.
const THEIR_OWN: [&str; 6] =
    ["web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "mcp_toolset", "advisor_"];

/// The chat of a request.
pub(super) fn chat(object: &Object<'_>) -> Result<String, AskError> {
    let mut messages = Vec::new();
    let system = system(object.get("system"), "system")?;
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    for message in list(object, "messages")? {
        let content = message.get("content");
        match message.words("role").as_ref() {
            "user" => user(content, &mut messages)?,
            "assistant" => messages.push(assistant(content)?),
            // Newer clients remind models in the middle of a conversation.
            "system" => messages.push(json!({"role": "system", "content": self::system(content, "messages")?})),
            role => {
                return Err(wrong("messages", format!("messages: the role {role:?} is neither user nor assistant")));
            }
        }
    }
    let mut chat = renamed(
        object,
        &[
            ("model", "model"),
            ("max_tokens", "max_tokens"),
            ("temperature", "temperature"),
            ("top_p", "top_p"),
            ("stop_sequences", "stop"),
            ("stream", "stream"),
        ],
    );
    chat.push(("messages", Value::from(messages).to_string().into()));
    let functions = functions(object)?;
    let choice = choice(&object.object("tool_choice"), &functions)?;
    if !functions.is_empty() {
        chat.push(("tools", functions.list().into()));
    }
    Ok(spliced(&choice.into(), &chat))
}

fn functions(object: &Object<'_>) -> Result<Functions, AskError> {
    let mut functions = Functions::default();
    for tool in list(object, "tools")? {
        let (kind, name, schema) = (tool.words("type"), tool.words("name"), tool.given("input_schema"));
        if schema.is_some() || matches!(kind.as_ref(), "" | "custom") {
            functions.push(&name, function(&name, &tool.words("description"), schema));
        } else if !THEIR_OWN.iter().any(|own| kind.starts_with(own)) {
            let message = format!("tools: this server's model knows no tool of type {kind:?}: give it an input_schema");
            return Err(wrong("tools", message));
        }
    }
    Ok(functions)
}

/// What of a chat says which function is called.
fn choice(choice: &Object<'_>, functions: &Functions) -> Result<Map<String, Value>, AskError> {
    let mut chosen = Map::new();
    let (kind, name) = (choice.words("type"), choice.words("name"));
    let unknown = || wrong("tool_choice", format!("tool_choice: no tool {name:?} can be passed on"));
    let how = match kind.as_ref() {
        "tool" => functions.choice(&name).ok_or_else(unknown)?,
        "" => return Ok(chosen),
        _ if functions.is_empty() => return Ok(chosen),
        "auto" => json!("auto"),
        "any" => json!("required"),
        "none" => json!("none"),
        other => return Err(wrong("tool_choice", format!("tool_choice: {other:?} is not known"))),
    };
    chosen.insert("tool_choice".into(), how);
    if choice.get("disable_parallel_tool_use") == Some("true") {
        chosen.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(chosen)
}

fn system(given: Option<&str>, field: &'static str) -> Result<String, AskError> {
    if let Some(text) = given.and_then(text) {
        return Ok(text.into_owned());
    }
    let blocks = parts(given, field)?;
    let texts = blocks.iter().map(|block| block.words("text"));
    Ok(texts.filter(|text| !text.is_empty() && !is_billing(text)).collect::<Vec<_>>().join("\n\n"))
}

/// What a person said, and what their tools gave: that stands first, right after the calls.
fn user(content: Option<&str>, messages: &mut Vec<Value>) -> Result<(), AskError> {
    let (mut said, mut is_text) = (Vec::new(), true);
    for block in parts(content, "messages")? {
        match block.words("type").as_ref() {
            "text" => said.push(text_of(&block)),
            "image" => {
                is_text = false;
                said.push(picture(&block.object("source"))?);
            }
            "tool_result" => {
                let (id, (given, pictures)) = (block.words("tool_use_id"), given(block.get("content"))?);
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": given}));
                is_text &= pictures.is_empty();
                said.extend(pictures);
            }
            other => return Err(unknown(other)),
        }
    }
    if !said.is_empty() {
        let texts = || said.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n\n");
        // Engines whose templates know texts alone are given one.
        let content = if is_text { texts().into() } else { Value::from(said) };
        messages.push(json!({"role": "user", "content": content}));
    }
    Ok(())
}

/// What a tool gave; a tool message of a chat has text alone, so pictures follow it.
fn given(content: Option<&str>) -> Result<(String, Vec<Value>), AskError> {
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for block in parts(content, "messages")? {
        match block.words("type").as_ref() {
            "text" => texts.push(block.words("text").into_owned()),
            "image" => pictures.push(picture(&block.object("source"))?),
            "tool_reference" => texts.push(block.words("tool_name").into_owned()),
            other => return Err(unknown(other)),
        }
    }
    Ok((texts.join("\n"), pictures))
}

fn assistant(content: Option<&str>) -> Result<Value, AskError> {
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    for block in parts(content, "messages")? {
        match block.words("type").as_ref() {
            "text" => texts.push(block.words("text").into_owned()),
            "tool_use" => {
                // Of a call without arguments, none.
                let input = block.given("input").unwrap_or("{}");
                calls.push(tool_call(&block.words("id"), &block.words("name"), input));
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

fn text_of(block: &Object<'_>) -> Value {
    json!({"type": "text", "text": block.words("text")})
}

fn picture(source: &Object<'_>) -> Result<Value, AskError> {
    let url = match source.words("type").as_ref() {
        "base64" => format!("data:{};base64,{}", source.words("media_type"), source.words("data")),
        "url" => source.words("url").into_owned(),
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
        Self {
            id: format!("msg_{id}"),
            model: model.to_owned(),
            prompt: ask.prompt_estimate(),
            // Others would take thoughts for an answer.
            thinks: matches!(ask.object.object("thinking").words("type").as_ref(), "enabled" | "adaptive"),
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
            self.delta(json!({"type": "input_json_delta", "partial_json": call.input()}), out);
        }
        self.close(out);
        let stop = stop_reason(read);
        let data = json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": self.usage(read.usage)});
        *out += &named_event("message_delta", &data);
        *out += &named_event("message_stop", &json!({"type": "message_stop"}));
    }

    pub fn whole(&self, parts: &[ChatPart], read: &ChatReader) -> String {
        let said = parts.iter().filter_map(|part| match part {
            ChatPart::Text(text) => Some(json!({"type": "text", "text": text}).to_string()),
            ChatPart::Thought(thought) if self.thinks => {
                Some(json!({"type": "thinking", "thinking": thought, "signature": ""}).to_string())
            }
            ChatPart::Thought(_) | ChatPart::Failed(_) => None,
        });
        let calls = read.calls.iter().map(|call| {
            spliced(&json!({"type": "tool_use", "id": call.id, "name": call.name}), &[("input", call.input())])
        });
        let content = said.chain(calls).collect::<Vec<_>>().join(",");
        let own = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "stop_reason": stop_reason(read), "stop_sequence": null, "usage": self.usage(read.usage),
        });
        spliced(&own, &[("content", format!("[{content}]"))])
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

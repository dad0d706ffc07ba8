//! The tools of Responses. One of type `custom` is called with a text, often in a language of its own; a chat has functions alone, whose
//! arguments are JSON: so it becomes a function of one text, and its calls become calls of a custom tool again.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{
    super::{AskError, object::Object},
    chat::{Functions, WantedCall, function},
    list, wrong,
};

/// The argument that has the text of a custom tool.
pub(super) const CUSTOM_INPUT: &str = "input";
/// Tools that OpenAI's own servers run: no other model can call them.
const THEIR_OWN: [&str; 6] =
    ["web_search", "file_search", "code_interpreter", "image_generation", "mcp", "tool_search"];

/// The functions of a request, and which of them is to be called.
pub(super) fn functions(object: &Object<'_>) -> Result<(Functions, Option<Value>), AskError> {
    let mut functions = Functions::default();
    for tool in list(object, "tools")? {
        let (kind, name) = (tool.words("type"), tool.words("name"));
        match kind.as_ref() {
            "function" => {
                functions.push(&name, function(&name, &tool.words("description"), tool.given("parameters")));
            }
            "custom" => functions.push(&name, custom(&name, &tool)),
            kind if THEIR_OWN.iter().any(|own| kind.starts_with(own)) => {}
            other => {
                let message =
                    format!("tools: this server's model knows no tool of type {other:?}: describe it as a function");
                return Err(wrong("tools", message));
            }
        }
    }
    let choice = choice(object, &mut functions)?;
    Ok((functions, choice))
}

fn custom(name: &str, tool: &Object<'_>) -> String {
    let mut description = tool.words("description").into_owned();
    let format = tool.object("format");
    if let Some(grammar) = format.text("definition") {
        let syntax = format.words("syntax");
        description += &format!("\n\n{CUSTOM_INPUT} must match this grammar ({syntax}):\n{grammar}");
    }
    let parameters = json!({
        "type": "object", "properties": {CUSTOM_INPUT: {"type": "string"}}, "required": [CUSTOM_INPUT],
        "additionalProperties": false,
    });
    function(name, &description, Some(&parameters.to_string()))
}

/// The names of a request's custom tools.
pub(super) fn custom_names(object: &Object<'_>) -> Vec<String> {
    let tools = object.objects("tools").unwrap_or_default();
    tools.iter().filter(|tool| tool.words("type") == "custom").map(|tool| tool.words("name").into_owned()).collect()
}

/// The text that a custom tool is called with. A model may write it without the JSON around it.
pub(super) fn custom_input(call: &WantedCall) -> Cow<'_, str> {
    let input = Object::lenient(&call.arguments).and_then(|arguments| arguments.text(CUSTOM_INPUT));
    input.unwrap_or(call.arguments.as_str().into())
}

fn choice(object: &Object<'_>, functions: &mut Functions) -> Result<Option<Value>, AskError> {
    if let Some(mode) = object.text("tool_choice") {
        return Ok(Some(mode.into()));
    }
    if object.given("tool_choice").is_none() {
        return Ok(None);
    }
    let choice = object.object("tool_choice");
    let (kind, name) = (choice.words("type"), choice.words("name"));
    let chosen = match kind.as_ref() {
        "function" | "custom" => functions.choice(&name),
        "allowed_tools" => {
            let allowed = choice.objects("tools").unwrap_or_default();
            functions.keep(&allowed.iter().map(|tool| tool.words("name")).collect::<Vec<_>>());
            choice.text("mode").map(Value::from)
        }
        _ => None,
    };
    let unknown = || wrong("tool_choice", format!("tool_choice: no tool {kind:?} {name:?} can be passed on"));
    chosen.ok_or_else(unknown).map(Some)
}

//! The tools of Responses. One of type `custom` is called with a text, often in a language of its own; a chat has functions alone, whose
//! arguments are JSON: so it becomes a function of one text, and its calls become calls of a custom tool again. Groups of tools (`namespace`)
//! become functions whose names begin with the group's.

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

/// A tool of Responses, and the name by which a chat calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResponseTool {
    pub called: String,
    /// Several tools may be one group (Codex's, and those of an MCP server).
    pub namespace: Option<String>,
    pub name: String,
    /// It is called with a text, not with JSON.
    pub is_custom: bool,
}

impl ResponseTool {
    /// All tools of a request, in a chat's words; what is left out has none.
    fn read<'a>(object: &Object<'a>) -> Result<Vec<(Self, Object<'a>)>, AskError> {
        let mut all = Vec::new();
        for tool in list(object, "tools")? {
            match tool.words("type").as_ref() {
                "namespace" => {
                    let group = tool.words("name");
                    for inner in tool.objects("tools").unwrap_or_default() {
                        all.extend(Self::one(inner, Some(&group))?);
                    }
                }
                _ => all.extend(Self::one(tool, None)?),
            }
        }
        Ok(all)
    }

    fn one<'a>(tool: Object<'a>, namespace: Option<&str>) -> Result<Option<(Self, Object<'a>)>, AskError> {
        let kind = tool.words("type");
        let is_custom = match kind.as_ref() {
            "function" => false,
            "custom" => true,
            kind if THEIR_OWN.iter().any(|own| kind.starts_with(own)) => return Ok(None),
            other => {
                let message =
                    format!("tools: this server's model knows no tool of type {other:?}: describe it as a function");
                return Err(wrong("tools", message));
            }
        };
        let name = tool.words("name").into_owned();
        let called = called(namespace, &name);
        Ok(Some((Self { called, namespace: namespace.map(str::to_owned), name, is_custom }, tool)))
    }

    /// The same of a request that was put over.
    pub fn all(object: &Object<'_>) -> Vec<Self> {
        Self::read(object).unwrap_or_default().into_iter().map(|(tool, _)| tool).collect()
    }

    /// What an item of a tool's call is called with, and the names of that. A model may write a text without the JSON around it.
    pub fn words<'a>(&self, call: &'a WantedCall) -> ToolWords<'a> {
        match self.is_custom {
            true => {
                let input = Object::lenient(&call.arguments).and_then(|arguments| arguments.text(CUSTOM_INPUT));
                let input = input.unwrap_or(call.arguments.as_str().into());
                ToolWords {
                    input,
                    kind: "custom_tool_call",
                    id: "ctc",
                    field: "input",
                    events: "custom_tool_call_input",
                }
            }
            false => ToolWords { input: call.arguments.as_str().into(), ..ToolWords::FUNCTION },
        }
    }
}

/// How a call of a tool is written.
pub(super) struct ToolWords<'a> {
    pub input: Cow<'a, str>,
    pub kind: &'static str,
    pub id: &'static str,
    /// Which has the input.
    pub field: &'static str,
    pub events: &'static str,
}

impl ToolWords<'_> {
    const FUNCTION: Self = Self {
        input: Cow::Borrowed(""),
        kind: "function_call",
        id: "fc",
        field: "arguments",
        events: "function_call_arguments",
    };
}

/// The name of a tool in a chat, which knows no groups.
pub(super) fn called(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}__{name}"),
        _ => name.to_owned(),
    }
}

/// The same of an item or a choice that names a tool.
pub(super) fn called_by(item: &Object<'_>) -> String {
    called(item.text("namespace").as_deref(), &item.words("name"))
}

/// The functions of a request, and which of them is to be called.
pub(super) fn functions(object: &Object<'_>) -> Result<(Functions, Option<Value>), AskError> {
    let mut functions = Functions::default();
    for (ResponseTool { called, is_custom, .. }, tool) in ResponseTool::read(object)? {
        let json = match is_custom {
            true => custom(&called, &tool),
            false => function(&called, &tool.words("description"), tool.given("parameters")),
        };
        functions.push(&called, json);
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

fn choice(object: &Object<'_>, functions: &mut Functions) -> Result<Option<Value>, AskError> {
    if let Some(mode) = object.text("tool_choice") {
        return Ok(Some(mode.into()));
    }
    if object.given("tool_choice").is_none() {
        return Ok(None);
    }
    let choice = object.object("tool_choice");
    let (kind, name) = (choice.words("type"), called_by(&choice));
    let chosen = match kind.as_ref() {
        "function" | "custom" => functions.choice(&name),
        "allowed_tools" => {
            let allowed = choice.objects("tools").unwrap_or_default();
            functions.keep(&allowed.iter().map(called_by).collect::<Vec<_>>());
            choice.text("mode").map(Value::from)
        }
        _ => None,
    };
    let unknown = || wrong("tool_choice", format!("tool_choice: no tool {kind:?} {name:?} can be passed on"));
    chosen.ok_or_else(unknown).map(Some)
}

use serde_json::{Value, json};

use super::generate::joined;

/// A tool that is called with the simplest arguments that fit.
pub(super) struct WantedTool {
    name: String,
    pub(super) parameters: Value,
}

impl WantedTool {
    /// The tool that the last prompt says to call, in the words "call NAME".
    pub(super) fn of(messages: &[Value], tools: Option<&Value>) -> Option<Self> {
        // Coding agents let reminders of the system's follow the prompt.
        let mut said = messages.iter().rev().filter(|message| message["role"] != "system");
        let last = said.next().filter(|message| message["role"] == "user")?;
        let said = joined(std::slice::from_ref(last));
        let mut tools = tools?.as_array()?.iter().filter_map(|tool| {
            let function = tool.get("function")?;
            let name = function.get("name")?.as_str()?.to_owned();
            Some(Self { name, parameters: function.get("parameters").cloned().unwrap_or_default() })
        });
        tools.find(|tool| said.contains(&format!("call {}", tool.name)))
    }

    /// As OpenAI has it: the message, or with its number a part of it.
    pub(super) fn message(&self, arguments: &str, is_first: bool) -> Value {
        let mut call = json!({"index": 0, "type": "function", "function": {"arguments": arguments}});
        if is_first {
            call["id"] = format!("call_{}", self.name).into();
            call["function"]["name"] = self.name.clone().into();
        }
        json!({"role": "assistant", "content": "", "tool_calls": [call]})
    }

    /// As Ollama has it: a call is written whole.
    pub(super) fn ollama_message(&self, arguments: &str) -> Value {
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
        let function = json!({"index": 0, "name": self.name, "arguments": arguments});
        json!({"role": "assistant", "content": "", "tool_calls": [{"id": format!("call_{}", self.name), "function": function}]})
    }
}

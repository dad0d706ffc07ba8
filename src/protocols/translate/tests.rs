//! Requests and answers as clients of the other protocols send and read them.

use serde_json::{Value, json};

use super::*;
use crate::protocols::{FrameSplitter, Framing, Meter};

fn put(operation: Operation, body: &Value) -> Result<Value, String> {
    let body = body.to_string();
    let ask = Ask::read(operation, body.as_bytes()).unwrap();
    let chat = chat_of(&ask).expect("it can be put into a chat").map_err(|error| error.message)?;
    Ok(serde_json::from_str(&chat).unwrap())
}

#[test]
fn a_turn_with_tools_is_the_same_chat_from_either_protocol() {
    let parameters = json!({"type": "object", "properties": {"path": {"type": "string"}}});
    let chat = json!({
        "model": "small", "stream": true, "max_tokens": 64, "tool_choice": "required",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Read a."},
            {"role": "assistant", "content": "I look.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "hello"},
            {"role": "user", "content": "And?"},
        ],
        "tools": [{"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": parameters}}],
    });
    let messages = json!({
        "model": "small", "stream": true, "max_tokens": 64, "metadata": {"user_id": "x"}, "tool_choice": {"type": "any"},
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=1"},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [
            {"role": "user", "content": "Read a."},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "hello"}]},
                {"type": "text", "text": "And?"}]},
        ],
        "tools": [
            {"name": "read", "description": "Reads.", "input_schema": parameters},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
    });
    assert_eq!(put(Operation::Messages, &messages).unwrap(), chat);
    let responses = json!({
        "model": "small", "stream": true, "max_output_tokens": 64, "store": false, "tool_choice": "required",
        "instructions": "Be brief.", "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"],
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Read a."}]},
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "name": "read", "arguments": "{\"path\":\"a\"}"},
            {"type": "function_call_output", "call_id": "c1", "output": "hello"},
            {"role": "user", "content": "And?"},
        ],
        "tools": [
            {"type": "function", "name": "read", "description": "Reads.", "parameters": parameters, "strict": false},
            {"type": "web_search"},
        ],
    });
    assert_eq!(put(Operation::Responses, &responses).unwrap(), chat);
}

#[test]
fn what_no_chat_can_say_is_refused_by_its_name() {
    let message = |content: Value| json!({"model": "m", "messages": [{"role": "user", "content": [content]}]});
    for (operation, body, words) in [
        (Operation::Messages, message(json!({"type": "document"})), "\"document\""),
        (Operation::Messages, message(json!({"type": "image", "source": {"type": "file"}})), "\"file\""),
        (Operation::Messages, json!({"model": "m", "messages": [{"role": "tool"}]}), "\"tool\""),
        (Operation::Messages, json!({"model": "m", "messages": "x"}), "must be a list"),
        (
            Operation::Messages,
            json!({"model": "m", "messages": [], "tools": [{"type": "bash_20250124", "name": "bash"}]}),
            "give it an input_schema",
        ),
        (
            Operation::Messages,
            json!({"model": "m", "messages": [], "tool_choice": {"type": "tool", "name": "web_search"},
                "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "no tool \"web_search\"",
        ),
        (Operation::Responses, json!({"model": "m", "input": "x", "tools": [{"type": "shell"}]}), "describe it as"),
        (Operation::Responses, json!({"model": "m", "input": [{"type": "local_shell_call"}]}), "\"local_shell_call\""),
        (Operation::Responses, json!({"model": "m"}), "input must be"),
        (Operation::Responses, json!({"model": "m", "input": "x", "conversation": "c"}), "nothing is kept"),
        (Operation::Responses, json!({"model": "m", "input": vec![json!({}); 100_001]}), "more than 100000 values"),
        (
            Operation::Responses,
            json!({"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}),
            "image_url",
        ),
        (Operation::Messages, json!({"model": "m", "messages": [{"role": "user", "content": 3}]}), "text or a list"),
    ] {
        let error = put(operation, &body).unwrap_err();
        assert!(error.contains(words), "{body}: {error}");
    }
}

#[test]
fn names_keep_their_order_and_numbers_are_as_they_were_written() {
    let schema = r#"{"type":"object","properties":{"z":{"maximum":36893488147419103232},"a":{"default":1.50}}}"#;
    let input = r#"{"z":36893488147419103232,"a":1.50}"#;
    let read = |operation, body: &str| {
        let ask = Ask::read(operation, body.as_bytes()).unwrap();
        chat_of(&ask).unwrap().unwrap()
    };
    let messages = format!(
        r#"{{"model":"m","temperature":1.0,"messages":[{{"role":"assistant","content":[{{"type":"tool_use","id":"c","name":"f","input":{input}}}]}}],"tools":[{{"name":"f","input_schema":{schema}}}]}}"#
    );
    let chat = read(Operation::Messages, &messages);
    let arguments = Value::from(input).to_string();
    for written in [schema, arguments.as_str(), r#""temperature":1.0"#] {
        assert!(chat.contains(written), "{written}: {chat}");
    }
    let responses = format!(
        r#"{{"model":"m","input":"x","text":{{"format":{{"type":"json_schema","name":"n","schema":{schema}}}}},"tools":[{{"type":"function","name":"f","parameters":{schema}}}]}}"#
    );
    assert_eq!(read(Operation::Responses, &responses).matches(schema).count(), 2);
    let call = json!({"id": "c", "function": {"name": "f", "arguments": input}});
    let answer = json!({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}).to_string();
    let ask = Ask::read(Operation::Messages, messages.as_bytes()).unwrap();
    let translator = || AnswerTranslator::new(&ask, "1", "m", Timestamp::UNIX_EPOCH).unwrap();
    let whole = translator().whole(&Chunk::read(&answer)).unwrap();
    assert!(whole.contains(&format!(r#""input":{input}"#)), "{whole}");
    let mut translator = translator();
    let streamed = translator.read(&Chunk::read(&answer)) + &translator.end();
    assert!(streamed.contains(&format!(r#""partial_json":{arguments}"#)), "{streamed}");
}

#[test]
fn a_custom_tool_is_a_function_of_one_text_and_back() {
    let body = json!({
        "model": "m", "stream": true, "tool_choice": {"type": "custom", "name": "apply_patch"},
        "tools": [{"type": "custom", "name": "apply_patch", "description": "Patches.",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"x\""}}],
        "input": [
            {"role": "user", "content": "Patch it."},
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin\n"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "no"},
        ],
    });
    let chat = put(Operation::Responses, &body).unwrap();
    let function = &chat["tools"][0]["function"];
    assert_eq!(function["parameters"]["properties"], json!({"input": {"type": "string"}}));
    assert!(function["description"].as_str().unwrap().contains("(lark):\nstart: \"x\""), "{function}");
    assert_eq!(chat["tool_choice"], json!({"type": "function", "function": {"name": "apply_patch"}}));
    assert_eq!(chat["messages"][1]["tool_calls"][0]["function"]["arguments"], "{\"input\":\"*** Begin\\n\"}");
    assert_eq!(chat["messages"][2], json!({"role": "tool", "tool_call_id": "c1", "content": "no"}));
    for (arguments, input) in [("{\"input\": \"*** Begin\\n\"}", "*** Begin\n"), ("*** Begin", "*** Begin")] {
        let call = json!({"index": 0, "id": "c2", "function": {"name": "apply_patch", "arguments": arguments}});
        let frame = json!({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}).to_string();
        let (events, meter) = translated(Operation::Responses, &body, &[frame]);
        assert_eq!(
            kinds(&events)[2..],
            [
                "response.output_item.added",
                "response.custom_tool_call_input.delta",
                "response.custom_tool_call_input.done",
                "response.output_item.done",
                "response.completed",
            ]
        );
        let item = &events[6]["response"]["output"][0];
        assert_eq!((&item["type"], &item["call_id"]), (&json!("custom_tool_call"), &json!("c2")));
        assert_eq!((&item["input"], &events[4]["input"], meter.is_whole), (&json!(input), &json!(input), true));
    }
}

#[test]
fn tools_of_a_group_are_functions_with_its_name_and_back() {
    let body = json!({
        "model": "m", "stream": true,
        "tools": [{"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]}],
        "input": [{"type": "function_call", "call_id": "c1", "namespace": "agents", "name": "spawn", "arguments": "{}"}],
    });
    let chat = put(Operation::Responses, &body).unwrap();
    assert_eq!(chat["tools"][0]["function"]["name"], "agents__spawn");
    assert_eq!(chat["messages"][0]["tool_calls"][0]["function"]["name"], "agents__spawn");
    for (called, namespace, name) in [("agents__spawn", json!("agents"), "spawn"), ("other", Value::Null, "other")] {
        let call = json!({"index": 0, "id": "c2", "function": {"name": called, "arguments": "{}"}});
        let frame = json!({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}).to_string();
        let (events, _) = translated(Operation::Responses, &body, &[frame]);
        let item = &events.last().unwrap()["response"]["output"][0];
        assert_eq!((&item["namespace"], &item["name"]), (&namespace, &json!(name)), "{item}");
    }
}

#[test]
fn of_several_tools_those_alone_that_are_allowed() {
    let tool = |name: &str| json!({"type": "function", "name": name});
    let body =
        |choice: Value| json!({"model": "m", "input": "x", "tools": [tool("a"), tool("b")], "tool_choice": choice});
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [tool("b")]});
    let chat = put(Operation::Responses, &body(allowed)).unwrap();
    assert_eq!((&chat["tools"][0]["function"]["name"], &chat["tools"][1]), (&json!("b"), &Value::Null));
    assert_eq!(chat["tool_choice"], "required");
    for choice in [json!({"type": "web_search"}), json!({"type": "function", "name": "c"})] {
        assert!(put(Operation::Responses, &body(choice)).unwrap_err().contains("tool_choice"));
    }
}

#[test]
fn pictures_and_formats_are_put_over() {
    let source = json!({"type": "base64", "media_type": "image/png", "data": "aGk="});
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image", "source": source}]},
        {"type": "text", "text": "?"}]}]});
    let chat = put(Operation::Messages, &body).unwrap();
    assert_eq!(chat["messages"][0], json!({"role": "tool", "tool_call_id": "c", "content": ""}));
    assert_eq!(chat["messages"][1]["content"][0]["image_url"]["url"], "data:image/png;base64,aGk=");
    let format = json!({"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true});
    let chat = put(Operation::Responses, &json!({"model": "m", "input": "x", "text": {"format": format}})).unwrap();
    assert_eq!(chat["response_format"]["json_schema"]["name"], "n");
    assert_eq!(chat["messages"], json!([{"role": "user", "content": "x"}]));
}

/// Frames that an engine streams: a thought, a text in two pieces, a call in two, the end, usage.
fn engine(finish: &str) -> Vec<String> {
    let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]}).to_string();
    vec![
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "hm"})),
        delta(json!({"content": "I "})),
        delta(json!({"content": "look."})),
        delta(
            json!({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "read", "arguments": "{\"path\""}}]}),
        ),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":\"a\"}"}}]})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}).to_string(),
        json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).to_string(),
        "[DONE]".to_owned(),
    ]
}

fn translated(operation: Operation, body: &Value, frames: &[String]) -> (Vec<Value>, Meter) {
    let body = body.to_string();
    let ask = Ask::read(operation, body.as_bytes()).unwrap();
    let mut translator = AnswerTranslator::new(&ask, "1", "small", Timestamp::UNIX_EPOCH).unwrap();
    let mut out: String = frames.iter().map(|frame| translator.read(&Chunk::read(frame))).collect();
    out += &translator.end();
    let (mut splitter, mut events, mut meter) = (FrameSplitter::new(Framing::Sse), Vec::new(), Meter::default());
    splitter.push(out.as_bytes(), |_, data| {
        let data = data.expect("short");
        meter.read(operation, data);
        events.push(serde_json::from_slice(data).unwrap());
    });
    assert!(splitter.is_between());
    (events, meter)
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn a_streamed_answer_has_the_events_that_clients_of_messages_read() {
    let ask = |thinking: Value| json!({"model": "m", "stream": true, "messages": [], "thinking": thinking});
    let (events, meter) = translated(Operation::Messages, &ask(Value::Null), &engine("tool_calls"));
    let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    assert_eq!(
        kinds(&events),
        ["message_start", start, delta, delta, stop, start, delta, stop, "message_delta", "message_stop"]
    );
    assert_eq!((meter.is_whole, meter.error), (true, None));
    assert_eq!((&events[0]["message"]["id"], &events[0]["message"]["model"]), (&json!("msg_1"), &json!("small")));
    assert_eq!(events[3]["delta"], json!({"type": "text_delta", "text": "look."}));
    assert_eq!(events[5]["content_block"], json!({"type": "tool_use", "id": "c1", "name": "read", "input": {}}));
    assert_eq!((&events[6]["index"], &events[6]["delta"]["partial_json"]), (&json!(1), &json!("{\"path\":\"a\"}")));
    assert_eq!(events[8]["delta"]["stop_reason"], "tool_use");
    assert_eq!(events[8]["usage"], json!({"input_tokens": 7, "output_tokens": 3}));
    let (thinking, _) = translated(Operation::Messages, &ask(json!({"type": "enabled"})), &engine("length"));
    assert_eq!(thinking[2]["delta"], json!({"type": "thinking_delta", "thinking": "hm"}));
    assert_eq!(thinking[thinking.len() - 2]["delta"]["stop_reason"], "max_tokens");
}

#[test]
fn a_streamed_answer_has_the_events_that_clients_of_responses_read() {
    let ask = json!({"model": "m", "stream": true, "input": "x"});
    let (events, meter) = translated(Operation::Responses, &ask, &engine("tool_calls"));
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!((meter.is_whole, meter.error), (true, None));
    assert!(events.iter().enumerate().all(|(at, event)| event["sequence_number"] == at));
    let response = &events[13]["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], "I look.");
    assert_eq!((&response["output"][1]["call_id"], &response["output"][1]["name"]), (&json!("c1"), &json!("read")));
    assert_eq!(response["usage"]["total_tokens"], 10);
    let (cut, meter) = translated(Operation::Responses, &ask, &engine("length"));
    assert_eq!((cut[13]["type"].as_str(), meter.is_whole), (Some("response.incomplete"), true));
}

#[test]
fn an_error_within_a_stream_ends_it_as_one() {
    let frames = [engine("stop")[2].clone(), r#"{"error":{"message":"the runner died"}}"#.into(), "[DONE]".into()];
    for operation in [Operation::Messages, Operation::Responses] {
        let ask = json!({"model": "m", "stream": true, "input": "x", "messages": []});
        let (_, meter) = translated(operation, &ask, &frames);
        assert_eq!((meter.error.as_deref(), meter.is_whole), (Some("the runner died"), false), "{operation:?}");
    }
}

#[test]
fn a_whole_answer_is_put_over_and_what_is_none_is_not() {
    let whole = json!({
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello.",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    });
    let of = |operation, body: &Value| {
        let asked = json!({"model": "m", "input": "x", "messages": []}).to_string();
        let ask = Ask::read(operation, asked.as_bytes()).unwrap();
        let mut translator = AnswerTranslator::new(&ask, "1", "small", Timestamp::UNIX_EPOCH).unwrap();
        translator.whole(&Chunk::read(&body.to_string())).map(|text| serde_json::from_str::<Value>(&text).unwrap())
    };
    let message = of(Operation::Messages, &whole).unwrap();
    assert_eq!(message["content"][0], json!({"type": "text", "text": "Hello."}));
    assert_eq!(message["content"][1], json!({"type": "tool_use", "id": "c1", "name": "f", "input": {}}));
    assert_eq!((&message["stop_reason"], &message["usage"]["input_tokens"]), (&json!("tool_use"), &json!(7)));
    let response = of(Operation::Responses, &whole).unwrap();
    assert_eq!(response["output"][0]["content"][0]["text"], "Hello.");
    assert_eq!((&response["status"], &response["output"][1]["name"]), (&json!("completed"), &json!("f")));
    for none in [json!({"error": {"message": "x"}}), json!({}), json!("x")] {
        assert_eq!(of(Operation::Messages, &none), None, "{none}");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_body_is_put_over_or_refused_and_any_answer_is_read(
            body in "\\{\"model\":\"m\"(,\"(messages|input|tools|system|tool_choice|text|thinking)\":(\\[\\]|\\{\\}|null|\"x\"|\\[[0-9]\\]|\\[\\{\"role\":\"user\"\\}\\])){0,3}\\}",
            frames in proptest::collection::vec("(\\{\"choices\":\\[\\{\"delta\":\\{\"content\":(\"a\"|null|3|\\[\\])\\}\\}\\]\\}|\\[DONE\\]|[a-z{}]{0,9})", 0..5),
        ) {
            for operation in [Operation::Messages, Operation::Responses] {
                let Ok(ask) = Ask::read(operation, body.as_bytes()) else { continue };
                if let Some(Ok(chat)) = chat_of(&ask) {
                    prop_assert!(Ask::read(Operation::ChatCompletions, chat.as_bytes()).is_ok(), "{}", chat);
                }
                let mut translator = AnswerTranslator::new(&ask, "1", "m", Timestamp::UNIX_EPOCH).unwrap();
                let mut out: String = frames.iter().map(|frame| translator.read(&Chunk::read(frame))).collect();
                out += &translator.end();
                let ends = out.matches("event: error").count() + out.matches("\"type\":\"message_stop\"").count() + out.matches("\"type\":\"response.completed\"").count();
                prop_assert_eq!(ends, 1, "{}", out);
            }
        }
    }
}

//! What a server is asked for a task: a chat, or vectors of texts. Pure.

use std::time::Duration;

use crate::{
    api::ExpertSpec,
    engines::{EmbedRequest, InferRequest, KeepAlive, Sampling, SendableModel},
    tasks::{ClaimedTask, Message},
};

/// The expert's system prompt and parameters with the task's prompt or messages. The error says why this task is no chat.
pub fn chat(
    task: &ClaimedTask,
    expert: &ExpertSpec,
    model: SendableModel,
    keep_alive: KeepAlive,
    stall: Duration,
    timeout: Duration,
) -> Result<InferRequest, String> {
    let parameters = &expert.parameters;
    let percent = |value: Option<i32>| value.map(|value| f64::from(value) / 100.0);
    let most = task.payload.max_tokens.map_or(parameters.max_tokens, |asked| asked.min(parameters.max_tokens));
    Ok(InferRequest {
        model,
        messages: messages(task, expert.system_prompt.as_deref())?,
        max_tokens: most.max(1).unsigned_abs(),
        sampling: Sampling {
            temperature: percent(parameters.temperature_percent),
            top_p: percent(parameters.top_p_percent),
            seed: parameters.seed.map(i64::from),
            stop: parameters.stop.clone(),
        },
        schema: task.payload.schema.clone(),
        count: true,
        keep_alive: Some(keep_alive),
        first_byte_timeout: timeout,
        stall_timeout: stall,
        timeout,
    })
}

/// The expert's system prompt comes first, in one message with the task's own: some models' templates take one only.
fn messages(task: &ClaimedTask, system: Option<&str>) -> Result<Vec<Message>, String> {
    let payload = &task.payload;
    let mut messages = match (&payload.prompt, &payload.messages) {
        (Some(prompt), _) => vec![Message { role: "user".into(), content: prompt.clone() }],
        (None, Some(messages)) if !messages.is_empty() => messages.clone(),
        _ => return Err("its expert chats, and the task has neither a prompt nor messages".into()),
    };
    let Some(system) = system.filter(|text| !text.is_empty()) else { return Ok(messages) };
    match messages.first_mut().filter(|first| first.role == "system") {
        Some(first) => first.content = format!("{system}\n\n{}", first.content),
        None => messages.insert(0, Message { role: "system".into(), content: system.to_owned() }),
    }
    Ok(messages)
}

/// Vectors of the task's texts. The error says why it has none.
pub fn embed(
    task: &ClaimedTask,
    model: SendableModel,
    keep_alive: KeepAlive,
    timeout: Duration,
) -> Result<EmbedRequest, String> {
    let payload = &task.payload;
    let input = match (&payload.input, &payload.prompt) {
        (Some(texts), _) if !texts.is_empty() => texts.clone(),
        (None, Some(prompt)) => vec![prompt.clone()],
        _ => return Err("its expert embeds, and the task has neither input nor a prompt".into()),
    };
    Ok(EmbedRequest { model, input, keep_alive: Some(keep_alive), timeout })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Parameters, tasks::Payload, worker::testing};

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    fn task(payload: Payload) -> ClaimedTask {
        ClaimedTask { payload, ..testing::task(1) }
    }

    #[test]
    fn an_experts_prompt_comes_before_the_tasks_words() {
        let prompt = task(Payload { prompt: Some("hi".into()), ..Payload::default() });
        let talk = |messages: &[Message]| task(Payload { messages: Some(messages.to_vec()), ..Payload::default() });
        let (user, own) = (message("user", "hi"), message("system", "Be terse."));
        let cases = [
            (&prompt, None, vec![user.clone()]),
            (&prompt, Some("You are Igor."), vec![message("system", "You are Igor."), user.clone()]),
            (&talk(&[own.clone(), user.clone()]), None, vec![own.clone(), user.clone()]),
            (
                &talk(&[own, user.clone()]),
                Some("You are Igor."),
                vec![message("system", "You are Igor.\n\nBe terse."), user.clone()],
            ),
        ];
        for (task, system, expected) in cases {
            assert_eq!(messages(task, system), Ok(expected));
        }
        for payload in [
            Payload { data: Some(1.into()), ..Payload::default() },
            Payload { messages: Some(vec![]), ..Payload::default() },
        ] {
            messages(&task(payload), None).expect_err("no chat");
        }
    }

    #[test]
    fn parameters_are_the_experts_and_a_task_may_ask_for_less() {
        let parameters = Parameters {
            temperature_percent: Some(70),
            top_p_percent: Some(90),
            max_tokens: 100,
            seed: Some(4),
            stop: vec!["END".into()],
            ..Parameters::default()
        };
        let expert = ExpertSpec { parameters, ..testing::expert() };
        for (asked, expected) in [(None, 100), (Some(7), 7), (Some(5_000), 100)] {
            let task = task(Payload { prompt: Some("hi".into()), max_tokens: asked, ..Payload::default() });
            let second = Duration::from_secs(1);
            let keep = KeepAlive::For(second);
            let built = chat(&task, &expert, SendableModel::mlx_default(), keep, second, second).unwrap();
            assert_eq!(built.max_tokens, expected);
            let Sampling { temperature, top_p, seed, stop } = built.sampling;
            assert_eq!((temperature, top_p, seed, stop), (Some(0.7), Some(0.9), Some(4), vec!["END".to_owned()]));
        }
    }

    #[test]
    fn texts_or_a_prompt_are_embedded() {
        let of = |payload: Payload| {
            let second = Duration::from_secs(1);
            embed(&task(payload), SendableModel::mlx_default(), KeepAlive::Forever, second).map(|request| request.input)
        };
        let texts = || Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(of(Payload { input: texts(), ..Payload::default() }), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(of(Payload { prompt: Some("a".into()), ..Payload::default() }), Ok(vec!["a".to_owned()]));
        of(Payload { data: Some(1.into()), ..Payload::default() }).expect_err("nothing to embed");
        of(Payload { input: Some(vec![]), ..Payload::default() }).expect_err("nothing to embed");
    }
}

//! Vectors of the task's texts.

use std::time::Duration;

use crate::{
    engines::{EmbedRequest, KeepAlive, SendableModel},
    tasks::ClaimedTask,
};

/// What is sent. The error says why this task has nothing to embed.
pub fn request(
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
    use crate::{tasks::Payload, worker::testing};

    #[test]
    fn texts_or_a_prompt_are_embedded() {
        let of = |payload: Payload| {
            let second = Duration::from_secs(1);
            let task = ClaimedTask { payload, ..testing::task(1) };
            request(&task, SendableModel::mlx_default(), KeepAlive::Forever, second).map(|request| request.input)
        };
        let texts = || Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(of(Payload { input: texts(), ..Payload::default() }), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(of(Payload { prompt: Some("a".into()), ..Payload::default() }), Ok(vec!["a".to_owned()]));
        of(Payload { data: Some(1.into()), ..Payload::default() }).expect_err("nothing to embed");
        of(Payload { input: Some(vec![]), ..Payload::default() }).expect_err("nothing to embed");
    }
}

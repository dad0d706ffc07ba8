//! The end of an execution, and what is recorded in its place where the database refuses it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Attempt, AttemptClass, Completion, Verdict,
    retry::{Ended, RetryPolicy, TriedTask, bounded, verdict},
};

const REFUSED: &str = "the database refuses its result";
/// Of what the database says.
const LONGEST_WORDS: usize = 600;

/// An end that is to be recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub completion: Completion,
    /// Where the result is refused: an attempt was used, and the next one or a human comes.
    if_refused: Verdict,
}

impl Finished {
    /// As [`verdict`] decides over `ended`. `chance` is between 0 and 1.
    pub fn new<'a>(
        (task, epoch): (super::TaskId, i64),
        tried: impl Into<TriedTask<'a>>,
        policy: &RetryPolicy,
        ended: Ended,
        attempt: Attempt,
        now: Timestamp,
        chance: f64,
    ) -> Self {
        let tried = tried.into();
        let refused = Ended::Retryable { why: REFUSED.to_owned(), retry_after: None };
        Self {
            if_refused: verdict(tried, policy, refused, now, chance),
            completion: Completion { task, epoch, verdict: verdict(tried, policy, ended, now, chance), attempt },
        }
    }

    /// What to record instead, the first that is taken: plain ASCII without any of the result. A result that is refused uses an
    /// attempt; what has none ends as it would have, in other words. The last resort is a human.
    pub fn instead(&self, why: &str) -> [Completion; 2] {
        let why: String = plain(why).chars().take(LONGEST_WORDS).collect();
        let with = |verdict: Verdict, class: AttemptClass| {
            let Completion { task, epoch, attempt, .. } = &self.completion;
            let attempt = Attempt {
                expert: plain(&attempt.expert),
                backend: attempt.backend.as_deref().map(plain),
                model: None,
                holder: plain(&attempt.holder),
                prompt_tokens: None,
                completion_tokens: None,
                class,
                error: Some(format!("{REFUSED}: {why}")),
                ..attempt.clone()
            };
            Completion { task: *task, epoch: *epoch, verdict, attempt }
        };
        let first = match &self.completion.verdict {
            Verdict::Completed { .. } => {
                let said = |reason: &str| plain(&bounded(&reason.replacen(REFUSED, &format!("{REFUSED}: {why}"), 1)));
                with(reworded(&self.if_refused, said), AttemptClass::Retryable)
            }
            other => with(reworded(other, plain), self.completion.attempt.class),
        };
        let human = Verdict::DeferredToHuman { reason: bounded(&format!("{REFUSED}: {why}")) };
        [first, with(human, AttemptClass::Retryable)]
    }
}

fn reworded(verdict: &Verdict, said: impl Fn(&str) -> String) -> Verdict {
    match verdict {
        // There is no result that could be kept.
        Verdict::Completed { .. } => Verdict::Retry { after: Duration::ZERO, reason: REFUSED.to_owned() },
        Verdict::Retry { after, reason } => Verdict::Retry { after: *after, reason: said(reason) },
        Verdict::Requeue { after, reason } => Verdict::Requeue { after: *after, reason: said(reason) },
        Verdict::Failed { reason } => Verdict::Failed { reason: said(reason) },
        Verdict::DeferredToHuman { reason } => Verdict::DeferredToHuman { reason: said(reason) },
        Verdict::Cancelled { reason } => Verdict::Cancelled { reason: said(reason) },
    }
}

/// What every database can keep.
fn plain(text: &str) -> String {
    let kept = |letter: char| match letter {
        ' '..='~' => letter,
        '\u{00d7}' => 'x',
        '\n' | '\t' | '\r' => ' ',
        _ => '?',
    };
    text.chars().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attempt(error: Option<&str>) -> Attempt {
        Attempt {
            expert: "igor".into(),
            backend: Some("ollama".into()),
            model: Some("mödel".into()),
            holder: "worker".into(),
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: Timestamp::UNIX_EPOCH,
            first_token_at: None,
            prompt_tokens: Some(i64::MAX),
            completion_tokens: None,
            class: AttemptClass::Ok,
            error: error.map(str::to_owned),
        }
    }

    fn finished(used: i32, attempts: &[Attempt], ended: Ended) -> Finished {
        let tried = TriedTask { attempts_used: used, free_requeues: 0, deadline: None, attempts };
        let policy = RetryPolicy::default();
        Finished::new((7, 3), tried, &policy, ended, attempt(None), Timestamp::UNIX_EPOCH, 1.0)
    }

    #[test]
    fn a_refused_result_uses_an_attempt_backs_off_and_ends_with_a_human_in_plain_words() {
        let ok = || Ended::Ok { result: json!({"text": "done … 🎉"}) };
        let before = [Attempt { class: AttemptClass::Retryable, ..attempt(Some("déjà vu")) }];
        for (used, wanted) in [(0, "retry 10"), (1, "retry 20"), (2, "human")] {
            let one = finished(used, &before, ok());
            assert!(matches!(one.completion.verdict, Verdict::Completed { .. }));
            let [first, last] = one.instead("character … has no equivalent (SQLSTATE 22P05)");
            let (word, reason) = match &first.verdict {
                Verdict::Retry { after, reason } => (format!("retry {}", after.as_secs()), reason),
                Verdict::DeferredToHuman { reason } => ("human".to_owned(), reason),
                other => panic!("{other:?}"),
            };
            assert_eq!(word, wanted);
            assert!(reason.contains("refuses its result: character ? has no equivalent (SQLSTATE 22P05)"), "{reason}");
            assert!(matches!(last.verdict, Verdict::DeferredToHuman { .. }));
            for completion in [first, last] {
                assert!(serde_json::to_string(&completion).unwrap().is_ascii(), "{completion:?}");
                assert_eq!((completion.task, completion.epoch), (7, 3));
                assert_eq!(completion.attempt.class, AttemptClass::Retryable);
            }
        }
    }

    #[test]
    fn what_has_no_result_ends_as_it_would_have_in_plain_words() {
        let permanent = finished(0, &[], Ended::Permanent { why: "niño".into() });
        let [first, _] = permanent.instead("no");
        assert_eq!(first.verdict, Verdict::Failed { reason: "ni?o".into() });
        let away = finished(0, &[], Ended::Unavailable { why: "…".into(), retry_after: None });
        assert!(matches!(&away.instead("no")[0].verdict, Verdict::Requeue { reason, .. } if reason == "?"));
    }
}

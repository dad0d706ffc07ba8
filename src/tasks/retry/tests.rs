use proptest::prelude::*;

use super::*;
use crate::tasks::Payload;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn task() -> ClaimedTask {
    ClaimedTask {
        id: 1,
        epoch: 1,
        namespace: "default".into(),
        queue: "default".into(),
        domain: "backend".into(),
        role: "engineer".into(),
        payload: Payload::default(),
        priority: 0,
        deadline: None,
        key: None,
        labels: BTreeMap::new(),
        expert: "igor".into(),
        assigned_model: Some("small".into()),
        attempts_used: 0,
        free_requeues: 0,
        cycle: 1,
        attempts: Vec::new(),
    }
}

fn attempt(class: AttemptClass, error: &str) -> Attempt {
    Attempt {
        expert: "igor".into(),
        backend: Some("mlx".into()),
        model: None,
        holder: "w".into(),
        started_at: at(0),
        ended_at: at(1),
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class,
        error: Some(error.into()),
    }
}

fn retryable() -> Ended {
    Ended::Retryable { why: "reset".into(), retry_after: None }
}

fn unavailable() -> Ended {
    Ended::Unavailable { why: "refused".into(), retry_after: None }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn each_end_has_its_verdict() {
    let policy = RetryPolicy::default();
    let deadline = |second| ClaimedTask { deadline: Some(at(second)), ..task() };
    let words = |verdict: &Verdict| match verdict {
        Verdict::Completed { .. } => "completed".to_owned(),
        Verdict::Retry { after, .. } => format!("retry {}", after.as_secs()),
        Verdict::Requeue { after, .. } => format!("requeue {}", after.as_millis()),
        Verdict::Failed { .. } => "failed".to_owned(),
        Verdict::DeferredToHuman { .. } => "deferred".to_owned(),
        Verdict::Cancelled { .. } => "cancelled".to_owned(),
    };
    let wait = |seconds| Ended::Unavailable { why: "429".into(), retry_after: Some(SECOND * seconds) };
    for (task, ended, wanted) in [
        (task(), Ended::Ok { result: Value::Null }, "completed"),
        (task(), Ended::Permanent { why: "no".into() }, "failed"),
        (task(), Ended::Cancelled { why: "by ann".into() }, "cancelled"),
        (task(), Ended::GivenBack { why: "it drains" }, "requeue 0"),
        (task(), Ended::LeaseLost, "requeue 0"),
        (task(), retryable(), "retry 10"),
        (ClaimedTask { attempts_used: 1, ..task() }, retryable(), "retry 20"),
        (ClaimedTask { attempts_used: 2, ..task() }, retryable(), "deferred"),
        (ClaimedTask { attempts_used: 9, ..task() }, retryable(), "deferred"),
        (deadline(111), retryable(), "retry 10"),
        (deadline(110), retryable(), "failed"),
        (task(), unavailable(), "requeue 1000"),
        (task(), Ended::ServerFailed { why: "reset".into() }, "requeue 1000"),
        (ClaimedTask { free_requeues: 2, ..task() }, unavailable(), "requeue 4000"),
        (ClaimedTask { free_requeues: 900, attempts_used: 2, ..task() }, unavailable(), "requeue 30000"),
        (task(), wait(77), "requeue 77000"),
        (deadline(110), wait(77), "requeue 5000"),
        (deadline(100), unavailable(), "failed"),
    ] {
        let verdict = verdict(&task, &policy, ended.clone(), at(100), 1.0);
        assert_eq!(words(&verdict), wanted, "{ended:?} of a task with {:?}", (task.attempts_used, task.deadline));
    }
}

#[test]
fn the_evidence_names_each_different_error_once() {
    let attempts = vec![
        attempt(AttemptClass::Retryable, "from another cycle"),
        attempt(AttemptClass::Retryable, "reset"),
        attempt(AttemptClass::Unavailable, "refused"),
        attempt(AttemptClass::Retryable, "reset"),
    ];
    let task = ClaimedTask { attempts_used: 2, attempts, ..task() };
    let ended = Ended::Retryable { why: "broken JSON".into(), retry_after: None };
    let verdict = verdict(&task, &RetryPolicy::default(), ended, at(100), 0.0);
    let reason = "3 of 3 attempts failed; the last: broken JSON; 2× before on mlx: reset".to_owned();
    assert_eq!(verdict, Verdict::DeferredToHuman { reason });
}

#[test]
fn a_task_under_which_servers_keep_failing_uses_attempts_at_last() {
    use AttemptClass::{Retryable, ServerFailed, Unavailable};
    for (classes, free_requeues, class, what) in [
        (vec![], 0, ServerFailed, "the first time"),
        (vec![ServerFailed; 4], 4, ServerFailed, "the fifth time"),
        (vec![ServerFailed; 5], 5, Retryable, "the sixth time"),
        (vec![Unavailable; 20], 400, ServerFailed, "the server was away for long"),
        ([vec![ServerFailed; 5], vec![Unavailable; 9]].concat(), 14, Retryable, "and went away each time"),
        (vec![ServerFailed; 7], 1, ServerFailed, "in another cycle"),
        ([vec![ServerFailed; 5], vec![Retryable]].concat(), 5, Retryable, "and goes on"),
    ] {
        let attempts = classes.into_iter().map(|class| attempt(class, "reset")).collect();
        let task = ClaimedTask { attempts, free_requeues, ..task() };
        assert_eq!(server_failed(&task, "HTTP 500".into()).class(), class, "{what}");
    }
}

#[test]
fn a_long_error_is_cut_between_characters() {
    let error = Ended::Permanent { why: "ü".repeat(5_000) }.error().unwrap();
    assert_eq!(error.chars().count(), LONGEST_REASON);
    assert!(error.ends_with('…'));
}

proptest! {
    #[test]
    fn a_wait_is_within_half_of_its_bound(base in 0_u64..10_000, most in 0_u64..100_000, used in -5_i32..500, chance in 0.0..=1.0) {
        let (base, most) = (Duration::from_millis(base), Duration::from_millis(most));
        let wait = backoff(base, most, used, chance);
        prop_assert!(wait <= most);
        prop_assert!(wait >= base.min(most) / 2);
    }

    /// Attempts are used by retryable errors alone, and never more than allowed.
    #[test]
    fn a_backend_that_is_down_uses_no_attempt(used in 0_i32..5, requeues in 0_i32..2_000, chance in 0.0..=1.0) {
        let task = ClaimedTask { attempts_used: used, free_requeues: requeues, ..task() };
        let verdict = verdict(&task, &RetryPolicy::default(), unavailable(), at(100), chance);
        let free = matches!(verdict, Verdict::Requeue { after, .. } if after <= LONGEST_FREE_WAIT);
        prop_assert!(free, "{:?}", verdict);
    }
}

//! Tells a queue's `onFinished` of each of its tasks that ended. What is to be told stands in the database since the end itself; that it
//! was told is recorded after it arrived, so that a leader that dies in between makes its successor tell it again.

use std::{collections::HashMap, time::Duration};

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    api::{Kind, ObjectKey, TaskQueueSpec, Webhook},
    notify::{Courier, SendError},
    store::{Callback, JournalEntry, Store, StoreError, Topics, world},
    tasks::{QueueKey, retry::doubled},
};

use super::LoopContext;

/// Between two looks while nobody tells of an end.
const PERIOD: Duration = Duration::from_secs(5);
/// Ends come in swarms.
const GAP: Duration = Duration::from_millis(100);
/// Of one queue: in one round, and at once.
const BATCH: i64 = 32;
const AT_ONCE: usize = 4;
/// Before the second attempt; doubled for each further one.
const BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);
/// Who asks to be left alone for longer is asked again after so long all the same.
const LONGEST_ASKED: SignedDuration = SignedDuration::from_hours(1);
/// What nobody could be told of for so long is given up.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
const EXPIRE: SignedDuration = SignedDuration::from_mins(1);

/// A queue whose callbacks failed one and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Failing {
    rounds: i32,
    until: Timestamp,
}

/// What came of a round of one queue.
struct CallbackRound {
    queue: QueueKey,
    told: Vec<i64>,
    failed: Vec<(i64, Timestamp)>,
    why: Option<String>,
}

pub async fn run(context: LoopContext, courier: Courier) {
    let mut ends = context.store.follow(Topics::ENDED | Topics::WORLD);
    let (mut rounds, mut failing) = (JoinSet::<CallbackRound>::new(), HashMap::<QueueKey, Failing>::new());
    let (mut busy, mut expired_at) = (Vec::<QueueKey>::new(), None::<Timestamp>);
    loop {
        context.beat.beat();
        tokio::select! {
            _ = ends.changed(PERIOD) => tokio::time::sleep(GAP).await,
            Some(done) = rounds.join_next() => {
                // One that panicked leaves its queue to the next term of this loop.
                let Ok(round) = done else { return };
                busy.retain(|queue| *queue != round.queue);
                record(&context, round, &mut failing).await;
            }
        }
        if !context.term.still_leads() {
            continue;
        }
        let now = Timestamp::now();
        if expired_at.is_none_or(|at| now.duration_since(at) >= EXPIRE) {
            let expired = context.store.expire_callbacks(context.term.fence(), now - KEPT).await;
            for (queue, count) in context.note("give callbacks up", expired).unwrap_or_default() {
                tracing::warn!(%queue, count, "gave up telling of tasks that ended");
                note(
                    &context,
                    &queue,
                    "CallbacksGivenUp",
                    format!("nobody could be told of {count} tasks within 24 h"),
                )
                .await;
            }
            expired_at = Some(now);
        }
        let Some(queues) = context.note("read queues", context.store.declared("TaskQueue").await) else { continue };
        for row in queues {
            let queue = QueueKey { namespace: row.namespace.clone(), name: row.name.clone() };
            let spec: Option<TaskQueueSpec> = world::spec_of(&row);
            let Some(webhook) = spec.and_then(|spec| spec.on_finished) else { continue };
            if busy.contains(&queue) || failing.get(&queue).is_some_and(|failing| failing.until > now) {
                continue;
            }
            let due = context.store.due_callbacks(&queue, now, BATCH).await;
            let due = context.note("read callbacks", due).unwrap_or_default();
            if !due.is_empty() {
                busy.push(queue.clone());
                let store = std::sync::Arc::clone(&context.store);
                rounds.spawn(tell(store, courier.clone(), queue, webhook, due));
            }
        }
    }
}

/// A round of one queue: each task in its turn, some tasks at once.
async fn tell(
    store: std::sync::Arc<dyn Store>,
    courier: Courier,
    queue: QueueKey,
    webhook: Webhook,
    due: Vec<Callback>,
) -> CallbackRound {
    let one = async |callback: Callback| {
        let sent = match body(&*store, &queue, &callback).await {
            Ok(body) => {
                let id = format!("task_{}_{}", callback.task, callback.id);
                courier.call(&queue.namespace, &webhook, &id, body).await
            }
            Err(error) => Err(SendError::Failed { why: error.to_string(), retry_after: None }),
        };
        (callback, sent)
    };
    let ended: Vec<_> = stream::iter(due).map(one).buffer_unordered(AT_ONCE).collect().await;
    let now = Timestamp::now();
    let mut round = CallbackRound { queue, told: Vec::new(), failed: Vec::new(), why: None };
    for (callback, sent) in ended {
        match sent {
            Ok(()) => round.told.push(callback.id),
            Err(error) => {
                round.failed.push((callback.id, next_attempt(&callback, &error, now)));
                round.why.get_or_insert(error.to_string());
            }
        }
    }
    round
}

fn next_attempt(callback: &Callback, error: &SendError, now: Timestamp) -> Timestamp {
    let wait = doubled(BACKOFF, LONGEST_BACKOFF, callback.attempts.saturating_add(1));
    let wait = SignedDuration::try_from(wait).unwrap_or(LONGEST_ASKED);
    let asked = match error {
        SendError::Failed { retry_after, .. } => retry_after.unwrap_or_default().min(LONGEST_ASKED),
        SendError::Setup(_) | SendError::Refused(_) => SignedDuration::ZERO,
    };
    now + wait.max(asked)
}

/// What is sent: with the result, unless the task was opened anew or purged meanwhile.
async fn body(store: &dyn Store, queue: &QueueKey, callback: &Callback) -> Result<Value, StoreError> {
    let Callback { task, key, state, reason, cycle, ended_at, .. } = callback;
    let found = store.task(*task).await?.filter(|found| found.state == *state && found.state_since == *ended_at);
    let mut body = json!({
        "type": "ostler.task.finished",
        "task": task,
        "namespace": queue.namespace,
        "queue": queue.name,
        "key": key,
        "state": state,
        "reason": reason,
        "cycle": cycle,
        "endedAt": ended_at,
    });
    if let Some(found) = found {
        body["labels"] = json!(found.labels);
        body["result"] = found.result.unwrap_or_default();
    }
    Ok(body)
}

async fn record(context: &LoopContext, round: CallbackRound, failing: &mut HashMap<QueueKey, Failing>) {
    let CallbackRound { queue, told, failed, why } = round;
    let settled = context.store.settle_callbacks(context.term.fence(), &told, &failed).await;
    context.note("record callbacks", settled);
    let Some(why) = why else {
        failing.remove(&queue);
        return;
    };
    let first = !failing.contains_key(&queue);
    if told.is_empty() {
        // Nobody is there: the others of this queue are not tried one by one.
        let known = failing.entry(queue.clone()).or_default();
        known.rounds = known.rounds.saturating_add(1);
        known.until = failed.iter().map(|(_, at)| *at).min().unwrap_or_default();
    }
    if first {
        let why = crate::causes::clean(&why);
        tracing::warn!(%queue, why, "could not tell of tasks that ended; will retry");
        note(context, &queue, "CallbackFailed", format!("onFinished: {why}")).await;
    }
}

async fn note(context: &LoopContext, queue: &QueueKey, reason: &str, message: String) {
    let about = ObjectKey {
        kind: Kind::TaskQueue.as_str().to_owned(),
        namespace: queue.namespace.clone(),
        name: queue.name.clone(),
    };
    let entry = JournalEntry { at: Timestamp::now(), about, warning: true, reason: reason.to_owned(), message };
    if let Err(error) = context.store.append(&entry).await {
        tracing::debug!(reason, %error, "event not kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TaskState;

    #[test]
    fn attempts_back_off_and_whoever_asks_to_wait_is_obeyed_within_bounds() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let failed = |seconds: Option<i64>| SendError::Failed {
            why: "HTTP 429".into(),
            retry_after: seconds.map(SignedDuration::from_secs),
        };
        for (attempts, error, wait) in [
            (0, failed(None), 10),
            (1, failed(None), 20),
            (20, failed(None), 900),
            (0, failed(Some(120)), 120),
            (5, failed(Some(1)), 320),
            (0, failed(Some(86_400)), 3_600),
            (0, SendError::Refused("HTTP 404".into()), 10),
        ] {
            let callback = Callback {
                id: 1,
                task: 1,
                key: None,
                state: TaskState::Failed,
                reason: None,
                cycle: 1,
                ended_at: now,
                attempts,
            };
            let next = next_attempt(&callback, &error, now);
            assert_eq!(next.duration_since(now).as_secs(), wait, "{attempts} {error:?}");
        }
    }
}

//! Tasks as they are, and as they end.

use std::time::Duration;

use axum::{Json, extract::State};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    filter::{Ended, Listed, limit},
    types::{Explanation, ResultList, TaskList},
};
use crate::{
    http::{
        Api, ApiError, ErrorReply,
        extract::{Path, Query},
        resources::InNamespace,
    },
    store::{self, SETTLED, TaskCursor, TaskPage, Topics},
    tasks::{
        Task, TaskId, TaskState,
        explain::{self, WaitingTask},
    },
};

/// The cursor of whoever wants what comes next.
pub const FROM_NOW: &str = "now";
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Somebody else's transaction may hold back for longer what others have shown already.
const POLL: Duration = Duration::from_secs(5);
pub(super) const TERMINAL: [TaskState; 3] = [TaskState::Completed, TaskState::Failed, TaskState::Cancelled];

/// Tasks, newest first; without payload and result unless `full=true`. An answer may have fewer than `limit`, where they are large.
#[utoipa::path(get, path = "/api/v1/tasks", params(Listed), tag = "tasks",
    responses((status = 200, body = TaskList), (status = 400, body = ErrorReply)))]
pub async fn list(State(api): State<Api>, Query(which): Query<Listed>) -> Result<Json<TaskList>, ApiError> {
    let limit = limit(which.limit)?;
    let now = api.store.now().await?;
    let (filter, full) = (which.filter(now)?, which.full.unwrap_or(false));
    let (mut items, mut room) = (Vec::new(), Room::new(limit, full));
    let mut before = which.before;
    while let Some(most) = room.next() {
        let page = api.store.tasks(&filter, &TaskPage { before, limit: most, brief: !full }).await?;
        before = page.last().map(|task| task.id).or(before);
        room.took(most, &page);
        items.extend(page);
    }
    let next = items.last().filter(|_| room.may_be_more).map(|task: &Task| task.id);
    Ok(Json(TaskList { now, next, items }))
}

/// Bytes of tasks after which an answer ends, whatever its limit.
const PAGE_BYTES: usize = 16 * 1024 * 1024;
/// Whole tasks that are read at first; how many more at once follows from their size.
const FIRST: i64 = 16;

/// How much more of an answer is to be read: whole tasks have up to some megabytes each.
struct Room {
    left: i64,
    bytes: usize,
    next: i64,
    count: i64,
    full: bool,
    /// Reading ended before there were no more.
    may_be_more: bool,
}

impl Room {
    fn new(limit: i64, full: bool) -> Self {
        Self { left: limit, bytes: 0, next: if full { FIRST } else { limit }, count: 0, full, may_be_more: true }
    }

    /// How many tasks to read next.
    fn next(&self) -> Option<i64> {
        (self.may_be_more && self.left > 0 && self.bytes < PAGE_BYTES).then(|| self.next.min(self.left))
    }

    fn took(&mut self, asked: i64, tasks: &[Task]) {
        let count = i64::try_from(tasks.len()).unwrap_or(i64::MAX);
        self.left -= count;
        self.count += count;
        // A page of whole tasks may be short because they are large.
        self.may_be_more = count == asked || (self.full && count > 0);
        if self.full {
            self.bytes += tasks.iter().map(json_bytes).sum::<usize>();
            let each = (self.bytes / usize::try_from(self.count.max(1)).unwrap_or(1)).max(1);
            let fit = PAGE_BYTES.saturating_sub(self.bytes) / each;
            self.next = i64::try_from(fit).unwrap_or(i64::MAX).clamp(1, 4 * asked);
        }
    }
}

/// How long a task is as JSON.
fn json_bytes(task: &Task) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Counting can't fail.
    let _ = serde_json::to_writer(&mut counter, task);
    counter.0
}

/// One task, whole.
#[utoipa::path(get, path = "/api/v1/tasks/{id}", params(("id" = i64, Path), InNamespace), tag = "tasks",
    responses((status = 200, body = Task), (status = 404, body = ErrorReply)))]
pub async fn get(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<InNamespace>,
) -> Result<Json<Task>, ApiError> {
    find(&api, id, query.namespace.as_deref()).await.map(Json)
}

/// A task; one of another namespace than the caller was let into is not there.
pub(super) async fn find(api: &Api, id: TaskId, namespace: Option<&str>) -> Result<Task, ApiError> {
    let found = api.store.task(id).await?.filter(|task| namespace.is_none_or(|wanted| task.namespace == wanted));
    found.ok_or_else(|| {
        let place = namespace.map_or_else(String::new, |n| format!(" in namespace {n}"));
        ApiError::NotFound(format!("task {id} does not exist{place}: it never did, or its retention is over"))
    })
}

/// Tasks that ended, whole, in the order in which they did, from after a cursor (without one, from the oldest). They show a second after
/// they ended, each once.
#[utoipa::path(get, path = "/api/v1/tasks/results", params(Ended), tag = "tasks",
    responses((status = 200, body = ResultList), (status = 400, body = ErrorReply)))]
pub async fn results(State(api): State<Api>, Query(which): Query<Ended>) -> Result<Json<ResultList>, ApiError> {
    let (limit, mut filter) = (limit(which.limit)?, which.filter(api.store.now().await?)?);
    if filter.states.is_empty() {
        filter.states = TERMINAL.to_vec();
    }
    if let Some(live) = filter.states.iter().find(|state| !state.is_terminal()) {
        return Err(ApiError::BadRequest(format!(
            "state: {} is no end: a result is completed, failed or cancelled",
            live.as_str()
        )));
    }
    let wait = Duration::from_secs(which.wait.unwrap_or(0));
    if wait > LONGEST_WAIT {
        return Err(ApiError::BadRequest(format!("wait is {}: write 0 to {}", wait.as_secs(), LONGEST_WAIT.as_secs())));
    }
    let after = match which.after.as_deref() {
        Some(text) => Some(cursor(&api, text).await?),
        None => None,
    };
    let mut changes = api.store.follow(Topics::ENDED);
    let until = Instant::now() + wait;
    loop {
        let (mut items, mut room, mut last) = (Vec::new(), Room::new(limit, true), after);
        while let Some(most) = room.next() {
            let page = api.store.task_changes(&filter, last, most, false).await?;
            last = page.last().map(TaskCursor::of).or(last);
            room.took(most, &page);
            items.extend(page);
        }
        let left = until.saturating_duration_since(Instant::now());
        if items.is_empty() && !left.is_zero() {
            changes.changed(left.min(POLL)).await;
            // What changed shows when it has settled.
            tokio::time::sleep(SETTLED.min(left)).await;
            continue;
        }
        let next = items.last().map(TaskCursor::of).or(after).unwrap_or_else(beginning);
        return Ok(Json(ResultList { items, next: next.to_string() }));
    }
}

/// As an answer gave it, or `now`: by the database's clock, which the times of changes are by.
pub(super) async fn cursor(api: &Api, text: &str) -> Result<TaskCursor, ApiError> {
    if text == FROM_NOW {
        return Ok(TaskCursor { at: api.store.now().await?, id: 0 });
    }
    text.parse().map_err(ApiError::BadRequest)
}

/// Before all.
fn beginning() -> TaskCursor {
    TaskCursor { at: Timestamp::UNIX_EPOCH, id: 0 }
}

/// Why a task waits, for what, since when; or how it is if it doesn't.
#[utoipa::path(get, path = "/api/v1/tasks/{id}/explain", params(("id" = i64, Path), InNamespace), tag = "tasks",
    responses((status = 200, body = Explanation), (status = 404, body = ErrorReply)))]
pub async fn explain(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<InNamespace>,
) -> Result<Json<Explanation>, ApiError> {
    let task = find(&api, id, query.namespace.as_deref()).await?;
    let (world, now) = (store::world::read(&*api.store).await?, api.store.now().await?);
    let since = match task.state {
        TaskState::Pending => explain::since(&explain::why(&WaitingTask::of(&task), &world, now), task.state_since),
        _ => task.state_since,
    };
    let why = explain::explain(&task, &world, now);
    Ok(Json(Explanation {
        id,
        state: task.state,
        why,
        since,
        expert: task.expert,
        assignment_reason: task.assignment_reason,
        candidates: task.candidates,
    }))
}

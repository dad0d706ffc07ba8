//! Changes of tasks as server-sent events.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};
use tokio_util::sync::CancellationToken;

use super::{
    filter::Followed,
    read::{FROM_NOW, cursor},
    types::TaskChange,
};
use crate::{
    http::{Api, ApiError, ErrorReply, extract::Query},
    store::{Follower, SETTLED, StoreError, TaskCursor, TaskFilter, Topics},
    tasks::Task,
};

const BATCH: i64 = 500;
/// Somebody else's transaction may hold back for longer what others have shown already.
const POLL: Duration = Duration::from_secs(5);
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Cancelled when the process ends, so that open streams do too.
#[derive(Clone)]
pub struct Closing(pub CancellationToken);

/// Changes of tasks as server-sent events, named `task`: the state that each came into, in that order, a second later. States that
/// a task went through meanwhile are left out. The id of an event is a cursor: `Last-Event-ID`, or `after`, goes on from there.
#[utoipa::path(get, path = "/api/v1/tasks/events", params(Followed), tag = "tasks",
    responses((status = 200, description = "events `task`, each with a TaskChange", body = TaskChange, content_type = "text/event-stream"),
        (status = 400, body = ErrorReply)))]
pub async fn events(
    State(api): State<Api>,
    Extension(Closing(closing)): Extension<Closing>,
    Query(which): Query<Followed>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    let after = cursor(&api, last.or(which.after.as_deref()).unwrap_or(FROM_NOW)).await?;
    let changes = api.store.follow(Topics::TASKS);
    let filter = which.filter(api.store.now().await?)?;
    let follow = Follow { api, filter, after, ready: VecDeque::new(), changes };
    let changes = stream::unfold(follow, |mut follow| async move {
        let event = follow.next().await;
        Some((Ok(event), follow))
    });
    let until = futures::StreamExt::take_until(changes, closing.cancelled_owned());
    Ok(Sse::new(until).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// How far somebody has read.
struct Follow {
    api: Api,
    filter: TaskFilter,
    after: TaskCursor,
    ready: VecDeque<Task>,
    changes: Follower,
}

impl Follow {
    /// The next change; waits for it. A database that is away for a while ends nothing.
    async fn next(&mut self) -> Event {
        loop {
            if let Some(task) = self.ready.pop_front() {
                return event(&task);
            }
            match self.read().await {
                Ok(()) if self.ready.is_empty() => {
                    self.changes.changed(POLL).await;
                    tokio::time::sleep(SETTLED).await;
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "changes of tasks can't be read");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let changes = self.api.store.task_changes(&self.filter, Some(self.after), BATCH, true).await?;
        if let Some(last) = changes.last() {
            self.after = TaskCursor::of(last);
        }
        self.ready = changes.into();
        Ok(())
    }
}

fn event(task: &Task) -> Event {
    let event = Event::default().event("task").id(TaskCursor::of(task).to_string());
    // A change has nothing that JSON can't say.
    event.json_data(TaskChange::from(task)).unwrap_or_else(|_| Event::default().comment("unreadable"))
}

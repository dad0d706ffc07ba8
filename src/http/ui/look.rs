//! Looks through tasks for those that match, newest first: a page of them, or as far as it gets in its time.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    store::{Store, StoreError, TaskFilter, TaskPage},
    tasks::{Task, TaskId, TaskState},
};

/// Tasks of a page.
pub const PAGE: usize = 50;
/// What a look may cost.
const MOST_TIME: Duration = Duration::from_millis(80);
const MOST_SEEN: usize = 50_000;
/// Read at once where not every one will match.
const BATCH: i64 = 500;

/// What a page of tasks is asked for. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TaskSearch {
    pub namespace: Option<String>,
    pub state: Option<TaskState>,
    pub queue: Option<String>,
    pub domain: Option<String>,
    pub role: Option<String>,
    pub expert: Option<String>,
    pub key: Option<String>,
    /// Only ids below this one.
    pub before: Option<TaskId>,
}

/// Why a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookEnd {
    /// There are no more.
    All,
    /// The page is full; what comes next has ids below this one.
    Full(TaskId),
    /// Its time is over: it looked back to a task of that id and time.
    Tired(TaskId, Timestamp),
}

#[derive(Clone, Debug, PartialEq)]
pub struct TaskLook {
    pub tasks: Vec<Task>,
    pub end: LookEnd,
}

impl TaskSearch {
    pub fn state(&self) -> TaskState {
        self.state.unwrap_or(TaskState::Pending)
    }

    /// What narrows a tab down.
    pub fn fields(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("queue", &self.queue),
            ("domain", &self.domain),
            ("role", &self.role),
            ("expert", &self.expert),
            ("key", &self.key),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }

    /// What the database finds by itself.
    fn filter(&self) -> TaskFilter {
        TaskFilter {
            namespace: self.namespace.clone(),
            queue: self.queue.clone(),
            key: self.key.clone(),
            states: vec![self.state()],
            ..TaskFilter::default()
        }
    }

    /// The rest: of these no index knows.
    fn matches(&self, task: &Task) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.domain, &task.domain)
            && is(&self.role, &task.role)
            && is(&self.expert, task.expert.as_deref().unwrap_or_default())
    }

    fn is_plain(&self) -> bool {
        self.domain.is_none() && self.role.is_none() && self.expert.is_none()
    }
}

/// # Errors
/// Those of the store.
pub async fn look(store: &dyn Store, search: &TaskSearch) -> Result<TaskLook, StoreError> {
    let begun = Instant::now();
    look_until(store, search, |seen| begun.elapsed() > MOST_TIME || seen >= MOST_SEEN).await
}

async fn look_until(
    store: &dyn Store,
    search: &TaskSearch,
    is_enough: impl Fn(usize) -> bool,
) -> Result<TaskLook, StoreError> {
    let filter = search.filter();
    let one_more = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let limit = if search.is_plain() { one_more } else { BATCH };
    let (mut tasks, mut before, mut seen): (Vec<Task>, _, _) = (Vec::new(), search.before, 0);
    loop {
        let page = store.tasks(&filter, &TaskPage { before, limit, brief: true }).await?;
        seen += page.len();
        let last = page.last().map(|task| (task.id, task.state_since));
        let is_last = i64::try_from(page.len()).unwrap_or(i64::MAX) < limit;
        tasks.extend(page.into_iter().filter(|task| search.matches(task)));
        if tasks.len() > PAGE {
            tasks.truncate(PAGE);
            let next = tasks.last().map_or(0, |task| task.id);
            return Ok(TaskLook { tasks, end: LookEnd::Full(next) });
        }
        match last {
            Some((id, at)) if !is_last => {
                if is_enough(seen) {
                    return Ok(TaskLook { tasks, end: LookEnd::Tired(id, at) });
                }
                before = Some(id);
            }
            _ => return Ok(TaskLook { tasks, end: LookEnd::All }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        store::{self, sqlite::FolderAccess},
        tasks::{NewTask, Payload},
    };

    async fn shop(tasks: usize) -> (std::path::PathBuf, Arc<dyn Store>) {
        let folder = std::env::temp_dir().join(format!("ostler-look-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let store =
            store::open(&store::Home::Folder { path: folder.clone(), hold: FolderAccess::Lock }, None).await.unwrap();
        let task = |number: usize| NewTask {
            namespace: "default".into(),
            queue: "default".into(),
            domain: if number.is_multiple_of(1_000) { "rare".into() } else { "usual".into() },
            payload: Payload { prompt: Some("p".into()), ..Payload::default() },
            ..NewTask::default()
        };
        let all: Vec<NewTask> = (0..tasks).map(task).collect();
        store.insert_tasks(&all).await.unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn a_look_ends_with_the_page_with_the_tasks_or_with_its_time() {
        let (folder, store) = shop(2_000).await;
        let all = TaskSearch::default();
        let page = look(&*store, &all).await.unwrap();
        let last = page.tasks.last().unwrap().id;
        assert_eq!((page.tasks.len(), page.end), (PAGE, LookEnd::Full(last)));
        let next = look(&*store, &TaskSearch { before: Some(last), ..all.clone() }).await.unwrap();
        assert_eq!(next.tasks[0].id, last - 1);
        let rare = TaskSearch { domain: Some("rare".into()), ..all.clone() };
        let found = look_until(&*store, &rare, |_| false).await.unwrap();
        assert_eq!((found.tasks.len(), found.end), (2, LookEnd::All));
        let tired = look_until(&*store, &rare, |seen| seen >= 500).await.unwrap();
        assert_eq!(tired.tasks.len(), 0);
        let LookEnd::Tired(id, _) = tired.end else { panic!("{:?}", tired.end) };
        let further = look_until(&*store, &TaskSearch { before: Some(id), ..rare }, |_| false).await.unwrap();
        assert_eq!((further.tasks.len(), further.end), (2, LookEnd::All), "nothing is left out in between");
        let none = look(&*store, &TaskSearch { state: Some(TaskState::Failed), ..all }).await.unwrap();
        assert_eq!((none.tasks.len(), none.end), (0, LookEnd::All));
        drop(store);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

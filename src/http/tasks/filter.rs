//! Filters as a query writes them. Pure.

use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    http::{ApiError, TimeOrDuration},
    store::{TaskCommand, TaskFilter},
    tasks::{TaskId, TaskState},
};

/// Filters of a query, with what else it may say. All that is given must match.
macro_rules! filters {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, Deserialize, IntoParams)]
        #[into_params(parameter_in = Query)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name {
            /// Only those of this namespace.
            #[serde(deserialize_with = "crate::http::extract::given")]
            pub namespace: Option<String>,
            /// IDs, separated by commas: at most 1,000.
            #[param(min_length = 1, pattern = "^[ ]*[0-9]+([ ]*,[ ]*[0-9]+)*[ ]*$")]
            pub ids: Option<String>,
            pub queue: Option<String>,
            /// `pending`, `in_progress`, `completed`, `failed`, `cancelled`, `deferred_to_human`; several separated by commas.
            pub state: Option<String>,
            pub domain: Option<String>,
            pub role: Option<String>,
            pub expert: Option<String>,
            /// `true`: only those without an expert.
            pub unassigned: Option<bool>,
            pub key: Option<String>,
            /// `name=value`, several separated by commas.
            pub labels: Option<String>,
            /// Ended, or in their state, since then; a duration is one before now.
            pub since: Option<TimeOrDuration>,
            /// Ended, or in their state, before then; a duration is one before now.
            pub until: Option<TimeOrDuration>,
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl $name {
            /// `now`: by the database's clock.
            pub fn filter(&self, now: Timestamp) -> Result<TaskFilter, ApiError> {
                Ok(TaskFilter {
                    ids: ids(self.ids.as_deref())?,
                    namespace: self.namespace.clone(),
                    queue: self.queue.clone(),
                    states: split(self.state.as_deref()).map(state).collect::<Result<_, _>>()?,
                    domain: self.domain.clone(),
                    role: self.role.clone(),
                    expert: self.expert.clone(),
                    unassigned: self.unassigned,
                    key: self.key.clone(),
                    labels: split(self.labels.as_deref()).map(label).collect::<Result<_, _>>()?,
                    since: self.since.map(|since| since.ago(now)),
                    until: self.until.map(|until| until.ago(now)),
                    created_before: None,
                })
            }
        }
    };
}

filters!(
    /// A page of a list.
    Listed {
        /// Only ids below this one, for the next page.
        before: Option<TaskId>,
        /// 100 when absent.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<i64>,
        /// With payloads and results.
        full: Option<bool>,
    }
);
filters!(
    /// Results since a cursor.
    Ended {
        /// Only what came after this cursor, the `next` of an answer; `now`: what ends from now on.
        after: Option<String>,
        /// 100 when absent.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<i64>,
        /// Wait up to so many seconds for the first one.
        #[param(minimum = 0, maximum = 30)]
        wait: Option<u64>,
    }
);
filters!(
    /// Changes since a cursor.
    Followed {
        /// Only what came after this cursor, the id of an event; `Last-Event-ID` goes before it.
        after: Option<String>,
    }
);
filters!(
    /// What is deleted.
    Purged {
        /// Every ended task of the namespace, or of all.
        all: Option<bool>,
        /// Only count.
        dry_run: Option<bool>,
    }
);

const MOST_IDS: usize = 1_000;

fn ids(text: Option<&str>) -> Result<Vec<TaskId>, ApiError> {
    let ids = split(text)
        .map(|id| id.parse().map_err(|_| bad(format!("ids: {id:?} is no number of a task"))))
        .collect::<Result<Vec<TaskId>, _>>()?;
    if ids.len() > MOST_IDS {
        return Err(bad(format!("ids: {} are given, {MOST_IDS} are allowed", ids.len())));
    }
    if text.is_some() && ids.is_empty() {
        return Err(bad("ids: is empty".to_owned()));
    }
    Ok(ids)
}

/// How many, 1 to 1,000.
pub fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked.unwrap_or(100) {
        limit @ 1..=1_000 => Ok(limit),
        other => Err(bad(format!("limit is {other}: write 1 to 1000"))),
    }
}

fn split(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn state(word: &str) -> Result<TaskState, ApiError> {
    TaskState::parse(word).ok_or_else(|| {
        let known = TaskState::ALL.map(TaskState::as_str).join(", ");
        bad(format!("state: {word:?} is none: there are {known}"))
    })
}

fn label(text: &str) -> Result<(String, String), ApiError> {
    let (name, value) = text.split_once('=').ok_or_else(|| bad(format!("labels: {text:?}: write name=value")))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn bad(message: String) -> ApiError {
    ApiError::BadRequest(message)
}

/// The states of tasks that a command applies to.
pub fn applies_to(command: &TaskCommand) -> &'static [TaskState] {
    use TaskState::{Cancelled, Completed, DeferredToHuman, Failed, InProgress, Pending};
    match command {
        TaskCommand::Cancel => &[Pending, InProgress, DeferredToHuman],
        TaskCommand::Retry | TaskCommand::Purge => &[Completed, Failed, Cancelled],
        TaskCommand::Resume | TaskCommand::Close => &[DeferredToHuman],
        TaskCommand::Reassign { .. } => &[Pending, DeferredToHuman],
    }
}

/// The filter of those that the command applies to; `None`: there can be none.
pub fn narrowed(filter: TaskFilter, command: &TaskCommand) -> Option<TaskFilter> {
    let wanted = |state: &TaskState| filter.states.is_empty() || filter.states.contains(state);
    let states: Vec<TaskState> = applies_to(command).iter().copied().filter(wanted).collect();
    (!states.is_empty()).then_some(TaskFilter { states, ..filter })
}

/// Whether it would match every task of a namespace or of the installation.
pub fn is_open(filter: &TaskFilter) -> bool {
    let TaskFilter { namespace, created_before, .. } = filter.clone();
    *filter == TaskFilter { namespace, created_before, ..TaskFilter::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(query: &str) -> Listed {
        let uri = format!("/?{query}").parse().unwrap();
        axum::extract::Query::<Listed>::try_from_uri(&uri).unwrap().0
    }

    fn now() -> Timestamp {
        "2026-03-01T13:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_query_is_read_as_a_filter() {
        let filter = which("namespace=team&ids=3,%204&state=pending,in_progress&labels=a%3Db,c%3D&unassigned=true&since=2026-03-01T12:00:00Z")
            .filter(now())
            .unwrap();
        assert_eq!(filter.ids, [3, 4]);
        assert_eq!(filter.states, [TaskState::Pending, TaskState::InProgress]);
        assert_eq!(filter.labels, [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into());
        assert_eq!((filter.namespace.as_deref(), filter.unassigned), (Some("team"), Some(true)));
        assert_eq!(which("").filter(now()).unwrap(), TaskFilter::default());
        assert!(is_open(&which("namespace=team").filter(now()).unwrap()));
        for closed in ["ids=1", "queue=a", "state=failed", "key=k", "labels=a%3Db", "unassigned=false"] {
            assert!(!is_open(&which(closed).filter(now()).unwrap()), "{closed}");
        }
    }

    #[test]
    fn what_is_no_filter_is_told() {
        for (query, expected) in [
            ("ids=a", "ids: \"a\" is no number of a task"),
            ("ids=", "ids: is empty"),
            ("state=done", "state: \"done\" is none: there are pending, in_progress"),
            ("labels=a", "labels: \"a\": write name=value"),
        ] {
            let error = which(query).filter(now()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{query}: {error}");
        }
        for far in ["-009999-01-02T02:00:00Z", "9999-06-01T00:00:00Z"] {
            let uri = format!("/?since={far}").parse().unwrap();
            let error = axum::extract::Query::<Listed>::try_from_uri(&uri).unwrap_err().body_text();
            assert!(error.contains("since: ") && error.contains("is out of range"), "{error}");
        }
        assert_eq!(which("since=1h").filter(now()).unwrap().since, "2026-03-01T12:00:00Z".parse().ok());
        assert_eq!(limit(which("").limit).unwrap(), 100);
        for bad in ["limit=0", "limit=1001"] {
            assert!(limit(which(bad).limit).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_is_for_the_states_that_it_applies_to() {
        let of = |states: &[TaskState], command: &TaskCommand| {
            narrowed(TaskFilter { states: states.to_vec(), ..TaskFilter::default() }, command).map(|f| f.states)
        };
        use TaskState::{Completed, DeferredToHuman, Failed, Pending};
        assert_eq!(of(&[], &TaskCommand::Close), Some(vec![DeferredToHuman]));
        assert_eq!(of(&[Failed, Pending], &TaskCommand::Retry), Some(vec![Failed]));
        assert_eq!(of(&[Completed], &TaskCommand::Cancel), None);
        for command in [TaskCommand::Retry, TaskCommand::Purge] {
            assert!(applies_to(&command).iter().all(|s| s.is_terminal()), "{command:?}");
        }
    }
}

//! What both databases do alike when a command is carried out.

use super::TaskCommand;
use super::filter::TaskPart;
use crate::tasks::TaskId;
use crate::tasks::machine::TaskEvent;

impl TaskCommand {
    /// What happens to a task, where tasks are that it can happen to, and a condition for them.
    pub(super) const fn applies_to(&self) -> (TaskEvent, TaskPart, &'static str) {
        match self {
            Self::Cancel => (TaskEvent::Cancel, TaskPart::Live, "true"),
            Self::Retry => (TaskEvent::Retry, TaskPart::Ended, "true"),
            Self::Resume => (TaskEvent::Resume, TaskPart::Live, "state = 'deferred_to_human'"),
            Self::Reassign { .. } => (TaskEvent::Reassign, TaskPart::Live, "state IN ('pending', 'deferred_to_human')"),
            Self::Close => (TaskEvent::Close, TaskPart::Live, "state = 'deferred_to_human'"),
            Self::Purge => (TaskEvent::Purge, TaskPart::Ended, "true"),
        }
    }
}

/// What one transaction of a command did.
pub(super) struct CommandBatch {
    pub done: Vec<TaskId>,
    /// The highest id that was looked at; `None`: there was nothing more.
    pub last: Option<TaskId>,
}

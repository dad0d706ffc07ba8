//! Tasks, purely: what they are, which states they go through, who takes them, when they are tried again and why they wait.

pub mod assign;
mod completion;
pub mod explain;
mod finished;
pub mod limits;
pub mod machine;
pub mod parallel;
pub mod retry;
pub mod route;
pub mod schema;
pub mod share;
mod task;

pub use completion::{Completion, Verdict};
pub use finished::Finished;
pub use task::{
    Assignment, Attempt, AttemptClass, ClaimedTask, DEFERRING_LOST_LEASES, Message, NewTask, Payload, QueueKey, Task,
    TaskId, TaskState, Unassigned,
};

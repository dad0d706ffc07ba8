//! What the agent keeps on disk, in its state folder. What can't be written down is not done.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by the running agent: two never share a folder |
//! | `NAME.json` | holds, counts and the last exit of a service |
//! | `NAME.process` | pid and start time of its process, written by `ostler agent-exec` |
//! | `NAME.log` | its output, unless the file names another |
//! | `operations.json` | operations, for a day |
//! | `containers.json` | what events told of containers, and how compose made them |
//! | `container-operations.json` | operations on containers, for a day |
//! | `epochs.json` | the highest epoch of each installation |
//! | `replays` | ids of signed requests that may change something, for ten minutes |

mod book;
mod disk;
mod memory;
mod replay_guard;

pub use book::{OperationBook, OperationRecord, ServiceOperationRecord, ended};
pub use disk::{StateError, StateFolder, read, write};
pub use memory::{Keeper, ServiceRecord, Start};
pub use replay_guard::ReplayGuard;

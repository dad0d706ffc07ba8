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
mod doorbook;
mod memory;

pub use book::{Accepted, Book, Entry, Recorded};
pub use disk::{Folder, StateError, read, write};
pub use doorbook::Doorbook;
pub use memory::{Keeper, Memory, Start};

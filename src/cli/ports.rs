//! Who listens on a port of this machine.

use std::{fmt, net::SocketAddr};

use crate::{agent::os, host::mask};

/// The process behind a port, as far as this user may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub pid: Option<u32>,
    pub user: Option<String>,
    pub command: Option<String>,
}

/// `None`: nobody listens there, or the system does not tell.
pub fn owner(address: SocketAddr) -> Option<Owner> {
    let listener = os::listener(address.ip(), address.port()).ok().flatten()?;
    let pid = listener.pid;
    let user = pid.and_then(os::uid_of).map(os::user_name);
    Some(Owner { pid, user, command: pid.and_then(os::command_line) })
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, user, command } = self;
        match (pid, command) {
            (Some(pid), Some(command)) => write!(f, "process {pid} ({})", mask::command_line(command))?,
            (Some(pid), None) => write!(f, "process {pid}")?,
            (None, _) => write!(f, "a process that you may not see")?,
        }
        user.as_ref().map_or(Ok(()), |user| write!(f, " of user {user}"))
    }
}

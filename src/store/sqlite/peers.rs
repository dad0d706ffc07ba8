//! Tells the other processes of a data folder what changed: each one that waits has a datagram socket in the folder's `peers`, and gets
//! one byte, the topics, after every commit that concerns them.
//!
//! Who can't be told looks by itself from time to time.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use uuid::Uuid;

use crate::store::changes::Topics;

const FOLDER: &str = "peers";
/// The shortest that systems allow a socket's path to be long.
const LONGEST_PATH: usize = 100;

/// The sockets of one data folder, as one process knows them.
pub struct Peers {
    folder: PathBuf,
    /// Of this process and store.
    own: String,
    sender: OnceLock<Option<UnixDatagram>>,
    /// Kept open, so that long paths can be named by it.
    opened: OnceLock<File>,
}

impl Peers {
    pub fn of(data_folder: &Path) -> Self {
        Self {
            folder: data_folder.join(FOLDER),
            own: format!("{}-{}", std::process::id(), Uuid::new_v4().simple()),
            sender: OnceLock::new(),
            opened: OnceLock::new(),
        }
    }

    /// Opens the socket on which others tell this process.
    pub fn listen(&self) -> io::Result<tokio::net::UnixDatagram> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        tokio::net::UnixDatagram::bind(self.path(&self.own)?)
    }

    /// Tells all others. Who is gone is forgotten; who does not read fast enough knows already that something changed.
    pub fn tell(&self, topics: Topics) {
        let sender = self.sender.get_or_init(|| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        });
        let (Some(sender), Ok(entries)) = (sender, std::fs::read_dir(&self.folder)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| *name != self.own) else { continue };
            let Ok(path) = self.path(name) else { continue };
            match sender.send_to(&[topics.bits()], path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    drop(std::fs::remove_file(entry.path()))
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    tracing::debug!(%error, peer = name, "can't tell another process what changed: it looks by itself");
                }
                _ => {}
            }
        }
    }

    /// Where a socket is. One that is too deep for a socket's address is named through the opened folder, where the system has that.
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        if path.as_os_str().as_bytes().len() <= LONGEST_PATH {
            return Ok(path);
        }
        let opened = match self.opened.get() {
            Some(opened) => opened,
            None => {
                let folder = File::open(&self.folder)?;
                self.opened.get_or_init(|| folder)
            }
        };
        Ok(PathBuf::from(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd())))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // Where nobody listened, there is none.
        let _ = std::fs::remove_file(self.folder.join(&self.own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(deep: usize) -> Self {
            let path = std::env::temp_dir().join(format!("ostler-peers-{}", Uuid::new_v4())).join("d".repeat(deep));
            std::fs::create_dir_all(&path).expect("make a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.parent().expect("a parent"));
        }
    }

    async fn heard(socket: &tokio::net::UnixDatagram) -> Topics {
        let mut byte = [0];
        socket.recv(&mut byte).await.expect("receive");
        Topics::from_bits(byte[0])
    }

    #[tokio::test]
    async fn others_are_told_also_in_a_deep_folder() {
        for deep in [1, 150] {
            let folder = Folder::new(deep);
            let (one, other) = (Peers::of(&folder.0), Peers::of(&folder.0));
            other.tell(Topics::ALL);
            let socket = one.listen().expect("listen");
            let own = other.listen().expect("listen");
            other.tell(Topics::READY | Topics::WORLD);
            one.tell(Topics::NEW);
            assert_eq!(heard(&socket).await, Topics::READY | Topics::WORLD, "{deep}: by the other, not by itself");
            assert_eq!(heard(&own).await, Topics::NEW, "{deep}");
        }
    }

    #[tokio::test]
    async fn who_was_killed_is_forgotten_and_who_does_not_read_holds_nobody_up() {
        let folder = Folder::new(1);
        let (one, killed, slow) = (Peers::of(&folder.0), Peers::of(&folder.0), Peers::of(&folder.0));
        drop(killed.listen().expect("listen"));
        let count = || std::fs::read_dir(folder.0.join(FOLDER)).expect("read").count();
        let socket = slow.listen().expect("listen");
        assert_eq!(count(), 2);
        for _ in 0..10_000 {
            one.tell(Topics::ENDED);
        }
        assert_eq!(count(), 1, "a socket that nobody has open");
        assert_eq!(heard(&socket).await, Topics::ENDED);
        drop(slow);
        assert_eq!(count(), 0);
    }
}

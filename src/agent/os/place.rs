//! Files in folders that may be somebody else's: an agent of root must not be led to another file by who owns the folder.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Component, Path},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat, readlinkat, renameat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
    unistd::{Uid, UnlinkatFlags, fchown, unlinkat},
};

/// As Linux has it.
const MAX_LINKS: usize = 40;

/// A folder that stays the same one, whatever becomes of its path, and the name of a file in it.
#[derive(Debug)]
pub struct SafePath {
    folder: OwnedFd,
    name: OsString,
}

/// Whose a file is.
pub type FileOwner = (nix::unistd::Uid, nix::unistd::Gid);

impl SafePath {
    /// Walks to the file's folder. A symbolic link on the way is followed only where nobody but root and this user could have put it.
    pub fn of(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| invalid("it names no file"))?.to_owned();
        let mut folder = root()?;
        let mut ahead: VecDeque<OsString> = steps(path.parent().unwrap_or(Path::new("/")));
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            match openat(&folder, step.as_os_str(), folder_flags(), Mode::empty()) {
                Ok(next) => folder = next,
                Err(Errno::ELOOP | Errno::ENOTDIR) => {
                    let target = readlinkat(&folder, step.as_os_str()).map_err(|_| {
                        io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no folder", step.display()))
                    })?;
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    if !is_ours(&fstat(&folder)?) {
                        let why =
                            format!("{} is a symbolic link in a folder that another user can change", step.display());
                        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
                    }
                    if Path::new(&target).is_absolute() {
                        folder = root()?;
                    }
                    for step in steps(Path::new(&target)).into_iter().rev() {
                        ahead.push_front(step);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { folder, name })
    }

    /// The file's name with something at its end.
    pub fn beside(&self, end: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(end);
        name
    }

    /// Opens it, or makes it for its owner.
    pub fn append(&self, owner: Option<FileOwner>) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND;
        match self.create(&self.name, flags, owner) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open(&self.name, flags),
            made => made,
        }
    }

    pub fn read(&self) -> io::Result<File> {
        self.open(&self.name, OFlag::O_RDONLY)
    }

    pub fn read_and_write(&self) -> io::Result<File> {
        self.open(&self.name, OFlag::O_RDWR)
    }

    /// Makes a file anew; what has the name is removed first.
    pub fn replace(&self, name: &OsStr, owner: Option<FileOwner>) -> io::Result<File> {
        self.remove(name)?;
        self.create(name, OFlag::O_WRONLY, owner)
    }

    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match renameat(&self.folder, from, &self.folder, to) {
            Err(Errno::ENOENT) => Ok(()),
            done => done.map_err(Into::into),
        }
    }

    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            done => done.map_err(Into::into),
        }
    }

    /// How long the file is, in bytes; `None`: there is none.
    pub fn length(&self) -> io::Result<Option<u64>> {
        match fstatat(&self.folder, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_regular(&stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
            Ok(_) => Err(invalid(NO_FILE)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create(&self, name: &OsStr, flags: OFlag, owner: Option<FileOwner>) -> io::Result<File> {
        let file = self.open_raw(name, flags | OFlag::O_CREAT | OFlag::O_EXCL)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file)
    }

    fn open(&self, name: &OsStr, flags: OFlag) -> io::Result<File> {
        let file = self.open_raw(name, flags)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(invalid(NO_FILE));
        }
        // One of its names may be that of a file which the folder's owner may not write.
        if meta.nlink() > 1 {
            return Err(invalid("it has another name (a hard link), and may be another file"));
        }
        Ok(file)
    }

    /// Never waits for the other end of a pipe, and never follows a link.
    fn open_raw(&self, name: &OsStr, flags: OFlag) -> io::Result<File> {
        let safe = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = openat(&self.folder, name, flags | safe, Mode::from_bits_truncate(0o640));
        let file = File::from(opened.map_err(|error| match error {
            Errno::ELOOP => invalid("it is a symbolic link"),
            Errno::ENXIO => invalid(NO_FILE),
            error => error.into(),
        })?);
        // It may become a program's output.
        fcntl(&file, FcntlArg::F_SETFL(flags & OFlag::O_APPEND))?;
        Ok(file)
    }
}

const NO_FILE: &str = "it is no regular file";

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn root() -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open("/", folder_flags(), Mode::empty())?)
}

/// A folder that may be passed through need not be readable.
fn folder_flags() -> OFlag {
    #[cfg(target_os = "linux")]
    let search = OFlag::O_PATH;
    #[cfg(not(target_os = "linux"))]
    let search = OFlag::O_RDONLY;
    search | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let step = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(step).collect()
}

fn is_regular(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

/// Whether nobody but root and this user can put something into a folder.
fn is_ours(folder: &FileStat) -> bool {
    let own = Uid::effective();
    let others = if own.is_root() { Mode::S_IWGRP | Mode::S_IWOTH } else { Mode::S_IWOTH };
    let owned = folder.st_uid == 0 || folder.st_uid == own.as_raw();
    owned && !Mode::from_bits_truncate(folder.st_mode).intersects(others)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
        os::unix::fs::{PermissionsExt, symlink},
        path::PathBuf,
    };

    use super::*;

    fn temporary() -> PathBuf {
        let path = std::env::temp_dir().join(format!("ostler-place-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).unwrap();
        path.canonicalize().unwrap()
    }

    #[test]
    fn only_links_that_nobody_else_could_have_put_are_followed() {
        let root = temporary();
        let (ours, theirs) = (root.join("ours"), root.join("theirs"));
        for (folder, mode) in [(&ours, 0o755), (&theirs, 0o777)] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
            fs::create_dir(folder.join("real")).unwrap();
            symlink(folder.join("real"), folder.join("absolute")).unwrap();
            symlink("real", folder.join("relative")).unwrap();
            symlink("../ours/./real", folder.join("up")).unwrap();
            symlink("loop", folder.join("loop")).unwrap();
        }
        for link in ["absolute", "relative", "up"] {
            let mut file = SafePath::of(&ours.join(link).join("x.log")).unwrap().append(None).unwrap();
            file.write_all(b"x").unwrap();
            let refused = SafePath::of(&theirs.join(link).join("x.log")).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{link}: {refused}");
        }
        assert_eq!(fs::read(ours.join("real/x.log")).unwrap(), b"xxx");
        assert!(!theirs.join("real/x.log").exists());
        assert!(SafePath::of(&ours.join("loop/x.log")).is_err());
        assert!(SafePath::of(&ours.join("real/x.log/y.log")).unwrap_err().to_string().contains("no folder"));
        SafePath::of(&theirs.join("real/../real/y.log")).unwrap().append(None).unwrap();
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_file_is_a_regular_one_with_one_name_or_none() {
        let root = temporary();
        fs::write(root.join("precious"), "precious").unwrap();
        symlink(root.join("precious"), root.join("link")).unwrap();
        fs::hard_link(root.join("precious"), root.join("hard")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
        fs::create_dir(root.join("folder")).unwrap();
        for name in ["link", "hard", "fifo", "folder"] {
            let place = SafePath::of(&root.join(name)).unwrap();
            for opened in [place.append(None), place.read(), place.read_and_write()] {
                assert!(opened.is_err(), "{name}");
            }
            assert_eq!(place.length().is_err(), name != "hard", "{name}");
        }
        assert_eq!(fs::read(root.join("precious")).unwrap(), b"precious");
        let place = SafePath::of(&root.join("new")).unwrap();
        assert_eq!(place.length().unwrap(), None);
        place.append(None).unwrap().write_all(b"a").unwrap();
        place.append(None).unwrap().write_all(b"b").unwrap();
        let mut text = String::new();
        place.read().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), place.length().unwrap()), ("ab", Some(2)));
        // A folder that is moved stays the same one.
        fs::rename(&root, root.with_extension("moved")).unwrap();
        place.replace(&place.beside(".1"), None).unwrap();
        assert!(root.with_extension("moved").join("new.1").exists());
        fs::remove_dir_all(root.with_extension("moved")).unwrap();
    }
}

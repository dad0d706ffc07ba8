//! Folders that are one user's own: what is in them is believed.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use nix::fcntl::OFlag;

/// Makes the folder, for its owner only, or checks one that is there: a real folder that belongs to this process' user. Others' right to
/// write is taken away; where they may have used it, the folder is refused.
///
/// # Errors
/// With what is wrong and how to mend it.
pub fn own_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    check_folder(path)
}

/// The same for a folder that must be there.
///
/// # Errors
/// With what is wrong and how to mend it.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        let to = fs::read_link(path).unwrap_or_default();
        return refused(format!("it is a symbolic link to {}: name the folder itself", to.display()));
    }
    if !found.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
    }
    let own = nix::unistd::Uid::effective().as_raw();
    if found.uid() != own {
        return refused(format!(
            "it belongs to user {}, and this process runs as user {own}: run it as that user, or name another folder",
            found.uid()
        ));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    // First, so that nobody adds anything after the look.
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o755))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let of = entry.metadata()?;
        if of.uid() != own || of.is_symlink() {
            // The next start would see no reason to look.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            return refused(format!(
                "others may write into it (mode {mode:04o}), and {} is not this user's own file: look at what is in it, remove what is \
                 not yours, then `chmod 700 {}`",
                entry.path().display(),
                path.display()
            ));
        }
    }
    Ok(())
}

/// Options that make a new file (0600), and open none that is there, nor what a link names.
pub fn new_file() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    options
}

/// Opens a file to read it: a regular one of this process' user, reached by no link.
///
/// # Errors
/// With what is wrong.
pub fn open_own(path: &Path) -> io::Result<fs::File> {
    // A FIFO would be waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let found = file.metadata()?;
    let (own, mode) = (nix::unistd::Uid::effective().as_raw(), found.mode() & 0o777);
    if !found.is_file() || found.uid() != own || found.nlink() != 1 || mode & 0o077 != 0 {
        let why = format!(
            "it must be a plain file of user {own} that nobody else may read or write; it belongs to user {}, mode {mode:03o}",
            found.uid()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn only_a_folder_of_ones_own_is_taken() {
        let root = std::env::temp_dir().join(format!("ostler-folder-{}", uuid::Uuid::new_v4()));
        let folder = root.join("a/b");
        own_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        own_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o750, "the group only reads");
        fs::write(folder.join("own"), "").unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).unwrap();
        own_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o755, "nobody had put anything there");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        symlink("/etc/hosts", folder.join("ostler.db")).unwrap();
        for _ in 0..2 {
            let error = own_folder(&folder).unwrap_err().to_string();
            assert!(error.contains("0777") && error.contains("chmod 700") && error.contains("ostler.db"), "{error}");
        }
        let link = root.join("link");
        symlink(root.join("a"), &link).unwrap();
        assert!(own_folder(&link).unwrap_err().to_string().contains("symbolic link to"));
        if nix::unistd::Uid::effective().is_root() {
            let other = root.join("other");
            own_folder(&other).unwrap();
            std::os::unix::fs::chown(&other, Some(12_345), None).unwrap();
            assert!(own_folder(&other).unwrap_err().to_string().contains("belongs to user 12345"));
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn only_a_plain_file_of_ones_own_is_read() {
        let root = std::env::temp_dir().join(format!("ostler-file-{}", uuid::Uuid::new_v4()));
        own_folder(&root).unwrap();
        let file = root.join("a.json");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open_own(&file).is_err(), "not as this program makes them");
        fs::remove_file(&file).unwrap();
        new_file().open(&file).unwrap();
        open_own(&file).unwrap();
        assert!(new_file().open(&file).is_err(), "it is there already");
        let link = root.join("link.json");
        symlink(&file, &link).unwrap();
        assert!(open_own(&link).is_err() && new_file().open(&link).is_err());
        let fifo = root.join("fifo.json");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(open_own(&fifo).is_err(), "and at once");
        fs::hard_link(&file, root.join("b.json")).unwrap();
        assert!(open_own(&file).is_err(), "somebody gave it a second name");
        fs::remove_file(root.join("b.json")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(open_own(&file).is_err());
        fs::remove_dir_all(root).unwrap();
    }
}

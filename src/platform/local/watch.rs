//! Notices changes of the folder: by the operating system's notifications, and by looking again from time to time, for
//! network drives tell nothing and a folder that was replaced takes its watch with it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::scan::is_manifest;

/// Quiet time after the last change: an editor or a branch switch writes several files.
const QUIET: Duration = Duration::from_millis(200);
/// Longest wait for quiet.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits for changes of a folder.
pub struct FolderWatch {
    folder: PathBuf,
    sender: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
    /// The watch, and the identity of the folder that it was set on.
    watcher: Option<(RecommendedWatcher, Identity)>,
}

impl FolderWatch {
    pub fn new(folder: &Path) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let mut watch = Self { folder: folder.to_owned(), sender, changes, watcher: None };
        watch.renew();
        watch
    }

    /// Returns once something changed and it is quiet again, or after `at_most`.
    pub async fn changed(&mut self, at_most: Duration) {
        self.renew();
        if timeout(at_most, self.changes.recv()).await.is_err() {
            return;
        }
        let deadline = Instant::now() + LONGEST;
        loop {
            sleep(QUIET.min(deadline.saturating_duration_since(Instant::now()))).await;
            let more = self.changes.try_recv().is_ok();
            if !more || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Sets the watch, when there is none or the folder is another one.
    fn renew(&mut self) {
        let Some(watched) = directory(&self.folder) else {
            self.watcher = None;
            return;
        };
        let Some(identity) = identity(&watched) else {
            self.watcher = None;
            return;
        };
        if matches!(&self.watcher, Some((_, on)) if *on == identity) {
            return;
        }
        let sender = self.sender.clone();
        let told = watched.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| matters(&event, &told)) {
                // A full channel has a change waiting already.
                let _ = sender.try_send(());
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(&watched, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        self.watcher = match watcher {
            Ok(watcher) => Some((watcher, identity)),
            Err(error) => {
                tracing::debug!(folder = %watched.display(), %error, "no notifications: looking from time to time");
                None
            }
        };
    }
}

/// The folder itself, or the folder of a single file.
fn directory(folder: &Path) -> Option<PathBuf> {
    if folder.is_dir() {
        return Some(folder.to_owned());
    }
    let parent = folder.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}

type Identity = (u64, u64);

fn identity(folder: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// FileReading is no change; neither is what happens to files that aren't manifests. A path that begins with `..` is how
/// Kubernetes swaps the files of a mounted ConfigMap.
fn matters(event: &Event, folder: &Path) -> bool {
    let written = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    let swapped = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".."));
    written && event.paths.iter().any(|path| is_manifest(path) || path == folder || swapped(path))
}

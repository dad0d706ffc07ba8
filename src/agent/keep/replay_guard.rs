//! What the gate remembers across restarts: ids of signed requests, and the highest epoch of each installation.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use super::disk::{self, StateError};
use crate::{
    agent::{
        callers::{self, EpochHeard, Replays},
        gate::Refused,
    },
    host::AgentRefusal,
};

/// Past so many lines the file of ids is written anew, without those that are too old to matter.
const LINES: usize = 4096;
/// Installations whose epochs are kept; the one that was not heard for longest is forgotten.
const INSTALLATIONS: usize = 64;

#[derive(Debug)]
pub struct ReplayGuard {
    epochs_path: PathBuf,
    replays_path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    epochs: BTreeMap<Uuid, EpochHeard>,
    replays: Replays,
    file: File,
    lines: usize,
}

impl ReplayGuard {
    pub fn open(folder: &Path, now: Timestamp) -> Result<Self, StateError> {
        let (epochs_path, replays_path) = (folder.join("epochs.json"), folder.join("replays"));
        let kept: BTreeMap<Uuid, i64> = disk::read(&epochs_path)?.unwrap_or_default();
        // When it was heard is not kept: as if it were now.
        let epochs =
            kept.into_iter().map(|(installation, epoch)| (installation, EpochHeard { epoch, at: now })).collect();
        let replays = Replays::restore(read_ids(&replays_path)?, now);
        let file = write_ids(&replays_path, &replays)?;
        let inner = Mutex::new(Inner { epochs, lines: replays.len(), replays, file });
        Ok(Self { epochs_path, replays_path, inner })
    }

    /// Takes the id of a signed request once. It is on disk when this returns.
    pub fn take_id(&self, id: &str, now: Timestamp) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        inner.replays.take(id, now)?;
        let line = format!("{} {id}\n", now.as_millisecond());
        let written = inner.file.write_all(line.as_bytes()).and_then(|()| inner.file.sync_data());
        written.map_err(|e| not_recorded(&StateError::io("write", &self.replays_path, e)))?;
        inner.lines += 1;
        if inner.lines > LINES && inner.lines > 2 * inner.replays.len() {
            inner.file = write_ids(&self.replays_path, &inner.replays).map_err(|e| not_recorded(&e))?;
            inner.lines = inner.replays.len();
        }
        Ok(())
    }

    /// The same for a request that does no harm when it comes again after a restart: nothing is written.
    pub fn take_id_until_restart(&self, id: &str, now: Timestamp) -> Result<(), Refused> {
        self.inner.lock().replays.take(id, now)
    }

    /// Refuses a leader that another has followed, and keeps another epoch before anything is done for it.
    pub fn take_epoch(&self, (installation, epoch): (Uuid, i64), now: Timestamp) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        let is_new = callers::check_epoch(&inner.epochs, (installation, epoch), now)?;
        let mut new = inner.epochs.clone();
        new.insert(installation, EpochHeard { epoch, at: now });
        while new.len() > INSTALLATIONS {
            let Some(oldest) = new.iter().min_by_key(|(_, heard)| heard.at).map(|(id, _)| *id) else { break };
            new.remove(&oldest);
        }
        if is_new {
            let kept: BTreeMap<_, _> = new.iter().map(|(id, heard)| (id, heard.epoch)).collect();
            disk::write(&self.epochs_path, &kept).map_err(|e| not_recorded(&e))?;
            if let Some(before) = inner.epochs.get(&installation).filter(|before| before.epoch > epoch) {
                tracing::warn!(%installation, epoch, before = before.epoch, "accepted a lower epoch: the higher one was not used for ten minutes");
            }
        }
        inner.epochs = new;
        Ok(())
    }
}

fn not_recorded(e: &StateError) -> Refused {
    Refused::new(AgentRefusal::NotRecorded, e.to_string())
}

/// Lines `MILLISECONDS ID`. A last line that a crash cut short is dropped: its request was not answered.
fn read_ids(path: &Path) -> Result<Vec<(String, Timestamp)>, StateError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StateError::io("read", path, e)),
    };
    let whole = &text[..text.rfind('\n').map_or(0, |i| i + 1)];
    Ok(whole
        .lines()
        .filter_map(|line| {
            let (at, id) = line.split_once(' ')?;
            let at = Timestamp::from_millisecond(at.parse().ok()?).ok()?;
            Some((id.to_owned(), at))
        })
        .collect())
}

fn write_ids(path: &Path, replays: &Replays) -> Result<File, StateError> {
    let error = |e| StateError::io("write", path, e);
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary).map_err(error)?;
    let text: String = replays.ids().map(|(id, at)| format!("{} {id}\n", at.as_millisecond())).collect();
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(error)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_epochs_survive_a_restart() {
        let folder = std::env::temp_dir().join(format!("ostler-replays-{}", Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        let now: Timestamp = "2026-03-01T02:00:00.5Z".parse().unwrap();
        let first = ReplayGuard::open(&folder, now).unwrap();
        first.take_id("a b", now).unwrap();
        first.take_epoch((Uuid::nil(), 3), now).unwrap();
        let written = fs::metadata(folder.join("replays")).unwrap().len();
        first.take_id_until_restart("care", now).unwrap();
        assert_eq!(first.take_id_until_restart("care", now).unwrap_err().reason, AgentRefusal::ReplayedId);
        assert_eq!(fs::metadata(folder.join("replays")).unwrap().len(), written, "nothing is written");
        drop(first);
        let mut file = OpenOptions::new().append(true).open(folder.join("replays")).unwrap();
        file.write_all(b"12345 cut-sho").unwrap();
        let again = ReplayGuard::open(&folder, now).unwrap();
        assert_eq!(again.take_id("a b", now).unwrap_err().reason, AgentRefusal::ReplayedId);
        again.take_id("cut-sho", now).unwrap();
        assert_eq!(again.take_epoch((Uuid::nil(), 2), now).unwrap_err().reason, AgentRefusal::LowerEpoch);
        for other in 1..200 {
            again.take_epoch((Uuid::from_u128(other), 1), now).unwrap();
        }
        assert_eq!(again.inner.lock().epochs.len(), INSTALLATIONS);
        fs::remove_dir_all(folder).unwrap();
    }
}

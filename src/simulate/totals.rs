//! Counts: of calls, and of the starts of a process, kept in a file between them.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::calls::{CallEnd, CallRecord};

/// Counts since the start, or since the log was cleared. `GET /simulate/totals`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Starts of the process, this one included; 1 without `--state-file`.
    pub starts: u64,
    /// Inference calls; those that are over are in one of the next four.
    pub inferences: u64,
    /// Ended well.
    pub served: u64,
    /// Answered with an error, or broken off by the server.
    pub failed: u64,
    /// Left by the client.
    pub aborted: u64,
    /// Left by the client and worked to the end.
    pub abandoned: u64,
    /// Inference calls for one token.
    pub canaries: u64,
    /// Inference calls that are open, and the most there were at a time.
    pub in_flight: usize,
    pub in_flight_peak: usize,
    /// Of these, and of other clients' calls, those that have a place in the engine rather than in its queue.
    pub running: usize,
    pub running_peak: usize,
    /// Calls of other clients that ended (`foreign-calls`).
    pub foreign: u64,
    pub loads: u64,
    pub unloads: u64,
    pub pulls: u64,
    pub tokens: u64,
}

impl Totals {
    pub(super) fn count(&mut self, call: &CallRecord) {
        if !call.inference {
            return;
        }
        self.inferences += 1;
        self.canaries += u64::from(call.max_tokens == Some(1));
        let well = call.status.is_none_or(|status| status < 400);
        match call.end {
            CallEnd::Open => (),
            CallEnd::Finished if well => self.served += 1,
            CallEnd::Finished | CallEnd::Failed => self.failed += 1,
            CallEnd::Aborted => self.aborted += 1,
            CallEnd::Abandoned => self.abandoned += 1,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("can't count starts in {path}: {source}; name a file that can be written, or delete it to begin anew")]
pub struct StartsError {
    path: PathBuf,
    source: io::Error,
}

/// Adds one to the number in the file, which need not exist yet, and returns it.
pub fn count_start(path: &Path) -> Result<u64, StartsError> {
    let failed = |source| StartsError { path: path.to_owned(), source };
    let before = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<u64>().map_err(|error| failed(io::Error::other(error)))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    let start = before.saturating_add(1);
    // Renamed into place: a crash at this moment must not leave half a number.
    let new = path.with_extension("new");
    fs::write(&new, format!("{start}\n")).and_then(|()| fs::rename(&new, path)).map_err(failed)?;
    Ok(start)
}

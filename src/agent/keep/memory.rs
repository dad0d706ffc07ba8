//! What is remembered of a service across restarts of the agent.

use std::path::PathBuf;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::disk::{self, StateError};
use crate::host::{Hold, HoldOwner, Instance, LastExit, SelfStarts};

/// The last start of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// What was started; absent while only a command knows it.
    pub instance: Option<Instance>,
    pub at: Timestamp,
    /// Its check has passed since.
    pub answered: bool,
    /// When its port was first seen to accept connections.
    pub accepting_since: Option<Timestamp>,
}

impl Start {
    /// Whether this is how the instance was started.
    pub fn is_of(&self, instance: Option<&Instance>) -> bool {
        self.instance.is_none() || self.instance.as_ref() == instance
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceRecord {
    pub holds: Vec<Hold>,
    pub self_starts: SelfStarts,
    pub failed_starts_in_row: u32,
    pub last_exit: Option<LastExit>,
    /// The process whose exit that was.
    pub last_exit_of: Option<Instance>,
    /// Why it is down or was last, for people; gone once it is up.
    pub last_failure: Option<String>,
    pub start: Option<Start>,
    /// The boot in which that process, the start and the failed starts were seen.
    pub boot: String,
    pub out_of_memory_at: Option<Timestamp>,
    /// The stop of its container that was last taken for a person's hold.
    pub stop_noted: Option<Timestamp>,
    /// Up to where the log was read for lack of memory, in bytes.
    pub log_offset: Option<u64>,
}

impl ServiceRecord {
    /// Sets a hold; the same owner's earlier one is replaced, but keeps its beginning.
    pub fn hold(&mut self, new: Hold) {
        match self.holds.iter_mut().find(|h| h.owner == new.owner) {
            Some(old) => *old = Hold { since: old.since, ..new },
            None => self.holds.push(new),
        }
    }

    pub fn release(&mut self, owner: HoldOwner) {
        self.holds.retain(|h| h.owner != owner);
    }

    /// Whether the end of this process was noted.
    pub fn has_ended(&self, instance: Option<&Instance>) -> bool {
        instance.is_some() && self.last_exit_of.as_ref() == instance
    }

    /// The agent ends and has stopped it, now or before: that is no failure, and the next start begins from nothing. Which process ended stays
    /// known, so that its end is not noticed once more.
    pub fn leave_for_good(&mut self) {
        if !self.last_exit.as_ref().is_some_and(|exit| exit.requested) {
            return;
        }
        self.last_exit = None;
        self.last_failure = None;
        self.start = None;
        self.failed_starts_in_row = 0;
    }

    /// A new boot of the host: what failed before says nothing of now.
    pub fn enter_boot(&mut self, boot: &str) {
        if self.boot != boot {
            self.boot = boot.to_owned();
            self.failed_starts_in_row = 0;
            self.last_exit_of = None;
            self.start = None;
        }
    }
}

/// A service's memory with its file: changed on disk first, then here.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    memory: Mutex<ServiceRecord>,
}

impl Keeper {
    pub fn open(path: PathBuf) -> Result<Self, StateError> {
        let memory = disk::read(&path)?.unwrap_or_default();
        Ok(Self { path, memory: Mutex::new(memory) })
    }

    pub fn get(&self) -> ServiceRecord {
        self.memory.lock().clone()
    }

    /// Changes the memory if the change can be written down.
    pub fn change(&self, change: impl FnOnce(&mut ServiceRecord)) -> Result<(), StateError> {
        let mut memory = self.memory.lock();
        let mut new = memory.clone();
        change(&mut new);
        if new != *memory {
            disk::write(&self.path, &new)?;
            *memory = new;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(owner: HoldOwner, reason: &str) -> Hold {
        Hold { owner, reason: reason.into(), since: Timestamp::UNIX_EPOCH, until: None }
    }

    #[test]
    fn each_owner_clears_its_own_hold() {
        let mut memory = ServiceRecord::default();
        memory.hold(hold(HoldOwner::Person, "a"));
        memory.hold(hold(HoldOwner::Suspend, "b"));
        memory.hold(Hold { since: Timestamp::MAX, ..hold(HoldOwner::Person, "c") });
        assert_eq!(memory.holds, [hold(HoldOwner::Person, "c"), hold(HoldOwner::Suspend, "b")]);
        memory.release(HoldOwner::Person);
        memory.release(HoldOwner::Pause);
        assert_eq!(memory.holds, [hold(HoldOwner::Suspend, "b")]);
    }

    #[test]
    fn what_can_not_be_written_is_not_remembered() {
        let keeper = Keeper::open("/nonexistent/folder/x.json".into()).unwrap();
        let error = keeper.change(|m| m.failed_starts_in_row = 3).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/folder/x.json"));
        assert_eq!(keeper.get(), ServiceRecord::default());
    }

    #[test]
    fn what_the_agent_stopped_in_order_to_end_is_no_failure_and_stays_noticed() {
        let instance = Instance { pid: 7, start_time: 70 };
        let exit = LastExit {
            code: Some(0),
            signal: None,
            out_of_memory: false,
            at: Timestamp::UNIX_EPOCH,
            unknown: false,
            requested: true,
        };
        let mut memory = ServiceRecord {
            last_exit: Some(exit.clone()),
            last_exit_of: Some(instance.clone()),
            last_failure: Some("it ended before".into()),
            failed_starts_in_row: 2,
            ..ServiceRecord::default()
        };
        memory.leave_for_good();
        assert!(memory.has_ended(Some(&instance)), "else its end is noticed again, by nobody who knows how");
        let expected = ServiceRecord { last_exit_of: Some(instance), ..ServiceRecord::default() };
        assert_eq!(memory, expected);
        let died = ServiceRecord { last_exit: Some(LastExit { requested: false, ..exit }), ..expected };
        let mut memory = died.clone();
        memory.leave_for_good();
        assert_eq!(memory, died, "what died by itself stays a failure");
    }

    #[test]
    fn a_new_boot_forgets_failed_starts_and_keeps_holds() {
        let mut memory = ServiceRecord { failed_starts_in_row: 5, boot: "a".into(), ..ServiceRecord::default() };
        memory.hold(hold(HoldOwner::Person, "x"));
        memory.enter_boot("a");
        assert_eq!(memory.failed_starts_in_row, 5);
        memory.enter_boot("b");
        assert_eq!((memory.failed_starts_in_row, memory.holds.len()), (0, 1));
    }
}

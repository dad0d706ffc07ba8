//! How processes end: told by the kernel when the agent is their parent, noticed otherwise; and its log's upkeep.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{process::Child, sync::watch, time::Instant};

use super::{Service, log, oom, process};
use crate::{
    agent::config::ManagerSpec,
    host::{Instance, LastExit},
};

const SIGKILL: i32 = 9;
/// After what time a log that can't be read or rotated is tried again.
const LOG_RETRY: Duration = Duration::from_secs(60);

impl Service {
    /// Waits for a child's end in the background. When the agent ends first, the child lives on.
    pub(super) fn reap(self: &Arc<Self>, instance: Instance, mut child: Child, tell: watch::Sender<Option<LastExit>>) {
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let status = tokio::select! {
                status = child.wait() => status.ok(),
                () = service.shutdown.cancelled() => return,
            };
            // At once: how it ended takes a moment to find out.
            service.changes.tell();
            let exit = service.ended(&instance, status);
            tell.send_replace(Some(exit));
        });
    }

    /// Notices that a process ended of which nobody will tell: one that an earlier agent started, or that was taken over.
    pub fn note_exit_unseen(&self) {
        let record = match process::read_record(&self.record) {
            Ok(Some(record)) if record.alive().is_none() => record,
            Ok(_) => return,
            Err(error) => {
                tracing::error!(service = %self.spec.name, %error, "the record of the process can't be read");
                return;
            }
        };
        let told = self.live().reaping.as_ref() == Some(&record.instance);
        if !told && self.keeper.get().last_exit_of.as_ref() != Some(&record.instance) {
            self.ended(&record.instance, None);
        }
    }

    /// Writes down how a process ended.
    fn ended(&self, instance: &Instance, status: Option<ExitStatus>) -> LastExit {
        self.look_for_lack_of_memory();
        let (requested, kills_before) = {
            let mut live = self.live();
            if live.reaping.as_ref() == Some(instance) {
                live.reaping = None;
            }
            (live.stopping.as_ref() == Some(instance), live.kills_before)
        };
        let signal = status.and_then(|s| s.signal());
        let may_be_kernel = !requested && (signal == Some(SIGKILL) || status.is_none());
        let counted = signal == Some(SIGKILL) && matches!((kills_before, oom::kills()), (Some(a), Some(b)) if b > a);
        let now = Timestamp::now();
        let exit = LastExit {
            code: status.and_then(|s| s.code()),
            signal,
            out_of_memory: may_be_kernel && (counted || oom::kernel_names(instance.pid)),
            at: now,
            unknown: status.is_none(),
            requested,
        };
        tracing::info!(service = %self.spec.name, pid = instance.pid, code = exit.code, signal = exit.signal,
            out_of_memory = exit.out_of_memory, requested, "process ended");
        let written = self.keeper.change(|m| {
            m.last_exit = Some(exit.clone());
            m.last_exit_of = Some(instance.clone());
            if exit.out_of_memory {
                m.out_of_memory_at = Some(now);
            }
        });
        if let Err(error) = written {
            tracing::error!(service = %self.spec.name, %error, "how the process ended can't be written down");
        }
        self.changes.tell();
        exit
    }

    /// Reads what is new in the log.
    fn look_for_lack_of_memory(&self) {
        let ManagerSpec::Process(process) = &self.spec.manager else {
            return;
        };
        let log = &process.log;
        let (found, offset) = {
            let mut live = self.live();
            (live.log.found(&log.file, &process.out_of_memory_patterns), live.log.offset())
        };
        match found {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(service = %self.spec.name, file = %log.file.display(), "its log tells of a lack of memory");
                let written = self.keeper.change(|m| {
                    m.out_of_memory_at = Some(Timestamp::now());
                    m.log_offset = Some(offset);
                });
                if let Err(error) = written {
                    tracing::error!(service = %self.spec.name, %error, "a lack of memory can't be written down");
                }
            }
            Err(error) => {
                self.live().log_trouble = Some(Instant::now());
                tracing::warn!(service = %self.spec.name, file = %log.file.display(), %error, "the log can't be read");
            }
        }
    }

    /// What is due every second: deaths that nobody tells of, the log's new text, its rotation.
    pub fn upkeep(&self) {
        let log = match &self.spec.manager {
            ManagerSpec::Process(process) => &process.log,
            ManagerSpec::Container(_) => return self.note_container(),
            ManagerSpec::Command(_) => return,
        };
        self.note_exit_unseen();
        if self.live().log_trouble.is_some_and(|at| at.elapsed() < LOG_RETRY) {
            return;
        }
        self.look_for_lack_of_memory();
        match log::rotate(log) {
            Ok(false) => {}
            Ok(true) => {
                self.live().log.rewind();
                tracing::info!(service = %self.spec.name, file = %log.file.display(), "log rotated");
            }
            Err(error) => {
                self.live().log_trouble = Some(Instant::now());
                tracing::warn!(service = %self.spec.name, file = %log.file.display(), %error, "the log can't be rotated");
            }
        }
    }
}

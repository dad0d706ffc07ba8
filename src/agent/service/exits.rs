//! How processes end: told by the kernel when the agent is their parent, noticed otherwise; and its log's upkeep.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{process::Child, sync::watch, time::Instant};

use super::{Service, log, oom, process};
use crate::{
    agent::{config::ManagerSpec, os, plan},
    host::{Instance, LastExit, MAX_FAILURE_CHARS, mask::one_line},
};

const SIGKILL: i32 = 9;
/// How often the size of the log is looked at.
const ROTATION: Duration = Duration::from_secs(5);
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
    pub fn note_exit_unseen(self: &Arc<Self>) {
        if self.watched().is_some() {
            return;
        }
        let record = match process::read_record(&self.record) {
            Ok(Some(record)) => match record.alive() {
                Some(instance) => return self.watch_end(instance),
                None => record,
            },
            Ok(None) => return,
            Err(error) => {
                tracing::error!(service = %self.spec.name, %error, "cannot read the record of the process");
                return;
            }
        };
        let told = self.live().reaping.as_ref() == Some(&record.instance);
        if !told && self.keeper.get().last_exit_of.as_ref() != Some(&record.instance) {
            self.ended(&record.instance, None);
        }
    }

    /// Tells at once of the end of a process that is no child of this agent.
    pub(super) fn watch_end(self: &Arc<Self>, instance: &Instance) {
        {
            let mut live = self.live();
            if live.reaping.as_ref() == Some(instance) || live.end_watched.as_ref() == Some(instance) {
                return;
            }
            live.end_watched = Some(instance.clone());
        }
        let (service, instance) = (Arc::clone(self), instance.clone());
        tokio::spawn(async move {
            if service.shutdown.run_until_cancelled(os::ended(&instance)).await.is_none() {
                return;
            }
            service.changes.tell();
            if matches!(service.spec.manager, ManagerSpec::Process(_)) {
                service.note_exit_unseen();
            }
        });
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
        let failure = (!requested).then(|| self.failure_of(instance, &exit));
        match &failure {
            Some(failure) if !plan::ended_cleanly(&exit) => {
                tracing::warn!(service = %self.spec.name, pid = instance.pid,
                code = exit.code, signal = exit.signal, out_of_memory = exit.out_of_memory, failure, "process ended")
            }
            _ => tracing::info!(service = %self.spec.name, pid = instance.pid, code = exit.code, signal = exit.signal,
                requested, "process ended"),
        }
        self.remember(|m| {
            m.last_exit = Some(exit.clone());
            m.last_exit_of = Some(instance.clone());
            if failure.is_some() {
                m.last_failure = failure;
            }
            if exit.out_of_memory {
                m.out_of_memory_at = Some(now);
            }
        });
        self.changes.tell();
        exit
    }

    /// How a process ended, after how long, and what it said last or who has its port.
    fn failure_of(&self, instance: &Instance, exit: &LastExit) -> String {
        if let Some(cause) = process::complaint(&self.record) {
            return one_line(&cause, MAX_FAILURE_CHARS);
        }
        let how = match exit {
            LastExit { out_of_memory: true, .. } => "killed for lack of memory".to_owned(),
            LastExit { code: Some(code), .. } => format!("exited with code {code}"),
            LastExit { signal: Some(signal), .. } => format!("killed by signal {signal}"),
            _ => "ended, and nobody told the agent how".to_owned(),
        };
        let after = os::running_seconds(instance).map(|s| format!(" after {s:.1} s")).unwrap_or_default();
        let ManagerSpec::Process(spec) = &self.spec.manager else { return how };
        let since = self.live().log_begun;
        let words = log::last_words(&spec.log.file, since);
        // What is killed seldom says why: its last line is no reason.
        let says = if exit.signal.is_some() { "; its log ends with: " } else { ": " };
        let said = words.as_ref().map(|w| format!("{says}{}", w.line)).unwrap_or_default();
        let holder = words.filter(|w| w.port_taken).and_then(|_| self.port_holder());
        let holder = holder.map(|holder| format!(" ({holder})")).unwrap_or_default();
        // Who has the port is what helps: the rest is cut first.
        let room = MAX_FAILURE_CHARS.saturating_sub(holder.chars().count());
        format!("{}{holder}", one_line(&format!("{how}{after}{said}"), room))
    }

    fn port_holder(&self) -> Option<String> {
        let check = self.spec.check.as_ref()?;
        let (address, port) = (check.local_address()?, check.port());
        Some(one_line(&format!("port {port} is held by {}", process::holder(address, port)?), MAX_FAILURE_CHARS / 2))
    }

    /// Keeps why something failed, for people.
    pub fn note_failure(&self, failure: &str) {
        let failure = one_line(failure, MAX_FAILURE_CHARS);
        self.remember(|m| m.last_failure = Some(failure));
        self.changes.tell();
    }

    /// Reads what is new in the log.
    fn look_for_lack_of_memory(&self) {
        let ManagerSpec::Process(process) = &self.spec.manager else {
            return;
        };
        if process.out_of_memory_patterns.is_empty() {
            return;
        }
        let log = &process.log;
        let (found, offset) = {
            let mut live = self.live();
            (live.log.found(&log.file, &process.out_of_memory_patterns), live.log.offset())
        };
        match found {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(service = %self.spec.name, file = %log.file.display(), "the service's log reports an out-of-memory error");
                self.remember(|m| {
                    m.out_of_memory_at = Some(Timestamp::now());
                    m.log_offset = Some(offset);
                });
            }
            Err(error) => {
                self.live().log_trouble = Some(Instant::now());
                tracing::warn!(service = %self.spec.name, file = %log.file.display(), %error, "cannot read the log");
            }
        }
    }

    /// What is due every second: starts and deaths that nobody tells of, the log's new text, its rotation.
    pub fn upkeep(self: &Arc<Self>) {
        if matches!(self.spec.manager, ManagerSpec::Container(_)) {
            self.note_container();
        } else {
            self.note_exit_unseen();
        }
        self.resume_startup();
        let ManagerSpec::Process(process) = &self.spec.manager else { return };
        let log = &process.log;
        if self.live().log_trouble.is_some_and(|at| at.elapsed() < LOG_RETRY) {
            return;
        }
        self.look_for_lack_of_memory();
        let due = {
            let mut live = self.live();
            let due = live.rotation_due.is_none_or(|at| Instant::now() >= at);
            if due {
                live.rotation_due = Some(Instant::now() + ROTATION);
            }
            due
        };
        if !due {
            return;
        }
        match log::rotate(log) {
            Ok(false) => {}
            Ok(true) => {
                self.live().log.rewind();
                tracing::info!(service = %self.spec.name, file = %log.file.display(), "log rotated");
            }
            Err(error) => {
                self.live().log_trouble = Some(Instant::now());
                tracing::warn!(service = %self.spec.name, file = %log.file.display(), %error, "cannot rotate the log");
            }
        }
    }
}

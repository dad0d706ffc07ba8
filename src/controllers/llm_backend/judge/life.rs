//! Signs of life: bytes of open calls, CPU time of the server's processes, calls that were served.

use jiff::{SignedDuration, Timestamp};

use crate::api::EngineKind;

use super::{
    super::{facts::OpenBackendCall, proof},
    BackendAssessment, JudgeInput,
};

/// A call that waits for its first byte is never taken for a sign of a hang before this.
const FIRST_BYTE_AT_LEAST: SignedDuration = SignedDuration::from_secs(30);

impl JudgeInput<'_> {
    /// Whether an open call got a byte, or a call was served, within `stallSeconds`.
    pub(super) fn bytes_flow(&self) -> bool {
        self.last_life().is_some_and(|at| self.now < at + self.stall())
    }

    /// The last byte of an open call, or the end of a served one.
    pub(super) fn last_life(&self) -> Option<Timestamp> {
        let served = self.seen.evidence.last_served_by_anyone().map(|call| call.ended_at);
        self.seen.load.last_byte_at().max(served)
    }

    /// Whether the server's processes used CPU when that was last sampled; `None` when nobody can tell.
    pub(super) fn uses_cpu(&self) -> Option<bool> {
        self.seen.uses_cpu(self.spec, self.now)
    }

    /// Whether every sample of CPU time since then showed none.
    pub(super) fn idle_since(&self, since: Timestamp) -> bool {
        let slack = SignedDuration::from_secs(5);
        self.uses_cpu() == Some(false) && self.seen.cpu.idle_since.is_some_and(|idle| idle <= since + slack)
    }

    /// Open calls that got no byte for too long, while nothing else shows life.
    pub(super) fn silent_calls(&self) -> Option<BackendAssessment> {
        let open = &self.seen.load.open;
        if open.is_empty() || self.bytes_flow() {
            return None;
        }
        let oldest = open.iter().map(|call| call.last_byte_at.unwrap_or(call.began_at)).min()?;
        if self.uses_cpu() == Some(true) {
            let silent = self.now >= oldest + self.stall();
            return silent
                .then(|| self.busy_since(oldest, "its processes use CPU, while open calls get no byte".to_owned()));
        }
        let (calls, due) = (open.len(), open.iter().filter_map(|call| self.hangs_at(call)).min()?);
        if self.now < due {
            return None;
        }
        let calls = if calls == 1 { "1 open call".to_owned() } else { format!("{calls} open calls") };
        let since = oldest.strftime("%H:%M:%S");
        Some(self.hung(format!("{calls} got no byte since {since} UTC")))
    }

    /// When the silence of this call is too long. `None`: something else explains it.
    fn hangs_at(&self, call: &OpenBackendCall) -> Option<Timestamp> {
        if let Some(at) = call.last_byte_at {
            // MLX stops generating while it reads another call's prompt, and may say nothing meanwhile.
            let reads_prompt = self.spec.engine == EngineKind::Mlx
                && self.seen.load.open.iter().any(|other| other.last_byte_at.is_none());
            return (!reads_prompt).then(|| at + self.stall());
        }
        let patience = if !proof::is_loaded(self.spec, self.seen, self.memory, call.model.as_deref()) {
            // Before that it waited behind others' work.
            let absent = call.model.as_deref().and_then(|model| self.seen.absent.since(self.engine, model));
            return Some(absent.map_or(call.began_at, |at| at.max(call.began_at)) + self.startup());
        } else if self.idle_since(call.began_at.max(self.now - self.stall().max(FIRST_BYTE_AT_LEAST))) {
            self.stall().max(FIRST_BYTE_AT_LEAST)
        } else {
            // It may wait behind somebody else's work, or read a long prompt: nobody can tell.
            self.busy_grace()
        };
        Some(call.began_at + patience)
    }
}

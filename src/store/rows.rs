//! Rows as both databases give them, and what becomes of them.

use sqlx::FromRow;

use super::stamp::Stamp;
use super::{
    Admission, BackendRow, Fence, JournalEntry, Leader, LocalObject, Observation, Pause, ResourceKey, ServerRow,
    SlotPurpose, StoreError, Suspension,
};

/// The one row of `leadership`, with the database's time.
#[derive(FromRow)]
pub(super) struct LeadershipRecord {
    pub holder: String,
    pub epoch: i64,
    pub expires_at: Stamp,
    pub now: Stamp,
}

impl LeadershipRecord {
    /// Whether `fence` is the lead, now.
    pub fn admits(&self, fence: &Fence) -> Result<(), StoreError> {
        if self.holder != fence.holder || self.epoch != fence.epoch {
            return Err(StoreError::Fenced(format!(
                "{} had the lead with epoch {}, now {} has it with epoch {}",
                fence.holder,
                fence.epoch,
                if self.holder.is_empty() { "nobody" } else { &self.holder },
                self.epoch
            )));
        }
        if self.expires_at <= self.now {
            return Err(StoreError::Fenced(format!(
                "the lead of {} with epoch {} lapsed {:.1} s ago",
                fence.holder,
                fence.epoch,
                self.expires_at.until(self.now).as_secs_f64()
            )));
        }
        Ok(())
    }

    pub fn leader(self) -> Option<Leader> {
        let expires_in = self.now.until(self.expires_at);
        (!self.holder.is_empty()).then_some(Leader { holder: self.holder, epoch: self.epoch, expires_in })
    }
}

#[derive(FromRow)]
pub(super) struct BackendRecord {
    uid: String,
    namespace: String,
    name: String,
    generation: i64,
    engine: String,
    url: String,
    server_url: String,
    priority: i32,
    spec: serde_json::Value,
    state: String,
    reason: String,
    ready: bool,
    ready_since: Option<Stamp>,
}

impl From<BackendRecord> for BackendRow {
    fn from(record: BackendRecord) -> Self {
        let BackendRecord {
            uid,
            namespace,
            name,
            generation,
            engine,
            url,
            server_url,
            priority,
            spec,
            state,
            reason,
            ready,
            ready_since,
        } = record;
        let ready_since = ready_since.map(Into::into);
        Self {
            uid,
            namespace,
            name,
            generation,
            engine,
            url,
            server_url,
            priority,
            spec,
            state,
            reason,
            ready,
            ready_since,
        }
    }
}

/// The row as the databases would give it back: they keep microseconds.
pub(super) fn in_microseconds(row: &BackendRow) -> BackendRow {
    BackendRow { ready_since: row.ready_since.map(|at| Stamp::from(at).into()), ..row.clone() }
}

#[derive(FromRow)]
pub(super) struct ObservationRecord {
    uid: String,
    probe_at: Option<Stamp>,
    probe_verdict: Option<String>,
    probe_millis: Option<i64>,
    canary_at: Option<Stamp>,
    canary_verdict: Option<String>,
    canary_millis: Option<i64>,
    served_at: Option<Stamp>,
    served_by: Option<String>,
}

impl From<ObservationRecord> for (String, Observation) {
    fn from(record: ObservationRecord) -> Self {
        let ObservationRecord {
            uid,
            probe_at,
            probe_verdict,
            probe_millis,
            canary_at,
            canary_verdict,
            canary_millis,
            served_at,
            served_by,
        } = record;
        let observation = Observation {
            probe_at: probe_at.map(Into::into),
            probe_verdict,
            probe_millis,
            canary_at: canary_at.map(Into::into),
            canary_verdict,
            canary_millis,
            served_at: served_at.map(Into::into),
            served_by,
        };
        (uid, observation)
    }
}

#[derive(FromRow)]
pub(super) struct ServerRecord {
    pub url: String,
    pub slot_limit: i32,
    pub admission: String,
    pub instance: Option<String>,
    pub calls_per_day: Option<i32>,
}

impl TryFrom<ServerRecord> for ServerRow {
    type Error = StoreError;

    fn try_from(record: ServerRecord) -> Result<Self, StoreError> {
        let ServerRecord { url, slot_limit, admission, instance, calls_per_day } = record;
        let admission = match admission.as_str() {
            "Closed" => Admission::Closed,
            "One" => Admission::One,
            "Open" => Admission::Open,
            other => return Err(StoreError::Broken(format!("server {url} has the unknown admission {other:?}"))),
        };
        Ok(Self { url, limit: slot_limit, admission, instance, calls_per_day })
    }
}

pub(super) const fn admission_word(admission: Admission) -> &'static str {
    match admission {
        Admission::Closed => "Closed",
        Admission::One => "One",
        Admission::Open => "Open",
    }
}

pub(super) const fn purpose_word(purpose: SlotPurpose) -> &'static str {
    match purpose {
        SlotPurpose::Call => "Call",
        SlotPurpose::Canary => "Canary",
    }
}

#[derive(FromRow)]
pub(super) struct JournalRecord {
    at: Stamp,
    kind: String,
    namespace: String,
    name: String,
    warning: bool,
    reason: String,
    message: String,
}

impl From<JournalRecord> for JournalEntry {
    fn from(record: JournalRecord) -> Self {
        let JournalRecord { at, kind, namespace, name, warning, reason, message } = record;
        Self { at: at.into(), about: ResourceKey { kind, namespace, name }, warning, reason, message }
    }
}

#[derive(FromRow)]
pub(super) struct LocalObjectRecord {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    generation: i64,
    resource_version: i64,
    created_at: Stamp,
    manifest: serde_json::Value,
    status: Option<serde_json::Value>,
}

impl From<LocalObjectRecord> for LocalObject {
    fn from(record: LocalObjectRecord) -> Self {
        let LocalObjectRecord {
            kind,
            namespace,
            name,
            uid,
            generation,
            resource_version,
            created_at,
            manifest,
            status,
        } = record;
        let key = ResourceKey { kind, namespace, name };
        Self { key, uid, generation, resource_version, created_at: created_at.into(), manifest, status }
    }
}

/// Most entries of the journal that one reading gives, when its filter names no number.
pub(super) const JOURNAL_LIMIT: u32 = 1_000;

pub(super) const fn journal_limit(asked: u32) -> i64 {
    if asked == 0 { JOURNAL_LIMIT as i64 } else { asked as i64 }
}

#[derive(FromRow)]
pub(super) struct PauseRecord {
    since: Stamp,
    until: Option<Stamp>,
    set_by: String,
}

impl From<PauseRecord> for Pause {
    fn from(PauseRecord { since, until, set_by }: PauseRecord) -> Self {
        Self { since: since.into(), until: until.map(Into::into), by: set_by }
    }
}

#[derive(FromRow)]
pub(super) struct SuspensionRecord {
    kind: String,
    namespace: String,
    name: String,
    suspended: bool,
    set_by: String,
    at: Stamp,
}

impl From<SuspensionRecord> for (ResourceKey, Suspension) {
    fn from(record: SuspensionRecord) -> Self {
        let SuspensionRecord { kind, namespace, name, suspended, set_by, at } = record;
        (ResourceKey { kind, namespace, name }, Suspension { suspended, by: set_by, at: at.into() })
    }
}

#[derive(FromRow)]
pub(super) struct ReconcileRecord {
    kind: String,
    namespace: String,
    name: String,
    token: String,
}

impl From<ReconcileRecord> for (ResourceKey, String) {
    fn from(ReconcileRecord { kind, namespace, name, token }: ReconcileRecord) -> Self {
        (ResourceKey { kind, namespace, name }, token)
    }
}

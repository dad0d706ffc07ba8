//! Rows as both databases give them.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::types::Json;
use sqlx::{FromRow, Row};

use super::stamp::Stamp;
use super::{
    Admission, BackendRow, DeclaredRow, Fence, JournalEntry, Leader, LocalObject, Observation, ResourceKey, ServerRow,
    SlotPurpose, StoreError, TaskCount,
};
use crate::tasks::{ClaimedTask, QueueKey, Task, TaskState, Unassigned};

/// Types of the store's interface are read as they are, each field from the column of its name. `field = "column"` names another one;
/// `field as FUNCTION` makes the field of what its column holds; `field as row` is a type that is read from the same row.
macro_rules! from_row {
    ($($type:ident { $($field:ident $(= $column:literal)? $(as $with:ident)?),* $(,)? })*) => {$(
        impl FromRow<'_, PgRow> for $type {
            fn from_row(row: &PgRow) -> sqlx::Result<Self> {
                Ok(Self { $($field: from_row!(@field row, from_row!(@column $field $($column)?) $(, $with)?)),* })
            }
        }
        impl FromRow<'_, SqliteRow> for $type {
            fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
                Ok(Self { $($field: from_row!(@field row, from_row!(@column $field $($column)?) $(, $with)?)),* })
            }
        }
    )*};
    (@column $field:ident) => { stringify!($field) };
    (@column $field:ident $column:literal) => { $column };
    (@field $row:ident, $column:expr) => { $row.try_get($column)? };
    (@field $row:ident, $column:expr, row) => { FromRow::from_row($row)? };
    (@field $row:ident, $column:expr, $with:ident) => { $with($row.try_get($column)?)? };
}

from_row! {
    BackendRow {
        uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
        ready_since as time_if,
    }
    Observation {
        probe_at as time_if, probe_verdict, probe_millis, canary_at as time_if, canary_verdict, canary_millis,
        served_at as time_if, served_by,
    }
    ServerRow { url, limit = "slot_limit", admission as admission, instance, calls_per_day }
    ResourceKey { kind, namespace, name }
    JournalEntry { at as time, about as row, warning, reason, message }
    LocalObject { key as row, uid, generation, resource_version, created_at as time, manifest, status }
    DeclaredRow { uid, kind, namespace, name, generation, labels as json, spec, suspended, held }
    QueueKey { namespace, name = "queue" }
    Unassigned { id, queue as row, domain, role, model, expert }
    TaskCount {
        namespace, queue, state as task_state, domain, role, expert as unless_empty, model as unless_empty, is_assigned,
        is_due, count,
    }
    Task {
        id, namespace, queue, domain, role, payload as json_or_default, model, priority, run_after as time_if,
        deadline as time_if, key, labels as json, state as task_state, created_at as time, state_since as time, expert,
        assignment_reason, candidates as json, assigned_model, attempts_used, free_requeues, leases_lost, cycle, epoch,
        reason, attempts as json, result as json_if,
    }
    ClaimedTask {
        id, epoch, namespace, queue, domain, role, payload as json, priority, deadline as time_if, key, labels as json,
        expert, assigned_model, attempts_used, free_requeues, cycle, attempts as json,
    }
}

fn time(at: Stamp) -> sqlx::Result<Timestamp> {
    Ok(at.into())
}

fn time_if(at: Option<Stamp>) -> sqlx::Result<Option<Timestamp>> {
    Ok(at.map(Into::into))
}

fn json<T>(document: Json<T>) -> sqlx::Result<T> {
    Ok(document.0)
}

fn json_if<T>(document: Option<Json<T>>) -> sqlx::Result<Option<T>> {
    Ok(document.map(|document| document.0))
}

/// What was not asked for is `NULL`.
fn json_or_default<T: Default>(document: Option<Json<T>>) -> sqlx::Result<T> {
    Ok(document.map(|document| document.0).unwrap_or_default())
}

fn unless_empty(text: String) -> sqlx::Result<Option<String>> {
    Ok((!text.is_empty()).then_some(text))
}

fn task_state(word: String) -> sqlx::Result<TaskState> {
    TaskState::parse(&word).ok_or_else(|| unknown("state of a task", &word))
}

fn admission(word: String) -> sqlx::Result<Admission> {
    let all = [Admission::Closed, Admission::One, Admission::Open];
    all.into_iter().find(|one| admission_word(*one) == word).ok_or_else(|| unknown("admission of a server", &word))
}

fn unknown(what: &str, word: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unknown {what}: {word:?}").into())
}

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

/// The row as the databases would give it back: they keep microseconds.
pub(super) fn in_microseconds(row: &BackendRow) -> BackendRow {
    BackendRow { ready_since: row.ready_since.map(|at| Stamp::from(at).into()), ..row.clone() }
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

pub(super) fn purpose_of(word: &str) -> Option<SlotPurpose> {
    [SlotPurpose::Call, SlotPurpose::Canary].into_iter().find(|purpose| purpose_word(*purpose) == word)
}

/// Most entries of the journal that one reading gives, when its filter names no number.
pub(super) const JOURNAL_LIMIT: u32 = 1_000;

pub(super) const fn journal_limit(asked: u32) -> i64 {
    if asked == 0 { JOURNAL_LIMIT as i64 } else { asked as i64 }
}

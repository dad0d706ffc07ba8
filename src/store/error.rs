//! The one classification of what a driver says: whether it passes, is about the data of one statement, or needs a person.

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

use super::{StoreClass, StoreError};

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let class = class_of(&error);
        let words = match &error {
            sqlx::Error::Database(refusal) => words(refusal.as_ref()),
            _ => error.to_string(),
        };
        match class {
            StoreClass::Passing => Self::Unavailable(words),
            StoreClass::Refusal => Self::Refused(words),
            StoreClass::Lost | StoreClass::Person => Self::Broken(words),
        }
    }
}

/// Every variant is named. The driver may add some: those need a person until somebody has looked at them.
fn class_of(error: &sqlx::Error) -> StoreClass {
    use sqlx::Error;
    match error {
        Error::Database(refusal) => code(&refusal.code().unwrap_or_default()),
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed
        | Error::BeginFailed
        // The connection lost its transaction; the pool closes it.
        | Error::InvalidSavePointStatement => StoreClass::Passing,
        Error::Encode(_) => StoreClass::Refusal,
        Error::Configuration(_)
        | Error::InvalidArgument(_)
        | Error::RowNotFound
        | Error::TypeNotFound { .. }
        | Error::ColumnIndexOutOfBounds { .. }
        | Error::ColumnNotFound(_)
        | Error::ColumnDecode { .. }
        | Error::Decode(_)
        | Error::AnyDriverError(_)
        | Error::Migrate(_)
        | Error::ConfigFile(_) => StoreClass::Person,
        _ => StoreClass::Person,
    }
}

/// What the database said, with its code.
fn words(refusal: &dyn DatabaseError) -> String {
    let code = refusal.code().unwrap_or_default();
    let message = refusal.message();
    let hint = match code.as_ref() {
        // Statements that a session had prepared are gone, or another session's.
        "26000" | "42P05" => {
            "; a connection pooler that shares sessions seems to be in between: connect to PostgreSQL itself, or let PgBouncer use \
             pool_mode = session"
        }
        "08P01" if message.contains("unsupported startup parameter") => {
            "; a connection pooler (PgBouncer) is in between: connect to PostgreSQL itself, or see \
             docs/databases.md"
        }
        _ => "",
    };
    format!("{message} ({}{code}){hint}", if is_sqlstate(&code) { "SQLSTATE " } else { "SQLite code " })
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5
}

/// By SQLSTATE, or by SQLite's number. A SQLite number has five digits only from 10,000 on, and there is none.
fn code(code: &str) -> StoreClass {
    if is_sqlstate(code) { sqlstate(code) } else { code.parse().map_or(StoreClass::Person, sqlite) }
}

/// PostgreSQL's appendix A, class by class.
fn sqlstate(code: &str) -> StoreClass {
    use StoreClass::{Passing, Person, Refusal};
    match (&code[..2], code) {
        // A write on a standby or in a read-only database: a failover, or maintenance.
        (_, "25006")
        // A transaction that stood open for too long, and was ended.
        | (_, "25P03" | "25P04") => Passing,
        // A plan or a prepared statement of before a migration, or of another session: the connection is closed, the next one has none.
        (_, "0A000" | "26000" | "42P05") => Passing,
        // connection; authorization (a password that is being rotated); no such database yet; rolled back; resources;
        // not in the needed state; shut down, canceled, timed out; system; old snapshot; configuration file
        ("08" | "28" | "3D" | "40" | "53" | "55" | "57" | "58" | "72" | "F0", _) => Passing,
        // triggered action; case; cardinality; data; integrity; triggered change; routine exceptions; external routines;
        // view's check; limits of the program; what PL/pgSQL raises
        ("09" | "20" | "21" | "22" | "23" | "27" | "2F" | "38" | "39" | "44" | "54" | "P0", _) => Refusal,
        // success and warnings; no data; statement not complete; features; initiator; locators; grantor; role; diagnostics;
        // XQuery; cursors; transactions; privileges; savepoints; schema; syntax, rights and names; foreign data; internal
        (
            "00" | "01" | "02" | "03" | "0A" | "0B" | "0F" | "0L" | "0P" | "0Z" | "10" | "24" | "25" | "26" | "2B"
            | "2D" | "34" | "3B" | "3F" | "42" | "HV" | "XX",
            _,
        ) => Person,
        // The standard leaves other classes to users: a trigger of somebody's own refuses this row.
        _ => Refusal,
    }
}

/// SQLite's primary result code, the low byte of the extended one.
fn sqlite(code: i32) -> StoreClass {
    use StoreClass::{Passing, Person, Refusal};
    match code & 0xff {
        // ABORT, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, SCHEMA
        4 | 5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15 | 17 => Passing,
        // TOOBIG, CONSTRAINT (also what a trigger raises), MISMATCH
        18..=20 => Refusal,
        // ERROR, INTERNAL, PERM, CORRUPT, NOTFOUND, EMPTY, MISUSE, NOLFS, AUTH, FORMAT, RANGE, NOTADB
        _ => Person,
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(inner) => inner.into(),
            MigrateError::ExecuteMigration(inner, version) => match inner.into() {
                Self::Unavailable(why) => Self::Unavailable(format!("in migration {version}: {why}")),
                other => Self::Broken(format!("migration {version}: {other}")),
            },
            MigrateError::VersionMismatch(version) => Self::Broken(format!(
                "migration {version} was applied with another content: another build of this release made the schema"
            )),
            other => Self::Broken(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_told_from_what_one_row_causes_and_what_needs_somebody() {
        for passing in [
            "08006", "57014", "57P01", "57P03", "53300", "53100", "25006", "25P03", "40P01", "28P01", "55P03", "26000",
            "0A000", "5", "261", "517", "773", "6", "7", "8", "10", "778", "3338", "13", "14", "9",
        ] {
            assert_eq!(code(passing), StoreClass::Passing, "{passing}");
        }
        for refused in [
            "22P05", "22021", "22003", "22008", "22P02", "23505", "23514", "P0001", "P0004", "44000", "54000", "27000",
            "MY001", "45000", "18", "19", "1811", "2067", "275", "20",
        ] {
            assert_eq!(code(refused), StoreClass::Refusal, "{refused}");
        }
        for person in ["42P01", "42501", "25001", "25P02", "XX001", "3F000", "1", "11", "26", "", "nonsense"] {
            assert_eq!(code(person), StoreClass::Person, "{person}");
        }
    }

    #[test]
    fn what_the_driver_says_itself_is_classed_too() {
        for (error, class) in [
            (sqlx::Error::InvalidSavePointStatement, StoreClass::Passing),
            (sqlx::Error::PoolTimedOut, StoreClass::Passing),
            (sqlx::Error::Io(std::io::Error::other("x")), StoreClass::Passing),
            (sqlx::Error::Encode("x".into()), StoreClass::Refusal),
            (sqlx::Error::RowNotFound, StoreClass::Person),
        ] {
            assert_eq!(StoreError::from(error).class(), class);
        }
    }
}

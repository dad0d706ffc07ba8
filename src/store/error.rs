//! Which failure of the driver means that the database is away, and which that something is wrong with it.

use sqlx::migrate::MigrateError;

use super::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        match &error {
            Error::Database(refusal) if refusal.code().is_some_and(|code| passes_by_itself(&code)) => {
                Self::Unavailable(error.to_string())
            }
            Error::Io(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed
            | Error::BeginFailed => Self::Unavailable(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
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

/// Whether a code of the database (SQLSTATE, or SQLite's number) tells of a state that ends without a change of ours.
///
/// SQLSTATE classes: 08 connection, 28 authorization (a password that is being rotated), 3D no such database yet, 40
/// rolled back, 53 resources, 55 not in the needed state, 57 shut down or canceled (the statement's timeout), 58 system.
/// 25006 is a write on a standby: a failover in progress.
fn passes_by_itself(code: &str) -> bool {
    if let (5, true) = (code.len(), !code.starts_with('0') || code.starts_with("08")) {
        return ["08", "28", "3D", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
            || code == "25006";
    }
    // The low byte is the primary code: BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL.
    code.parse::<i32>().is_ok_and(|number| [5, 6, 7, 8, 10, 13, 14, 15].contains(&(number & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::passes_by_itself;

    #[test]
    fn what_passes_by_itself_is_told_from_what_needs_somebody() {
        for code in
            ["08006", "57014", "57P01", "57P03", "53300", "25006", "40P01", "28P01", "5", "261", "10", "778", "13"]
        {
            assert!(passes_by_itself(code), "{code}");
        }
        for code in ["42P01", "42501", "23505", "22P05", "25001", "1", "11", "19", "26", "2067"] {
            assert!(!passes_by_itself(code), "{code}");
        }
    }
}

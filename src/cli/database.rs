//! The database of `up` and `controller`.

use std::{ffi::OsStr, sync::Arc, time::Duration};

use clap::{
    Arg, Command, Error,
    builder::{TypedValueParser, ValueParserFactory},
    error::ErrorKind,
};
use uuid::Uuid;

use super::{CliError, DataDir, Global, output::print};
use crate::store::{self, DatabaseUrl, Home, Store, sqlite::FolderAccess};

#[derive(Debug, clap::Args)]
pub struct Database {
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE; better in the environment than here, where everybody sees it
    #[arg(long, value_name = "URL", env = "OSTLER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseUrl>,
    /// The id that this installation's database must have; without it, whatever is recorded there
    #[arg(long, value_name = "UUID", env = "OSTLER_INSTALLATION")]
    installation: Option<Uuid>,
}

impl Database {
    /// Brings the schema up to date and opens it. Without a URL: SQLite in the data folder, which is locked as long as the
    /// store is open.
    pub async fn open(self, folder: Option<&DataDir>) -> Result<Arc<dyn Store>, CliError> {
        let Self { database_url, installation } = self;
        let home = match (database_url, folder) {
            (Some(url), _) => Home::Postgres(url),
            (None, Some(folder)) => Home::Folder { path: folder.path().to_owned(), hold: FolderAccess::Lock },
            (None, None) => {
                return Err(CliError::misused(
                    "no database: set OSTLER_DATABASE_URL to postgres://USER:PASSWORD@HOST:PORT/DATABASE",
                ));
            }
        };
        if matches!(home, Home::Postgres(_)) {
            store::migrate(&home, installation, false).await?;
        }
        Ok(store::open(&home, installation).await?)
    }
}

/// Reads a [`DatabaseUrl`]; in force wherever an argument has that type.
#[derive(Clone, Debug)]
pub struct DatabaseUrlParser;

impl ValueParserFactory for DatabaseUrl {
    type Parser = DatabaseUrlParser;

    fn value_parser() -> Self::Parser {
        DatabaseUrlParser
    }
}

impl TypedValueParser for DatabaseUrlParser {
    type Value = DatabaseUrl;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<DatabaseUrl, Error> {
        let refused = |why: &str| {
            let message = format!("--database-url (or OSTLER_DATABASE_URL): {why}\n");
            Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| refused("the database's URL is no UTF-8"))?;
        text.parse::<DatabaseUrl>().map_err(|error| refused(&error.to_string()))
    }
}

/// Bring the database's schema up to date, and record whose it is
///
/// `up` and `controller` do this when they start; a deployment that gives them fewer rights runs it beforehand. A data folder's
/// database is copied first, to ostler.db.before-N. A schema of a newer ostler is refused.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE; ?ostler_schema=NAME for another schema than `ostler`. Without
    /// it, the data folder's database
    #[arg(long, value_name = "URL", env = "OSTLER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseUrl>,
    /// The id of this installation; without it, the recorded id is kept, or a new one is made
    #[arg(long, value_name = "UUID", env = "OSTLER_INSTALLATION")]
    installation: Option<Uuid>,
    /// Take over a database that another installation left: record --installation in place of its id
    #[arg(long, requires = "installation")]
    adopt: bool,
    /// The database was restored from a backup: lead from now on with higher epochs than agents may have seen since. Stop every
    /// `up` and `controller` first
    #[arg(long)]
    restored: bool,
}

pub async fn migrate(args: MigrateArgs, global: &Global) -> Result<(), CliError> {
    let MigrateArgs { database_url, installation, adopt, restored } = args;
    if global.kube || global.server.is_some() {
        return Err(CliError::misused("`migrate` works on a database: name it by --database-url or --data-dir"));
    }
    let home = match database_url {
        Some(url) => Home::Postgres(url),
        None => {
            let folder = DataDir::of(global)?;
            folder.create()?;
            Home::Folder { path: folder.path().to_owned(), hold: FolderAccess::Lock }
        }
    };
    let done = store::migrate(&home, installation, adopt).await?;
    let what = match done.applied {
        0 => "the schema is up to date".to_owned(),
        1 => "1 migration applied".to_owned(),
        several => format!("{several} migrations applied"),
    };
    print(&format!("{what} · installation {} · {home}\n", done.installation))?;
    if restored { raise_epoch(&home, done.installation).await } else { Ok(()) }
}

/// More changes of leader than there can have been since any backup; agents take a jump of ten times that.
const JUMP: i64 = 100_000;

async fn raise_epoch(home: &Home, installation: Uuid) -> Result<(), CliError> {
    let store = store::open(home, Some(installation)).await?;
    let holder = format!("migrate-{}", Uuid::now_v7());
    let Some(lead) = store.campaign(&holder, Duration::from_secs(15)).await? else {
        let message = format!("a controller leads in {home}: stop every `up` and `controller`, then run this again");
        return Err(CliError::failed(message));
    };
    let lead = store.raise_epoch(&lead, JUMP).await?;
    store.resign(&lead).await?;
    print(&format!("the next leader begins above epoch {}, higher than agents have seen\n", lead.epoch))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Sample {
        #[arg(long)]
        database_url: Option<DatabaseUrl>,
    }

    #[test]
    fn a_url_that_cant_be_read_is_refused_without_being_repeated() {
        let sample = Sample::try_parse_from(["x", "--database-url", "postgres://u:hunter2@db/x"]).expect("a URL");
        assert!(sample.database_url.is_some() && !format!("{sample:?}").contains("hunter2"));
        let error = Sample::try_parse_from(["x", "--database-url", "postgres://u:hunter2@[bad/x"]).expect_err("no URL");
        let said = error.to_string();
        assert!(!said.contains("hunter2") && said.contains("postgres://USER:PASSWORD@HOST:PORT/DATABASE"), "{said}");
        assert_eq!(error.exit_code(), 2);
    }
}

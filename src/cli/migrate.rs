//! `ostler migrate`.

use uuid::Uuid;

use super::{CliError, DataDir, Global, output::print};
use crate::store::{self, DatabaseUrl, Home, sqlite::Hold};

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
}

pub async fn run(args: MigrateArgs, global: &Global) -> Result<(), CliError> {
    let MigrateArgs { database_url, installation, adopt } = args;
    if global.kube || global.server.is_some() {
        return Err(CliError::misused("`migrate` works on a database: name it by --database-url or --data-dir"));
    }
    let home = match database_url {
        Some(url) => Home::Postgres(url),
        None => {
            let folder = DataDir::of(global)?;
            folder.create()?;
            Home::Folder { path: folder.path().to_owned(), hold: Hold::Lock }
        }
    };
    let done = store::migrate(&home, installation, adopt).await?;
    let what = match done.applied {
        0 => "the schema is up to date".to_owned(),
        1 => "1 migration applied".to_owned(),
        several => format!("{several} migrations applied"),
    };
    print(&format!("{what} · installation {} · {home}\n", done.installation))
}

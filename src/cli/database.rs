//! The database of `up` and `controller`.

use std::sync::Arc;

use uuid::Uuid;

use super::{CliError, DataDir};
use crate::store::{self, DatabaseUrl, Home, Store, sqlite::Hold};

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
            (None, Some(folder)) => Home::Folder { path: folder.path().to_owned(), hold: Hold::Lock },
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

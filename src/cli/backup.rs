//! `ostler backup`.

use std::path::PathBuf;

use super::{CliError, DataDir, Global, output::print};
use crate::store::{self, DatabaseUrl};

/// Copy the data folder's database into a new file, while `up` works
///
/// The copy is whole, and readable by its owner only. With a PostgreSQL database nothing is copied: the command that does it is
/// printed.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// File to write; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE; without it, the data folder's database
    #[arg(long, value_name = "URL", env = "OSTLER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseUrl>,
}

pub async fn run(args: BackupArgs, global: &Global) -> Result<(), CliError> {
    let BackupArgs { file, database_url } = args;
    if let Some(url) = database_url {
        // The URL may hold a password: the variable is named, not its content.
        return print(&format!(
            "# {url}\npg_dump --format=custom --schema={} --file={} \"$OSTLER_DATABASE_URL\"\n",
            url.schema(),
            shell_word(&file.display().to_string())
        ));
    }
    if global.kube || global.server.is_some() {
        return Err(CliError::misused("`backup` works on a database: name it by --database-url or --data-dir"));
    }
    let folder = DataDir::of(global)?;
    let bytes = store::back_up(folder.path(), &file).await?;
    print(&format!(
        "{} KiB of data folder {} are in {}; worker.key of that folder opens its sealed Secrets: keep it too\n",
        bytes / 1024,
        folder.path().display(),
        file.display()
    ))
}

/// As a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(shell_word("/backup/ostler.dump"), "/backup/ostler.dump");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
    }
}

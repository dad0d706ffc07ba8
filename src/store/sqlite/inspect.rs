//! A look at a data folder's file, and a copy of it.

use std::{os::unix::fs::PermissionsExt, path::Path};

use jiff::Timestamp;

use super::{database_file, migrate, pool};
use crate::store::{StoreError, inspect::DatabaseFacts, schema};

pub async fn inspect(folder: &Path) -> Result<Option<DatabaseFacts>, StoreError> {
    let file = database_file(folder);
    if !file.exists() {
        return Ok(None);
    }
    let pool = pool(&file, 1, "on");
    let found = migrate::found(&pool).await?;
    let encoding: String = sqlx::query_scalar("PRAGMA encoding").fetch_one(&pool).await?;
    pool.close().await;
    Ok(Some(DatabaseFacts {
        schema: found.version,
        unfit: schema::usable(found, schema::newest(&schema::SQLITE)).err(),
        encoding,
        now: Timestamp::now(),
        oldest_transaction: 0,
        read_only: std::fs::OpenOptions::new().append(true).open(&file).is_err(),
    }))
}

pub async fn back_up(folder: &Path, to: &Path) -> Result<u64, StoreError> {
    let file = database_file(folder);
    let failed =
        |why: String| StoreError::Unavailable(format!("can't copy {} to {}: {why}", file.display(), to.display()));
    if !file.exists() {
        return Err(failed("there is no such database".to_owned()));
    }
    let Some(name) = to.to_str() else { return Err(failed("the path is no UTF-8".to_owned())) };
    let part = format!("{name}.part");
    if to.exists() {
        return Err(failed("it exists already: name another file".to_owned()));
    }
    // Made first: the copy is then readable by its owner only from its first byte on, and nobody's file is written over.
    crate::store::new_file().open(&part).map_err(|error| failed(format!("{part}: {error}")))?;
    let copied = async {
        let pool = pool(&file, 1, "off");
        sqlx::query("VACUUM INTO ?").bind(&part).execute(&pool).await?;
        pool.close().await;
        Ok::<_, StoreError>(())
    };
    let done = copied.await.map_err(|error| failed(error.to_string())).and_then(|()| {
        let finish = || {
            std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o600))?;
            std::fs::File::open(&part)?.sync_all()?;
            // A name that somebody took meanwhile stays theirs.
            std::fs::hard_link(&part, to)?;
            std::fs::metadata(to).map(|file| file.len())
        };
        finish().map_err(|error: std::io::Error| failed(error.to_string()))
    });
    let _ = std::fs::remove_file(&part);
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Journal, JournalEntry, JournalFilter, ResourceKey,
        sqlite::{FolderAccess, SqliteStore},
    };

    #[tokio::test]
    async fn a_copy_is_whole_while_the_original_is_in_use_and_replaces_nothing() {
        let root = std::env::temp_dir().join(format!("ostler-back-up-{}", uuid::Uuid::new_v4()));
        let (folder, to) = (root.join("data"), root.join("copy/ostler.db"));
        std::fs::create_dir_all(root.join("copy")).unwrap();
        assert_eq!(inspect(&folder).await.unwrap(), None);
        assert!(back_up(&folder, &to).await.unwrap_err().to_string().contains("no such database"));
        let store = SqliteStore::open(&folder, FolderAccess::Lock).await.unwrap();
        let about = ResourceKey { kind: "LLMBackend".into(), namespace: "default".into(), name: "mlx".into() };
        let (reason, message) = ("Saved".to_owned(), "a line".to_owned());
        let entry = JournalEntry { at: Timestamp::now(), about, warning: false, reason, message };
        store.append(&entry).await.unwrap();

        let facts = inspect(&folder).await.unwrap().unwrap();
        assert_eq!((facts.unfit, facts.read_only, facts.encoding.as_str()), (None, false, "UTF-8"));
        let bytes = back_up(&folder, &to).await.unwrap();
        let of = std::fs::metadata(&to).unwrap();
        assert_eq!((of.len(), of.permissions().mode() & 0o777), (bytes, 0o600));
        let again = back_up(&folder, &to).await.unwrap_err().to_string();
        assert!(again.contains("exists"), "{again}");
        assert_eq!(std::fs::read_dir(root.join("copy")).unwrap().count(), 1, "nothing half written is left");

        drop(store);
        std::fs::set_permissions(root.join("copy"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let restored = SqliteStore::open(&root.join("copy"), FolderAccess::Lock).await.unwrap();
        assert_eq!(restored.journal(&JournalFilter::default()).await.unwrap().len(), 1);
        drop(restored);
        std::fs::remove_dir_all(root).unwrap();
    }
}

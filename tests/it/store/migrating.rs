//! Schema and installation.

use ostler::store::sqlite::FolderAccess;
use ostler::store::{self, Home, Migrated, StoreError};
use sqlx::{Connection, PgConnection, SqliteConnection};
use uuid::Uuid;

use super::bench::{Bench, Scratch};
use crate::real::Postgres;

/// The database of a bench for whoever opens it as its leader does.
fn free(bench: &Bench) -> Home {
    match &bench.home {
        // The bench holds the folder's lock: a copy of the folder is free.
        Home::Folder { path, .. } => {
            let copy = path.with_file_name("copy");
            std::fs::create_dir_all(&copy).expect("make a folder");
            for file in ["ostler.db", "ostler.db-wal"] {
                std::fs::copy(path.join(file), copy.join(file)).expect("copy the database");
            }
            Home::Folder { path: copy, hold: FolderAccess::Lock }
        }
        Home::Postgres(url) => Home::Postgres(url.clone()),
    }
}

pub async fn migrating_again_changes_nothing(bench: &Bench) {
    let home = free(bench);
    let installation = bench.store.installation().await.expect("recorded");
    assert!(!installation.is_nil());
    assert_eq!(store::migrate(&home, None, false).await, Ok(Migrated { installation, applied: 0 }));
    assert_eq!(store::migrate(&home, Some(installation), false).await, Ok(Migrated { installation, applied: 0 }));
}

pub async fn another_installation_is_refused_until_adopted(bench: &Bench) {
    let home = free(bench);
    let found = bench.store.installation().await.expect("recorded");
    let expected = Uuid::from_u128(7);
    let refused = StoreError::OtherInstallation { found, expected };
    assert_eq!(store::migrate(&home, Some(expected), false).await, Err(refused.clone()));
    assert_eq!(store::open(&home, Some(expected)).await.map(|_| ()), Err(refused));
    store::open(&home, Some(found)).await.map(|_| ()).expect("it is still its own");
    let adopted = Ok(Migrated { installation: expected, applied: 0 });
    assert_eq!(store::migrate(&home, Some(expected), true).await, adopted);
    let store = store::open(&home, Some(expected)).await.expect("ours from now on");
    assert_eq!(store.installation().await, Ok(expected));
}

pub async fn a_newer_schema_is_refused(bench: &Bench) {
    let home = free(bench);
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (20990101, 'of a later release', true, 'x', 1)";
    let compatible = "INSERT INTO schema_compatibility (version, oldest_reader) VALUES (20990101, 1)";
    by_hand(&home, bench, newer).await;
    for error in [
        store::migrate(&home, None, false).await.map(|_| ()).expect_err("newer"),
        store::open(&home, None).await.map(|_| ()).expect_err("newer"),
    ] {
        assert!(matches!(error, StoreError::NewerSchema { found: 20_990_101, .. }), "{error:?}");
        assert!(error.to_string().contains("install a newer ostler"), "{error}");
    }
    by_hand(&home, bench, compatible).await;
    assert_eq!(store::migrate(&home, None, false).await.expect("it says that this release may go on").applied, 0);
    store::open(&home, None).await.map(|_| ()).expect("and so it does");
}

async fn by_hand(home: &Home, bench: &Bench, statement: &'static str) {
    match home {
        Home::Folder { path, .. } => {
            let url = format!("sqlite://{}", path.join("ostler.db").display());
            let mut connection = SqliteConnection::connect(&url).await.expect("open the file");
            sqlx::query(statement).execute(&mut connection).await.expect("insert");
            connection.close().await.expect("close");
        }
        Home::Postgres(_) => {
            let mut connection = PgConnection::connect(&bench.url).await.expect("connect");
            sqlx::raw_sql("SET search_path = ostler").execute(&mut connection).await.expect("set");
            sqlx::raw_sql(statement).execute(&mut connection).await.expect("insert");
            connection.close().await.expect("close");
        }
    }
}

#[tokio::test]
async fn a_folder_that_nobody_migrated_is_not_shared() {
    let scratch = Scratch::new();
    let home = Home::Folder { path: scratch.path().join("data"), hold: FolderAccess::Share };
    let refused = store::open(&home, None).await.map(|_| ()).expect_err("nothing is there");
    assert!(matches!(refused, StoreError::OlderSchema { found: 0, .. }), "{refused:?}");
    assert!(!scratch.path().join("data").exists(), "a command that only reads makes no folder");
}

#[tokio::test]
async fn the_folder_and_its_database_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::sqlite().await;
    let Home::Folder { path, .. } = &bench.home else { panic!("a folder") };
    for (file, mode) in [("", 0o700), ("ostler.db", 0o600), ("ostler.db-wal", 0o600), ("lock", 0o600)] {
        let found = std::fs::metadata(path.join(file)).expect(file).permissions().mode() & 0o777;
        assert_eq!(found, mode, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_of_many_that_migrate_at_once_one_does_and_all_agree_on_the_installation() {
    let url = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.expect("a database");
    let home = Home::Postgres(url.parse().expect("a URL"));
    let all: Vec<_> = (0..6)
        .map(|_| {
            let home = home.clone();
            tokio::spawn(async move { store::migrate(&home, None, false).await })
        })
        .collect();
    let mut done = Vec::new();
    for one in all {
        done.push(one.await.expect("no panic").expect("migrate"));
    }
    assert_eq!(done.iter().filter(|one| one.applied > 0).count(), 1, "{done:?}");
    assert!(done.iter().all(|one| one.installation == done[0].installation), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_two_installations_share_a_database_in_schemas_of_their_own() {
    let first = Bench::postgres().await;
    let second = Bench::at(&format!("{}&ostler_schema=team_b", first.url)).await;
    assert_ne!(first.store.installation().await, second.store.installation().await);
    let (a, b) = (first.lead("a").await, second.lead("b").await);
    assert_eq!((a.epoch, b.epoch), (1, 1), "each has its own leader");
    let unmigrated = Home::Postgres(format!("{}&ostler_schema=team_c", first.url).parse().expect("a URL"));
    let refused = store::open(&unmigrated, None).await.map(|_| ()).expect_err("nobody migrated it");
    assert!(matches!(refused, StoreError::OlderSchema { found: 0, .. }), "{refused:?}");
    assert!(refused.to_string().contains("ostler migrate"), "{refused}");
}

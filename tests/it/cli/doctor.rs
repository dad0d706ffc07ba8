//! `ostler doctor` and `backup` on a data folder, beside an `up` and without one.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use serde_json::Value;

use super::bench::Bench;

fn findings(bench: &Bench) -> (i32, Vec<Value>) {
    let said = bench.ostler(&["doctor", "-o", "json"]);
    (said.code, serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}")))
}

fn level<'a>(findings: &'a [Value], id: &str) -> Option<&'a str> {
    findings.iter().find(|finding| finding["id"] == id).and_then(|finding| finding["level"].as_str())
}

#[test]
fn a_doctor_sees_what_is_well_and_what_is_broken_and_changes_nothing() {
    let (mut bench, _) = Bench::of_quickstart();
    let (code, none) = findings(&bench);
    assert_eq!((code, level(&none, "data-folder")), (0, Some("Note")), "{none:?}");
    assert!(!bench.path("data").exists(), "it makes nothing");

    bench.up();
    bench.healthy();
    let begun = Instant::now();
    let (code, well) = findings(&bench);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(code, 0, "{well:?}");
    for id in ["database.reach", "database.schema", "server.reach", "server.leader", "agent.reach", "data-folder"] {
        assert_eq!(level(&well, id), Some("Ok"), "{id}: {well:?}");
    }
    let said = bench.ostler(&["doctor"]);
    assert!(said.out.ends_with("checks passed\n") && !said.out.contains("database.reach"), "{said:?}");

    bench.write("lost.yaml", "apiVersion: ostler.dev/v1alpha1\nkind: Expert\nmetadata: {name: lost}\nspec: {domains: [x], model: nobody-has-this}\n");
    bench.until(&["get", "exp/lost"], |said| said.code == 0 && said.out.contains("lost"));
    fs::set_permissions(bench.path("data"), fs::Permissions::from_mode(0o755)).unwrap();
    let (code, broken) = findings(&bench);
    assert_eq!(code, 3, "{broken:?}");
    assert_eq!(level(&broken, "model.alias"), Some("Error"), "{broken:?}");
    assert_eq!(level(&broken, "data-folder"), Some("Warning"), "{broken:?}");
    assert_eq!(broken[0]["level"], "Error", "worst first");
    let said = bench.ostler(&["doctor"]);
    assert!(said.code == 3 && said.out.contains("✗ model.alias: expert lost asks for"), "{said:?}");
}

#[test]
fn a_database_that_does_not_answer_is_an_error_without_its_password() {
    let bench = Bench::new();
    let mut command = bench.command(&["doctor", "-o", "json"]);
    let said = command.env("OSTLER_DATABASE_URL", "postgres://ada:hush-hush@127.0.0.1:1/ostler").output().unwrap();
    let out = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(3), "{out}");
    let all: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(level(&all, "database.reach"), Some("Error"), "{out}");
    assert!(!out.contains("hush"), "{out}");
}

#[test]
fn a_backup_is_made_beside_an_up_and_is_served_again() {
    let (mut bench, _) = Bench::of_quickstart();
    bench.up();
    bench.healthy();
    let added = bench.ostler(&["tasks", "add", "keep this", "--domain", "backend"]);
    assert_eq!(added.code, 0, "{added:?}");
    let file = bench.path("copy.db");
    let made = bench.ostler(&["backup", file.to_str().unwrap()]);
    assert!(made.code == 0 && made.out.contains("copy.db"), "{made:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = bench.ostler(&["backup", file.to_str().unwrap()]);
    assert!(again.code == 1 && again.err.contains("exists"), "{again:?}");

    let restored = bench.path("restored");
    fs::create_dir(&restored).unwrap();
    fs::set_permissions(&restored, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&file, restored.join("ostler.db")).unwrap();
    let said = bench.ostler(&["migrate", "--data-dir", restored.to_str().unwrap()]);
    assert!(said.code == 0 && said.out.contains("up to date"), "{said:?}");

    let mut command = bench.command(&["backup", "/backup/it's.dump"]);
    let said = command.env("OSTLER_DATABASE_URL", "postgres://ada:hush-hush@db/ostler").output().unwrap();
    let out = String::from_utf8(said.stdout).unwrap();
    assert!(
        out.contains("pg_dump --format=custom --schema=ostler") && out.contains(r"'/backup/it'\''s.dump'"),
        "{out}"
    );
    assert!(!out.contains("hush"), "{out}");
}

/// Agents follow no leader with a lower epoch than they have seen, and a restored database knows lower ones only.
#[test]
fn a_restored_database_leads_above_what_agents_saw() {
    let (mut bench, _) = Bench::of_quickstart();
    let copy = bench.path("copy.db");
    bench.up();
    bench.healthy();
    assert_eq!(bench.ostler(&["backup", copy.to_str().unwrap()]).code, 0);
    for _ in 0..2 {
        bench.end_up("-TERM");
        bench.up();
    }
    bench.healthy();
    for command in ["stop", "start"] {
        let seen = bench.ostler(&[command, "mlx"]);
        assert_eq!(seen.code, 0, "the agent hears of this leader: {seen:?}");
    }
    bench.end_up("-TERM");
    let file = |name: &str| bench.path("data").join(name);
    for old in ["ostler.db-wal", "ostler.db-shm"] {
        let _ = fs::remove_file(file(old));
    }
    fs::copy(&copy, file("ostler.db")).unwrap();
    bench.up();
    let refused = bench.until(&["stop", "mlx"], |said| !said.err.contains("nobody leads"));
    assert!(refused.code == 1 && refused.err.contains("epoch"), "{refused:?}");
    let early = bench.ostler(&["migrate", "--restored"]);
    assert!(early.code == 1 && early.err.contains("in use"), "the folder is that of an `up`: {early:?}");
    bench.end_up("-TERM");
    let raised = bench.ostler(&["migrate", "--restored"]);
    assert!(raised.code == 0 && raised.out.contains("the next leader begins above epoch"), "{raised:?}");
    bench.up();
    let heard = bench.until(&["stop", "mlx"], |said| !said.err.contains("nobody leads"));
    assert_eq!(heard.code, 0, "{heard:?}");
}

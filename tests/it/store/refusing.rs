//! Databases that can't be used as they are, and what they refuse.

use std::time::Duration;

use ostler::store::{self, Home, Reaped, StoreClass, StoreError};
use ostler::tasks::{Payload, TaskState};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::bench::{Bench, eventually};
use super::tasks_bench::*;
use crate::real::Postgres;

/// What PostgreSQL can't keep is kept as the same in both.
pub async fn a_nul_is_stored_as_the_replacement_character(bench: &Bench) {
    let payload = Payload {
        prompt: Some("a\0b".into()),
        data: Some(serde_json::json!({"k\0": ["\0", 1.5, {"deep": "x\0"}]})),
        ..Payload::default()
    };
    let task = ostler::tasks::NewTask {
        payload,
        key: Some("key\0".into()),
        labels: [("team".to_owned(), "b\0".to_owned())].into(),
        ..new_task()
    };
    let id = insert(bench, std::slice::from_ref(&task)).await[0];
    let again = bench.store.insert_tasks(std::slice::from_ref(&task)).await.expect("insert");
    assert_eq!((again[0].id, again[0].existed), (id, true), "the same key");
    let found = bench.store.task(id).await.expect("read").expect("it is there");
    assert_eq!(found.payload.prompt.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(found.payload.data, Some(serde_json::json!({"k\u{fffd}": ["\u{fffd}", 1.5, {"deep": "x\u{fffd}"}]})));
    assert_eq!(found.key.as_deref(), Some("key\u{fffd}"));
    let filter = store::TaskFilter {
        labels: [("team".to_owned(), "b\0".to_owned())].into(),
        key: Some("key\0".into()),
        ..store::TaskFilter::default()
    };
    assert_eq!(bench.store.count_tasks(&filter).await, Ok(1), "a filter means what is stored");
}

/// By the database's clock.
pub async fn now_is_the_databases(bench: &Bench) {
    let before = bench.store.now().await.expect("now");
    let id = insert(bench, &[new_task()]).await[0];
    let created = bench.store.task(id).await.expect("read").expect("it is there").created_at;
    let after = bench.store.now().await.expect("now");
    assert!((before..=after).contains(&created), "{before} {created} {after}");
}

async fn superuser(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("connect")
}

async fn run(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.expect(statement);
}

async fn new_database() -> String {
    tokio::task::spawn_blocking(|| Postgres::shared().database()).await.expect("a database")
}

fn home(url: &str) -> Home {
    Home::Postgres(url.parse().expect("a URL"))
}

fn unique(what: &str) -> String {
    format!("{what}_{}", uuid::Uuid::new_v4().simple())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_database_with_another_encoding_is_refused_with_the_mend() {
    let url = new_database().await;
    let mut admin = superuser(&url).await;
    let name = unique("latin");
    run(
        &mut admin,
        &format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
    )
    .await;
    let (server, _) = url.rsplit_once('/').expect("a database in it");
    let latin = format!("{server}/{name}?sslmode=disable");
    for error in [
        store::migrate(&home(&latin), None, false).await.expect_err("refused"),
        store::open(&home(&latin), None).await.map(drop).expect_err("refused"),
    ] {
        assert!(matches!(error, StoreError::Unfit(_)), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("LATIN1") && said.contains("ENCODING 'UTF8'"), "{said}");
    }
}

/// A pooler that passes everything on but the startup parameter `options`, as PgBouncer does with `ignore_startup_parameters`.
async fn pooler(url: &str) -> String {
    let (credentials, rest) = url.split_once('@').expect("a user");
    let (address, database) = rest.split_once('/').expect("a database");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let address = address.to_owned();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let address = address.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(address).await.expect("connect to the database");
                let startup = startup_without_options(&mut near).await;
                far.write_all(&startup).await.expect("pass on");
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    format!("{credentials}@127.0.0.1:{port}/{database}")
}

async fn startup_without_options(near: &mut TcpStream) -> Vec<u8> {
    let length = near.read_u32().await.expect("a startup message") as usize;
    let mut body = vec![0; length - 4];
    near.read_exact(&mut body).await.expect("a startup message");
    let (version, parameters) = body.split_at(4);
    let words: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
    let mut kept = version.to_vec();
    for pair in words.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty() && pair[0] != b"options") {
        for word in pair {
            kept.extend_from_slice(word);
            kept.push(0);
        }
    }
    kept.push(0);
    let mut message = u32::try_from(kept.len() + 4).expect("short").to_be_bytes().to_vec();
    message.extend(kept);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_pooler_that_drops_settings_is_refused_until_the_role_brings_them() {
    let url = new_database().await;
    let mut admin = superuser(&url).await;
    let role = unique("pooled");
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut admin).await.expect("a name");
    run(&mut admin, &format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}")).await;
    let pooled = pooler(&url.replace("//ostler@", &format!("//{role}@"))).await;
    let error = store::migrate(&home(&pooled), None, false).await.expect_err("refused");
    assert!(matches!(error, StoreError::Unfit(_)), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("PgBouncer") && said.contains("(search_path)"), "{said}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&mut admin)
        .await
        .expect("count");
    assert_eq!(tables, 0, "nothing is made where it does not belong");

    let alter = format!("ALTER ROLE {role} IN DATABASE {database} SET");
    run(&mut admin, &format!("{alter} search_path = ostler")).await;
    store::migrate(&home(&pooled), None, false).await.expect("the schema is the right one");
    let error = store::open(&home(&pooled), None).await.map(drop).expect_err("its statements have no bound");
    assert!(error.to_string().contains("statement_timeout"), "{error}");
    for setting in [
        "statement_timeout = '4s'",
        "idle_in_transaction_session_timeout = '4s'",
        "plan_cache_mode = force_generic_plan",
        "jit = off",
    ] {
        run(&mut admin, &format!("{alter} {setting}")).await;
    }
    let store = store::open(&home(&pooled), None).await.expect("as good as without it");
    store.now().await.expect("it works");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_database_out_of_connections_says_so_and_few_are_shared() {
    let url = new_database().await;
    let mut admin = superuser(&url).await;
    let role = unique("few");
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut admin).await.expect("a name");
    run(
        &mut admin,
        &format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 2; GRANT CREATE ON DATABASE {database} TO {role}"),
    )
    .await;
    let mine = url.replace("//ostler@", &format!("//{role}@"));
    store::migrate(&home(&mine), None, false).await.expect("two suffice");
    let store = store::open(&home(&mine), None).await.expect("two suffice");
    let asked: Vec<_> = (0..40)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.declared("Expert").await })
        })
        .collect();
    for one in asked {
        assert_eq!(one.await.expect("no panic"), Ok(Vec::new()), "whoever waits takes what is given back");
    }
    drop(store);
    let mut taken = Vec::new();
    eventually("both connections to be somebody else's", async || {
        match PgConnection::connect(&mine).await {
            Ok(connection) => taken.push(connection),
            Err(error) if taken.len() == 2 => assert!(error.to_string().contains("too many connections"), "{error}"),
            Err(_) => {}
        }
        taken.len() == 2
    })
    .await;
    let error = store::open(&home(&mine), None).await.map(drop).expect_err("no connection is left");
    assert_eq!(error.class(), StoreClass::Passing);
    assert!(error.to_string().contains("too many connections for role"), "{error}");
    taken.clear();
    eventually("it works again", async || store::open(&home(&mine), None).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_what_a_trigger_refuses_is_told_from_a_database_that_is_away() {
    let bench = Bench::postgres().await;
    bench
        .by_hand(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'not in this house' USING ERRCODE = 'MY001'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.domain = 'secret') EXECUTE FUNCTION refuse()",
        )
        .await;
    let secret = ostler::tasks::NewTask { domain: "secret".into(), ..new_task() };
    let refused = bench.store.insert_tasks(&[new_task(), secret]).await.expect_err("refused");
    assert!(matches!(&refused, StoreError::Refused(why) if why.contains("not in this house")), "{refused:?}");
    assert_eq!(insert(&bench, &[new_task()]).await.len(), 1, "others go on");
    let counts = bench.store.queue_counts().await.expect("count");
    assert_eq!(counts.iter().map(|queue| queue.pending).sum::<i64>(), 1, "all or none");
}

/// In both databases a trigger is told by which tasks it refuses, and in which updates.
async fn refuse(bench: &Bench, update: &'static str) {
    if bench.url.is_empty() {
        bench.by_hand(update).await;
        return;
    }
    bench
        .by_hand(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'not in this house' USING ERRCODE = 'MY001'; END $$",
        )
        .await;
    bench.by_hand(update).await;
}

/// One task that the database does not let anybody claim holds up no other one, and ends at a human.
pub async fn a_claim_that_a_trigger_refuses_is_singled_out(bench: &Bench) {
    let fence = shop(bench, 9).await;
    let sqlite = bench.url.is_empty();
    refuse(
        bench,
        if sqlite {
            "CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN new.state = 'in_progress' AND new.domain = 'secret'
             BEGIN SELECT raise(ABORT, 'not in this house'); END"
        } else {
            "CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.state = 'in_progress' AND NEW.domain = 'secret')
             EXECUTE FUNCTION refuse()"
        },
    )
    .await;
    let secret = ostler::tasks::NewTask { domain: "secret".into(), ..new_task() };
    let tasks = [new_task(), secret.clone(), new_task(), secret.clone(), new_task()];
    let lease = lease(&bench.store, "worker").await;
    for expert in ["hook", "igor"] {
        let ids = give(bench, &fence, expert, &tasks).await;
        let claimed = if expert == "hook" {
            super::tasks_bench::ids(&claim_hooks(&bench.store, &lease, 9).await)
        } else {
            given_ids(&claim_slots(bench, &slot_claim(&lease, 9)).await)
        };
        assert_eq!(claimed, [ids[0], ids[2], ids[4]], "{expert}: others go on");
        for refused in [ids[1], ids[3]] {
            let task = task(bench, refused).await;
            assert_eq!((task.state, task.attempts_used), (TaskState::DeferredToHuman, 1), "{task:?}");
            let why = task.reason.expect("a reason");
            assert!(why.contains("refuses its claim") && why.contains("not in this house"), "{why}");
            assert_eq!(task.attempts.len(), 1);
        }
    }
    let ids = give(bench, &fence, "igor", &[secret, new_task()]).await;
    let (slot, _) =
        bench.store.claim_slots(&slot_claim(&lease, 1)).await.expect("claim").given.pop().expect("the second");
    assert_eq!(state(bench, ids[1]).await, TaskState::InProgress);
    let next =
        bench.store.claim_next(&slot, &slot_claim(&lease, 1), Default::default()).await.expect("nothing is refused");
    assert_eq!(next, None);
}

/// Where not even that may be written, the task stays as it is, and others go on.
pub async fn a_task_that_may_not_be_changed_at_all_is_stepped_over(bench: &Bench) {
    let fence = shop(bench, 9).await;
    let secret = ostler::tasks::NewTask { domain: "secret".into(), ..new_task() };
    let ids = give(bench, &fence, "hook", &[secret, new_task(), new_task()]).await;
    refuse(
        bench,
        if bench.url.is_empty() {
            "CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN new.domain = 'secret'
             BEGIN SELECT raise(ABORT, 'not in this house'); END"
        } else {
            "CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.domain = 'secret') EXECUTE FUNCTION refuse()"
        },
    )
    .await;
    let lease = lease(&bench.store, "worker").await;
    for wanted in [ids[1], ids[2]] {
        assert_eq!(super::tasks_bench::ids(&claim_hooks(&bench.store, &lease, 1).await), [wanted]);
    }
    assert_eq!(claim_hooks(&bench.store, &lease, 1).await, []);
    assert_eq!(state(bench, ids[0]).await, TaskState::Pending);
}

/// One task whose assignment the database refuses keeps no other one from being assigned.
pub async fn an_assignment_that_a_trigger_refuses_holds_up_no_other(bench: &Bench) {
    let fence = shop(bench, 9).await;
    refuse(
        bench,
        if bench.url.is_empty() {
            "CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN new.domain = 'secret'
             BEGIN SELECT raise(ABORT, 'not in this house'); END"
        } else {
            "CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.domain = 'secret') EXECUTE FUNCTION refuse()"
        },
    )
    .await;
    let secret = ostler::tasks::NewTask { domain: "secret".into(), ..new_task() };
    let tasks = [new_task(), secret.clone(), new_task(), new_task(), secret, new_task()];
    let ids = insert(bench, &tasks).await;
    let assignments: Vec<_> = ids.iter().map(|id| assignment(*id, "hook", None)).collect();
    ostler::store::rounds::write_assignments(&*bench.store, &fence, &assignments)
        .await
        .expect("the others are assigned");
    let lease = lease(&bench.store, "worker").await;
    let claimed = super::tasks_bench::ids(&claim_hooks(&bench.store, &lease, 9).await);
    assert_eq!(claimed, [ids[0], ids[2], ids[3], ids[5]]);
    assert_eq!(state(bench, ids[1]).await, TaskState::Pending);
}

/// One task that the database does not let anybody take back from a lost worker, or fail past its deadline, keeps no other one.
pub async fn a_lost_task_that_a_trigger_refuses_holds_up_no_other(bench: &Bench) {
    let fence = shop(bench, 9).await;
    let secret = ostler::tasks::NewTask { domain: "secret".into(), ..new_task() };
    let ids = give(bench, &fence, "hook", &[new_task(), secret, new_task()]).await;
    let lost = lease(&bench.store, "worker").await;
    assert_eq!(claim_hooks(&bench.store, &lost, 9).await.len(), 3);
    let trigger = if bench.url.is_empty() {
        "CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN new.domain = 'secret'
         BEGIN SELECT raise(ABORT, 'not in this house'); END"
    } else {
        "CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.domain = 'secret') EXECUTE FUNCTION refuse()"
    };
    refuse(bench, trigger).await;
    assert_eq!(bench.store.renew_leases(&[(lost.clone(), Duration::ZERO)]).await, Ok(vec![]));
    let requeued = |requeued, leases| Ok(Reaped { requeued, leases, ..Reaped::default() });
    assert_eq!(bench.store.reap(&fence).await, requeued(2, 0), "the lease stays with the one that is refused");
    assert_eq!(state(bench, ids[0]).await, TaskState::Pending);
    assert_eq!(state(bench, ids[1]).await, TaskState::InProgress);
    assert_eq!(bench.store.reap(&fence).await, requeued(0, 0));
    bench.by_hand(if bench.url.is_empty() { "DROP TRIGGER refuse" } else { "DROP TRIGGER refuse ON tasks" }).await;
    assert_eq!(bench.store.reap(&fence).await, requeued(1, 1));
    assert_eq!(state(bench, ids[1]).await, TaskState::Pending);
}

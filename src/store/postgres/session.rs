//! Whether a connection is what was asked for. A connection pooler in between may drop its settings or share its session with others;
//! then rows of another schema are read, and statements go on without their bounds.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::DatabaseUrl;
use crate::store::StoreError;

/// For a second connection, when a session is tried.
const PATIENCE: Duration = Duration::from_secs(2);
/// With fewer, the connections of one process wait for one another.
const FEW: i32 = 10;

/// What a connection says about itself.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
struct Seen {
    encoding: String,
    search_path: String,
    statement_timeout: i64,
    idle_timeout: i64,
    plan_cache_mode: String,
    jit: String,
    role: String,
    database: String,
}

const SEEN: &str = "SELECT current_setting('server_encoding') AS encoding, current_setting('search_path') AS search_path,
    (extract(epoch FROM current_setting('statement_timeout')::interval) * 1000)::bigint AS statement_timeout,
    (extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval) * 1000)::bigint AS idle_timeout,
    current_setting('plan_cache_mode') AS plan_cache_mode, current_setting('jit') AS jit, current_user::text AS role,
    current_database()::text AS database";

/// Checks the encoding, and the settings that were asked for in `url`. `patience` as they were asked for; `None`: only the schema
/// matters.
///
/// # Errors
/// [`StoreError::Unfit`], with what to do.
pub(super) async fn check(
    connection: &mut PgConnection,
    url: &DatabaseUrl,
    patience: Option<Duration>,
) -> Result<(), StoreError> {
    // Not prepared: a pooler could give the answer to somebody else.
    let seen: Seen = sqlx::query_as(SEEN).persistent(false).fetch_one(connection).await?;
    judge(&seen, &url.place(), url.schema(), patience).map_err(StoreError::Unfit)
}

fn judge(seen: &Seen, place: &str, schema: &str, patience: Option<Duration>) -> Result<(), String> {
    let Seen { encoding, search_path, statement_timeout, idle_timeout, plan_cache_mode, jit, role, database } = seen;
    if encoding != "UTF8" {
        return Err(format!(
            "the database {database:?} of {place} has the encoding {encoding}, which can't keep every character that a model writes: make one \
             with `CREATE DATABASE {database} ENCODING 'UTF8' TEMPLATE template0`, or name another one"
        ));
    }
    let mut lost = Vec::new();
    let mut expect = |name: &str, is: bool| {
        if !is {
            lost.push(name.to_owned());
        }
    };
    expect("search_path", search_path.trim_matches('"') == schema);
    if let Some(patience) = patience {
        let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        expect("statement_timeout", *statement_timeout == millis);
        expect("idle_in_transaction_session_timeout", *idle_timeout == millis);
        expect("plan_cache_mode", plan_cache_mode == "force_generic_plan");
        expect("jit", jit == "off");
    }
    if lost.is_empty() {
        return Ok(());
    }
    let millis = patience.unwrap_or(super::PATIENCE).as_millis();
    Err(format!(
        "{place} did not get the settings of this connection ({}): a connection pooler such as PgBouncer is in between, with \
         ignore_startup_parameters = options. Connect to PostgreSQL itself; or let the pooler keep sessions (pool_mode = session) and give \
         the settings to the role: ALTER ROLE \"{role}\" IN DATABASE \"{database}\" SET search_path = {schema}; … SET statement_timeout = {millis}; \
         … SET idle_in_transaction_session_timeout = {millis}; … SET plan_cache_mode = force_generic_plan; … SET jit = off \
         (docs/databases.md)",
        lost.join(", ")
    ))
}

/// Whether what one connection sets is there for it alone, and there the next time. In front of a pooler that gives a session to
/// whoever asks next it is not: leases, prepared statements and notifications don't work there.
///
/// # Errors
/// [`StoreError::Unfit`], with what to do.
pub(super) async fn check_own(first: &mut PgConnection, url: &DatabaseUrl) -> Result<(), StoreError> {
    let second = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&url.options(None))).await;
    // Too few connections to try it.
    let Ok(Ok(mut second)) = second else { return Ok(()) };
    let mark = Uuid::new_v4().simple().to_string();
    let shared = is_shared(first, &mut second, &mark).await;
    let _ = second.close().await;
    match shared {
        Ok(false) => Ok(()),
        Ok(true) => Err(StoreError::Unfit(format!(
            "{} shares sessions: a connection pooler such as PgBouncer is in between, with pool_mode = transaction or statement. Connect to \
             PostgreSQL itself, or let the pooler keep sessions (pool_mode = session; docs/databases.md)",
            url.place()
        ))),
        Err(error) => Err(error.into()),
    }
}

async fn is_shared(first: &mut PgConnection, second: &mut PgConnection, mark: &str) -> Result<bool, sqlx::Error> {
    // The simple protocol, which every pooler passes on.
    let set = format!("SET ostler.session = '{mark}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut *first).await?;
    let read = "SELECT coalesce(current_setting('ostler.session', true), '') AS mark";
    // It holds its session, so that the first one would get another.
    sqlx::raw_sql("BEGIN").execute(&mut *second).await?;
    let of_second: String = sqlx::Row::try_get(&sqlx::raw_sql(read).fetch_one(&mut *second).await?, 0)?;
    let of_first: String = sqlx::Row::try_get(&sqlx::raw_sql(read).fetch_one(&mut *first).await?, 0)?;
    sqlx::raw_sql("ROLLBACK").execute(&mut *second).await?;
    sqlx::raw_sql("RESET ostler.session").execute(&mut *first).await?;
    Ok(of_second == mark || of_first != mark)
}

/// Says so where the role may have so few connections that processes wait for each other.
pub(super) async fn warn_of_few_connections(connection: &mut PgConnection, url: &DatabaseUrl) {
    let limit: Result<(i32, String), sqlx::Error> =
        sqlx::query_as("SELECT rolconnlimit, rolname::text FROM pg_roles WHERE rolname = current_user")
            .fetch_one(connection)
            .await;
    if let Ok((limit @ 0..FEW, role)) = limit {
        tracing::warn!(
            database = %url.place(),
            role,
            limit,
            "the role has a CONNECTION LIMIT below the {FEW} connections that one process uses; work will be slow"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: Option<Duration> = Some(Duration::from_secs(4));

    fn seen() -> Seen {
        Seen {
            encoding: "UTF8".into(),
            search_path: "ostler".into(),
            statement_timeout: 4_000,
            idle_timeout: 4_000,
            plan_cache_mode: "force_generic_plan".into(),
            jit: "off".into(),
            role: "u".into(),
            database: "d".into(),
        }
    }

    #[test]
    fn what_was_not_asked_for_is_refused_with_the_mend() {
        let judged = |seen: Seen, patience| judge(&seen, "PostgreSQL at h:5432", "ostler", patience);
        assert_eq!(judged(seen(), FOUR), Ok(()));
        assert_eq!(judged(Seen { search_path: "\"ostler\"".into(), ..seen() }, FOUR), Ok(()));
        assert_eq!(judged(Seen { statement_timeout: 0, ..seen() }, None), Ok(()), "a migration has none");
        for (seen, word) in [
            (Seen { search_path: "\"$user\", public".into(), ..seen() }, "(search_path)"),
            (Seen { statement_timeout: 0, idle_timeout: 0, ..seen() }, "(statement_timeout, idle_in_transaction"),
            (Seen { jit: "on".into(), ..seen() }, "(jit)"),
        ] {
            let why = judged(seen, FOUR).unwrap_err();
            assert!(why.contains(word) && why.contains("PgBouncer") && why.contains("ALTER ROLE \"u\""), "{why}");
        }
        let why = judged(Seen { encoding: "LATIN1".into(), ..seen() }, FOUR).unwrap_err();
        assert!(why.contains("LATIN1") && why.contains("CREATE DATABASE d ENCODING 'UTF8'"), "{why}");
    }
}

//! The real parts themselves: what other tests take for granted of them.

use crate::real::Postgres;
use sqlx::Connection;

async fn ask(url: &str) -> Result<i32, sqlx::Error> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    sqlx::query_scalar("select 1").fetch_one(&mut connection).await
}

#[tokio::test]
async fn real_postgres_goes_away_and_comes_back_with_its_data() {
    let server = Postgres::start();
    let url = server.database();
    assert_eq!(ask(&url).await.expect("a new database answers"), 1);
    server.kill();
    ask(&url).await.expect_err("a killed server does not answer");
    server.resume();
    assert_eq!(ask(&url).await.expect("the database is still there"), 1);
    server.restart();
    assert_eq!(ask(&url).await.expect("and after an orderly restart"), 1);
}

#[tokio::test]
async fn real_postgres_gives_every_test_a_database_of_its_own() {
    let (one, other) = (Postgres::shared().database(), Postgres::shared().database());
    assert_ne!(one, other);
    let mut connection = sqlx::PgConnection::connect(&one).await.expect("connect");
    sqlx::query("create table mine (id int)").execute(&mut connection).await.expect("create a table");
    let mut connection = sqlx::PgConnection::connect(&other).await.expect("connect");
    sqlx::query("select * from mine").execute(&mut connection).await.expect_err("the other one does not have it");
}

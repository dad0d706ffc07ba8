//! The database's URL: with a password in it that nobody gets to see.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

const SCHEMA_PARAMETER: &str = "ostler_schema";
const DEFAULT_SCHEMA: &str = "ostler";
const NO_PLAIN_NAME: &str = "names an ostler_schema that is no plain name: a-z, 0-9 and _, at most 63";

/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, as libpq reads it, with the parameter `ostler_schema` of our own.
#[derive(Clone)]
pub struct DatabaseUrl {
    options: Box<PgConnectOptions>,
    schema: String,
}

impl DatabaseUrl {
    /// The same database, another schema.
    ///
    /// # Errors
    /// When it is no plain name.
    pub fn with_schema(&self, name: &str) -> Result<Self, BadDatabaseUrl> {
        if !is_plain_name(name) {
            return Err(BadDatabaseUrl(NO_PLAIN_NAME));
        }
        Ok(Self { options: self.options.clone(), schema: name.to_owned() })
    }

    /// The schema that holds everything.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Host, port and database, for messages.
    pub(super) fn place(&self) -> String {
        let host = match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.options.get_host().to_owned(),
        };
        format!("PostgreSQL at {host}:{}", self.options.get_port())
    }

    /// What connections are made with. A statement that takes longer than `patience` is ended by the server; so is a
    /// transaction that was left open.
    pub(super) fn options(&self, patience: Option<Duration>) -> PgConnectOptions {
        let millis = patience.unwrap_or_default().as_millis().to_string();
        (*self.options).clone().application_name("ostler").options([
            ("search_path", self.schema.as_str()),
            ("statement_timeout", &millis),
            ("idle_in_transaction_session_timeout", &millis),
            // Statements are short, and the same for any arguments: planned once, and not compiled.
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
        ])
    }
}

/// What is wrong with a database's URL. It never repeats the URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database's URL {0}")]
pub struct BadDatabaseUrl(&'static str);

impl FromStr for DatabaseUrl {
    type Err = BadDatabaseUrl;

    fn from_str(url: &str) -> Result<Self, BadDatabaseUrl> {
        let refused = BadDatabaseUrl;
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(refused("does not begin with postgres://"));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut schema = DEFAULT_SCHEMA;
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((SCHEMA_PARAMETER, name)) => schema = name,
                _ => rest.push(pair),
            }
        }
        if !is_plain_name(schema) {
            return Err(refused(NO_PLAIN_NAME));
        }
        // The parser's own error could repeat the password.
        let options = format!("{base}?{}", rest.join("&")).parse().map_err(|_| {
            refused("can't be read: postgres://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %XX")
        })?;
        Ok(Self { options: Box::new(options), schema: schema.to_owned() })
    }
}

impl fmt::Display for DatabaseUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.options.get_database().unwrap_or_default();
        write!(f, "{}, database {database}, schema {}", self.place(), self.schema)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_taken_from_the_url_and_the_rest_is_left_to_the_driver() {
        for (url, schema, database) in [
            ("postgres://u:p@db:5433/tasks", "ostler", "tasks"),
            ("postgresql://u@db/x?sslmode=disable&ostler_schema=team_b", "team_b", "x"),
            ("postgres://u@db/x?ostler_schema=a1", "a1", "x"),
        ] {
            let parsed: DatabaseUrl = url.parse().expect(url);
            assert_eq!((parsed.schema(), parsed.options.get_database()), (schema, Some(database)), "{url}");
        }
    }

    #[test]
    fn no_message_and_no_debug_output_has_the_password() {
        let parsed: DatabaseUrl = "postgres://u:hunter2@db/x".parse().expect("a URL");
        assert!(!format!("{parsed:?} {parsed}").contains("hunter2"));
        for bad in [
            "mysql://u:hunter2@db/x",
            "postgres://u:hunter2@db:notaport/x",
            "postgres://u:hunter2@db/x?sslmode=hunter2",
            "postgres://u:hunter2@db/x?ostler_schema=a;drop",
            "postgres://u:hunter2@db/x?ostler_schema=",
            "postgres://u:hunter2@db/x?ostler_schema=1a",
        ] {
            let error = bad.parse::<DatabaseUrl>().expect_err(bad);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}

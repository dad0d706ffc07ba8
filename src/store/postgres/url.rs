//! The database's URL: with a password in it that nobody gets to see.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

const SCHEMA_PARAMETER: &str = "ostler_schema";
const DEFAULT_SCHEMA: &str = "ostler";
/// What the driver reads, but for `options`, which are ours.
const PARAMETERS: [&str; 15] = [
    SCHEMA_PARAMETER,
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "ssl-mode",
    "ssl-root-cert",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
];
const SECRET_PARAMETER: &str = "password";
const NO_PLAIN_NAME: &str = "names an ostler_schema that is no plain name: a-z, 0-9 and _, at most 63";

const UNKNOWN_PARAMETER: &str = "has a parameter that is not known: there are ostler_schema, sslmode, sslrootcert, sslcert, sslkey, \
    host, hostaddr, port, dbname, user and password (a ? or & in a password is written as %3F or %26)";

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
            None if self.options.get_host().contains(':') => format!("[{}]", self.options.get_host()),
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
                Some((name, _)) if PARAMETERS.contains(&name) || name == SECRET_PARAMETER => rest.push(pair),
                // It is not repeated: it may be a part of a password.
                _ => return Err(BadDatabaseUrl(UNKNOWN_PARAMETER)),
            }
        }
        if !is_plain_name(schema) {
            return Err(refused(NO_PLAIN_NAME));
        }
        // The parser's own error could repeat the password.
        let options: PgConnectOptions = format!("{base}?{}", rest.join("&")).parse().map_err(|_| {
            refused("can't be read: postgres://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %XX")
        })?;
        let host = options.get_host().to_owned();
        if host.contains(',') {
            return Err(refused(
                "names several hosts: name one, which may be a name or an address that moves with the primary",
            ));
        }
        // Brackets belong to the URL, not to the address.
        let options = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => options.host(address),
            None => options,
        };
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
    fn an_ipv6_address_is_a_host() {
        for (url, host, place) in [
            ("postgres://u:p@[::1]:5433/x", "::1", "PostgreSQL at [::1]:5433"),
            ("postgres://u:p@[fe80::1]/x?sslmode=disable", "fe80::1", "PostgreSQL at [fe80::1]:5432"),
            ("postgres://u@db/x?host=[2001:db8::7]&port=6000", "2001:db8::7", "PostgreSQL at [2001:db8::7]:6000"),
            ("postgres://u@db.example/x", "db.example", "PostgreSQL at db.example:5432"),
        ] {
            let parsed: DatabaseUrl = url.parse().expect(url);
            assert_eq!((parsed.options.get_host(), parsed.place().as_str()), (host, place), "{url}");
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for bad in [
            "postgres://u@db/x?ostler_Schema=x",
            "postgres://u@db/x?connect_timeout=5",
            "postgres://u@db/x?options=-c%20search_path%3Dpublic",
            "postgres://u@db/x?application_name=x",
            "postgres://u@db/x?sslmode",
            "postgres://u@db/x?hunter2=1",
        ] {
            let error = bad.parse::<DatabaseUrl>().expect_err(bad).to_string();
            assert!(error.contains("there are ostler_schema, sslmode") && !error.contains("hunter2"), "{bad}: {error}");
        }
        assert!("postgres://u@a,b/x".parse::<DatabaseUrl>().is_err_and(|e| e.to_string().contains("several hosts")));
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

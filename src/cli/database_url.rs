//! `--database-url` on the command line: an error must not repeat what may hold a password, as clap's own would.

use std::ffi::OsStr;

use clap::builder::{TypedValueParser, ValueParserFactory};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

use crate::store::DatabaseUrl;

/// Reads a [`DatabaseUrl`]; in force wherever an argument has that type.
#[derive(Clone, Debug)]
pub struct DatabaseUrlParser;

impl ValueParserFactory for DatabaseUrl {
    type Parser = DatabaseUrlParser;

    fn value_parser() -> Self::Parser {
        DatabaseUrlParser
    }
}

impl TypedValueParser for DatabaseUrlParser {
    type Value = DatabaseUrl;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<DatabaseUrl, Error> {
        let refused = |why: &str| {
            let message = format!("--database-url (or OSTLER_DATABASE_URL): {why}\n");
            Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| refused("the database's URL is no UTF-8"))?;
        text.parse::<DatabaseUrl>().map_err(|error| refused(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Sample {
        #[arg(long)]
        database_url: Option<DatabaseUrl>,
    }

    #[test]
    fn a_url_that_cant_be_read_is_refused_without_being_repeated() {
        let sample = Sample::try_parse_from(["x", "--database-url", "postgres://u:hunter2@db/x"]).expect("a URL");
        assert!(sample.database_url.is_some() && !format!("{sample:?}").contains("hunter2"));
        let error = Sample::try_parse_from(["x", "--database-url", "postgres://u:hunter2@[bad/x"]).expect_err("no URL");
        let said = error.to_string();
        assert!(!said.contains("hunter2") && said.contains("postgres://USER:PASSWORD@HOST:PORT/DATABASE"), "{said}");
        assert_eq!(error.exit_code(), 2);
    }
}

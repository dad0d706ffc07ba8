//! What people and programs read: tables, JSON, YAML.

mod resources;
mod screen;
mod table;

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::CliError;

pub use resources::resource_table;
pub use screen::{problem_line, screen};
pub use table::Table;

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Json,
    Yaml,
    /// A table with more columns
    Wide,
}

/// How much a terminal takes: colors, and a width at which text is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
    /// `None`: as wide as it gets.
    pub width: Option<usize>,
}

impl Style {
    /// Of standard output: plain when it is no terminal; <https://no-color.org> is honored.
    pub fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::default();
        }
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        Self { color: !no_color, width: width.filter(|w| *w > 0) }
    }
}

/// Writes a value for programs; `false` when `format` asks for a table.
pub fn print_value(format: Option<Format>, value: &impl Serialize) -> Result<bool, CliError> {
    let text = match format {
        Some(Format::Json) => serde_json::to_string_pretty(value).map_err(CliError::failed)? + "\n",
        Some(Format::Yaml) => serde_saphyr::to_string(value).map_err(CliError::failed)?,
        Some(Format::Wide) | None => return Ok(false),
    };
    print(&text)?;
    Ok(true)
}

/// Writes to standard output. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), CliError> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("can't write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

//! What people and programs read: tables, JSON, YAML.

mod resources;
mod screen;
mod table;

use std::{
    io::{IsTerminal, Write},
    os::fd::AsFd,
    time::Duration,
};

use clap::ValueEnum;
use serde::Serialize;

use super::CliError;
use crate::base::escape;

pub use resources::resource_table;
pub use screen::{problem_line, screen};
pub use table::Table;

/// How often whoever follows something looks whether anybody reads it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

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
        Some(Format::Json) => json(value)?,
        Some(Format::Yaml) => yaml(value)?,
        Some(Format::Wide) | None => return Ok(false),
    };
    print_ready(&text)?;
    Ok(true)
}

/// Indented, and safe to show.
fn json(value: &impl Serialize) -> Result<String, CliError> {
    Ok(escape::for_json(serde_json::to_string_pretty(value).map_err(CliError::failed)?) + "\n")
}

/// A document that is safe to show: one that holds what could steer a terminal is written as JSON, which YAML includes.
pub fn yaml(value: &impl Serialize) -> Result<String, CliError> {
    let text = serde_saphyr::to_string(value).map_err(CliError::failed)?;
    if escape::for_terminal(&text) == text { Ok(text) } else { json(value) }
}

/// One line of JSON, safe to show.
pub fn json_line(value: &impl Serialize) -> Result<String, CliError> {
    Ok(escape::for_json(serde_json::to_string(value).map_err(CliError::failed)?) + "\n")
}

/// Writes text to standard output. What could steer a terminal is escaped: most of it comes from servers.
pub fn print(text: &str) -> Result<(), CliError> {
    print_ready(&escape::for_terminal(text))
}

/// Writes what is safe already: tables, whose cells are escaped and which may be colored, and documents for programs.
pub fn print_ready(text: &str) -> Result<(), CliError> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(CliError::NobodyReads),
        written => written.map_err(|e| CliError::failed(format!("can't write to standard output: {e}"))),
    }
}

/// Writes text to standard error, escaped. Where nobody reads, there is nobody to tell.
pub fn tell(text: &str) {
    let _ = std::io::stderr().write_all(escape::for_terminal(text).as_bytes());
}

/// As [`print`], for what goes on whether anybody reads it or not.
pub fn announce(text: &str) {
    let _ = print(text);
}

/// Shows how far something is, in place of what was shown so before; nothing clears it.
pub fn progress(text: &str) {
    let _ = write!(std::io::stderr(), "\r{}\x1b[K", escape::for_line(text));
}

/// Runs what follows something until it ends, or nobody reads standard output any longer (`| head`).
pub async fn until_unread(following: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::select! {
        ended = following => ended,
        () = nobody_reads() => Ok(()),
    }
}

/// A server that does not answer whoever follows something: reported once, until it answers again.
#[derive(Debug, Default)]
pub struct Outage {
    reported: bool,
}

impl Outage {
    pub fn is_over(&mut self) {
        self.reported = false;
    }

    pub fn report(&mut self, error: &CliError) {
        if !std::mem::replace(&mut self.reported, true) {
            tell(&format!("ostler: {error}; still trying\n"));
        }
    }
}

async fn nobody_reads() {
    while !is_closed(&std::io::stdout()) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_closed(stdout: &std::io::Stdout) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) && fds[0].revents().is_some_and(|r| r.intersects(gone))
}

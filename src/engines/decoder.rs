//! A response body as records: server-sent events, NDJSON or one JSON value, whatever a server sends for `stream: true`. Pure.

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::Failure;
use super::lines::Splitter;
use super::status::html_title;

/// No engine sends a longer line; one that does is not an engine.
const MAX_LINE_BYTES: usize = 4 << 20;
/// What a whole body may have, comments and line breaks included.
const MAX_BYTES: u64 = 256 << 20;
const MAX_LINES: u64 = 4_000_000;
/// What an answer may have beside its tokens: signs of life while it waits. And what a token may have, with all that is around it.
const LEAST_BYTES: u64 = 8 << 20;
const LEAST_LINES: u64 = 250_000;
const BYTES_OF_TOKEN: u64 = 8 << 10;
const LINES_OF_TOKEN: u64 = 64;
/// A download tells its progress sixteen times a second, for a day at most.
const DOWNLOAD_FACTOR: u64 = 2;
/// Text that is neither an event nor JSON; an HTML page tells its title before that.
const MAX_TEXT_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum StreamItem {
    /// `framed`: it came as an event, else as a line or a body of its own.
    Record { value: Value, framed: bool },
    /// The data of an error event.
    Error(Vec<u8>),
    /// `[DONE]`
    Done,
}

/// What an `event:` line announced for the data of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    Error,
    /// `ping` and its like: data that is no JSON is nothing to us.
    Other,
}

#[derive(Debug)]
pub(super) struct Decoder {
    max_bytes: u64,
    max_lines: u64,
    lines: Splitter,
    bytes: u64,
    count: u64,
    announced: Option<Announced>,
    /// Lines of an event's data that are no JSON by themselves.
    data: Vec<u8>,
    /// The data of this block that was handed out: what `event: error` behind it speaks of.
    handed_out: Vec<u8>,
    /// Lines that are no events: JSON over several lines, or text.
    plain: Vec<u8>,
    /// The length of `plain` when it was last parsed in vain.
    tried: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::within(MAX_BYTES, MAX_LINES)
    }
}

impl Decoder {
    /// For an answer of so many tokens: a canary's flood is cut sooner than that of a long task.
    pub(super) fn for_answer(max_tokens: u32) -> Self {
        let tokens = u64::from(max_tokens);
        let bytes = LEAST_BYTES + tokens.saturating_mul(BYTES_OF_TOKEN);
        let lines = LEAST_LINES + tokens.saturating_mul(LINES_OF_TOKEN);
        Self::within(bytes.min(MAX_BYTES), lines.min(MAX_LINES))
    }

    pub(super) fn for_download() -> Self {
        Self::within(MAX_BYTES * DOWNLOAD_FACTOR, MAX_LINES * DOWNLOAD_FACTOR)
    }

    fn within(max_bytes: u64, max_lines: u64) -> Self {
        Self {
            max_bytes,
            max_lines,
            lines: Splitter::default(),
            bytes: 0,
            count: 0,
            announced: None,
            data: Vec::new(),
            handed_out: Vec::new(),
            plain: Vec::new(),
            tried: 0,
        }
    }

    /// Takes what arrived and hands out what it completes. The cost is linear in the bytes, however they are cut.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Vec<StreamItem>, Failure> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(bad(format!("an answer longer than {} bytes", self.max_bytes)));
        }
        self.lines.push(chunk);
        let mut items = Vec::new();
        while let Some(line) = self.lines.next() {
            self.count += 1;
            if self.count > self.max_lines {
                return Err(bad(format!("an answer of more than {} lines", self.max_lines)));
            }
            self.line(&line, &mut items)?;
        }
        if self.lines.open() > MAX_LINE_BYTES {
            return Err(bad("a line without end"));
        }
        Ok(items)
    }

    /// The body has ended.
    pub(super) fn end(&mut self) -> Result<Vec<StreamItem>, Failure> {
        let mut items = Vec::new();
        let rest = self.lines.rest();
        self.line(&rest, &mut items)?;
        self.end_of_block(&mut items)?;
        self.parse_plain(&mut items);
        Ok(items)
    }

    /// Text that came instead of records.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    fn line(&mut self, line: &[u8], items: &mut Vec<StreamItem>) -> Result<(), Failure> {
        let trimmed = line.trim_ascii();
        if let Some(data) = line.strip_prefix(b"data:") {
            self.parse_plain(items);
            return self.data_line(data.trim_ascii(), items);
        }
        if !self.plain.is_empty() {
            return self.plain_line(line, items);
        }
        if trimmed.is_empty() {
            return self.end_of_block(items);
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], line[colon + 1..].trim_ascii()),
            None => (line, &[][..]),
        };
        match field {
            b"" | b"id" | b"retry" => {}
            b"event" => {
                self.announced = match value {
                    b"error" => Some(Announced::Error),
                    b"" | b"message" => None,
                    _ => Some(Announced::Other),
                };
            }
            b"error" => items.push(StreamItem::Error(value.to_vec())),
            _ => match serde_json::from_slice(trimmed) {
                Ok(value @ Value::Object(_)) => items.push(StreamItem::Record { value, framed: false }),
                _ => self.plain_line(line, items)?,
            },
        }
        Ok(())
    }

    /// Servers that leave out the blank line between events are understood as well: what is JSON by itself is an event.
    fn data_line(&mut self, data: &[u8], items: &mut Vec<StreamItem>) -> Result<(), Failure> {
        if data == b"[DONE]" {
            self.end_of_block(items)?;
            items.push(StreamItem::Done);
            return Ok(());
        }
        if self.data.is_empty() {
            match serde_json::from_slice(data) {
                Ok(value) => self.hand_out(value, data, items),
                Err(_) => self.data.extend_from_slice(data),
            }
            return Ok(());
        }
        if self.data.len() + data.len() > MAX_LINE_BYTES {
            return Err(bad("an event without end"));
        }
        self.data.push(b'\n');
        self.data.extend_from_slice(data);
        Ok(())
    }

    fn hand_out(&mut self, value: Value, data: &[u8], items: &mut Vec<StreamItem>) {
        if self.announced.take() == Some(Announced::Error) {
            items.push(StreamItem::Error(data.to_vec()));
        } else {
            self.handed_out = data[..data.len().min(4096)].to_vec();
            items.push(StreamItem::Record { value, framed: true });
        }
    }

    fn end_of_block(&mut self, items: &mut Vec<StreamItem>) -> Result<(), Failure> {
        let data = std::mem::take(&mut self.data);
        let handed_out = std::mem::take(&mut self.handed_out);
        let announced = self.announced.take();
        if data.is_empty() {
            if announced == Some(Announced::Error) {
                items.push(StreamItem::Error(handed_out));
            }
            return Ok(());
        }
        match (serde_json::from_slice(&data), announced) {
            (_, Some(Announced::Error)) => items.push(StreamItem::Error(data)),
            (Ok(value), _) => items.push(StreamItem::Record { value, framed: true }),
            (Err(_), Some(Announced::Other)) => {}
            (Err(_), None) => return Err(no_json(&data)),
        }
        Ok(())
    }

    fn plain_line(&mut self, line: &[u8], items: &mut Vec<StreamItem>) -> Result<(), Failure> {
        self.plain.extend_from_slice(line);
        self.plain.push(b'\n');
        let most = if self.plain.trim_ascii_start().starts_with(b"{") { MAX_LINE_BYTES } else { MAX_TEXT_BYTES };
        if self.plain.len() > most {
            return Err(no_json(&self.plain));
        }
        // Twice as long as last time, so that many such lines cost no more than linear time.
        if line.starts_with(b"}") && self.plain.len() >= 2 * self.tried {
            self.parse_plain(items);
        }
        Ok(())
    }

    fn parse_plain(&mut self, items: &mut Vec<StreamItem>) {
        if self.plain.is_empty() {
            return;
        }
        match serde_json::from_slice(&self.plain) {
            Ok(value) => {
                items.push(StreamItem::Record { value, framed: false });
                self.plain.clear();
                self.tried = 0;
            }
            Err(_) => self.tried = self.plain.len(),
        }
    }
}

fn bad(detail: impl Into<String>) -> Failure {
    Failure::BadBody { detail: detail.into() }
}

/// What is no JSON, without a word of it: the URL may be one of somebody else's server, and errors are shown.
pub(super) fn no_json(data: &[u8]) -> Failure {
    let what = match html_title(data) {
        Some(title) => format!("an HTML page{title}"),
        None if data.trim_ascii().is_empty() => "an empty text".to_owned(),
        None if data.trim_ascii_start().starts_with(b"{") => format!("{} bytes that begin like it", data.len()),
        None => format!("{} bytes of something else", data.len()),
    };
    bad(format!("expected JSON, got {what}"))
}

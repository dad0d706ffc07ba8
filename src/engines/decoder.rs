//! A response body as records: server-sent events, NDJSON or one JSON value, whatever a server sends for `stream: true`. Pure.

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::{StatusCode, header::HeaderMap};
    use serde_json::json;

    use super::*;
    use crate::engines::{
        EngineKind, read_listing, said,
        status::{of_event, of_record, of_response},
        thinking::SplitAnswer,
    };

    fn decode(chunks: &[&[u8]]) -> Result<Vec<StreamItem>, Failure> {
        let mut decoder = Decoder::default();
        let mut items = Vec::new();
        for chunk in chunks {
            items.extend(decoder.push(chunk)?);
        }
        items.extend(decoder.end()?);
        Ok(items)
    }

    fn event(value: Value) -> StreamItem {
        StreamItem::Record { value, framed: true }
    }

    fn line(value: Value) -> StreamItem {
        StreamItem::Record { value, framed: false }
    }

    fn error(data: &str) -> StreamItem {
        StreamItem::Error(data.as_bytes().to_vec())
    }

    #[test]
    fn every_form_of_a_stream_is_read() {
        let (one, two) = (json!({"a": 1}), json!({"a": 2}));
        let cases: [(&str, Vec<StreamItem>); 20] = [
            ("", vec![]),
            ("\n\n\r\n", vec![]),
            (
                "data: {\"a\":1}\n\ndata: {\"a\":2}\n\ndata: [DONE]\n\n",
                vec![event(one.clone()), event(two.clone()), StreamItem::Done],
            ),
            (
                "data:{\"a\":1}\r\n\r\ndata:{\"a\":2}\r\rdata:[DONE]",
                vec![event(one.clone()), event(two.clone()), StreamItem::Done],
            ),
            ("data: {\"a\":1}\ndata: {\"a\":2}\n", vec![event(one.clone()), event(two.clone())]),
            ("\u{feff}data: {\"a\":1}\n\n", vec![event(one.clone())]),
            ("\u{feff}{\"a\":1}", vec![line(one.clone())]),
            (": keepalive 1/2\n\nid: 4\nretry: 9\ndata: {\"a\":1}\n\n: bye\n", vec![event(one.clone())]),
            ("data: {\ndata: \"a\": 1\ndata: }\n\n", vec![event(one.clone())]),
            ("data: {\"a\":\ndata: 1}", vec![event(one.clone())]),
            ("{\"a\":1}\n{\"a\":2}\n", vec![line(one.clone()), line(two.clone())]),
            ("{\n  \"a\": 1\n}\n", vec![line(one.clone())]),
            ("{\n  \"a\": 1\n}\n\ndata: [DONE]\n\n", vec![line(one.clone()), StreamItem::Done]),
            ("{\"a\":1}\n\ndata: [DONE]\n\n", vec![line(one.clone()), StreamItem::Done]),
            ("event: error\ndata: {\"a\":1}\n\ndata: {\"a\":2}\n\n", vec![error("{\"a\":1}"), event(two.clone())]),
            ("event: error\ndata: boom\n\n", vec![error("boom")]),
            ("data: {\"a\":1}\nevent: error\n\n", vec![event(one.clone()), error("{\"a\":1}")]),
            ("error: {\"code\":500}\n\ndata: [DONE]\n\n", vec![error("{\"code\":500}"), StreamItem::Done]),
            ("event: ping\ndata: pong\n\ndata: {\"a\":1}\n\n", vec![event(one.clone())]),
            ("event: completion\ndata: {\"a\":1}\n\n", vec![event(one)]),
        ];
        for (body, items) in cases {
            assert_eq!(decode(&[body.as_bytes()]), Ok(items), "{body:?}");
        }
    }

    #[test]
    fn what_is_no_stream_is_kept_to_be_named() {
        for text in ["Internal error", "<html>\n<title>Hi</title>\n</html>", "{\"a\": 1"] {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.push(text.as_bytes()), Ok(vec![]));
            assert_eq!(decoder.end(), Ok(vec![]));
            assert_eq!(decoder.plain().trim_ascii(), text.as_bytes());
        }
        let failure = decode(&[b"data: what?\n\n"]).unwrap_err();
        let said = failure.to_string();
        assert!(
            said.contains("5 bytes of something else") && !said.contains("what?"),
            "nothing of a stranger's text: {said}"
        );
    }

    #[test]
    fn an_answer_has_room_by_its_tokens() {
        let room = |tokens| {
            let decoder = Decoder::for_answer(tokens);
            (decoder.max_bytes >> 20, decoder.max_lines)
        };
        assert_eq!(room(1), (8, 250_064));
        assert_eq!(room(16_384), (136, 1_298_576));
        assert_eq!(room(u32::MAX), (256, MAX_LINES));
    }

    #[test]
    fn a_flood_ends_and_costs_linear_time() {
        let started = std::time::Instant::now();
        let within = |max_bytes: u64, first: &[u8], chunk: &[u8], times: usize| {
            let mut decoder = Decoder::within(max_bytes, 1 << 18);
            decoder.push(first).unwrap();
            (0..times).find_map(|_| decoder.push(chunk).err()).map(|failure| failure.to_string()).unwrap_or_default()
        };
        let flood = |first: &[u8], chunk: &[u8], times: usize| within(1 << 22, first, chunk, times);
        assert!(flood(b"", &[b'\n'; 1 << 16], 9).contains("lines"));
        assert!(within(1 << 24, b"", &[b'x'; 1 << 16], 199).contains("without end"));
        assert!(flood(b"", &[b':'; 1 << 10], 1 << 13).contains("bytes"));
        // Neither text nor an event grows for ever.
        assert_ne!(flood(b"{\n", b"}\n", 1 << 19), "");
        assert_ne!(flood(b"", b"data: {\n", 1 << 19), "");
        assert_eq!(flood(b"", b"x", 1 << 19), "", "one byte a chunk");
        // Quadratic time would be hours.
        assert!(started.elapsed().as_secs() < 120);
    }

    proptest! {
        #[test]
        fn the_cuts_of_the_network_change_nothing(
            lines in proptest::collection::vec(prop_oneof![
                Just("data: {\"a\":1}"), Just("data: {"), Just("data: }"), Just("{\"b\":2}"), Just(""), Just(": c"), Just("é"),
                Just("event: error"), Just("event: ping"), Just("error: x"), Just("data: [DONE]"), Just("{"), Just("}"),
            ], 0..12),
            ends in proptest::collection::vec(prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], 12),
            cut in 1usize..9,
        ) {
            let body: String = lines.iter().zip(&ends).flat_map(|(line, end)| [*line, *end]).collect();
            let chunks: Vec<&[u8]> = body.as_bytes().chunks(cut).collect();
            prop_assert_eq!(decode(&chunks), decode(&[body.as_bytes()]));
        }

        #[test]
        fn any_bytes_are_read_without_panic(body: Vec<u8>) {
            let _ = decode(&[&body]);
        }
    }

    /// The first byte says how the rest is cut.
    #[test]
    fn any_bytes_of_a_server_are_read_alike_however_they_are_cut() {
        crate::testing::any_bytes("streams", |bytes| {
            let (size, body) = match bytes.split_first() {
                Some((first, _)) => (usize::from(*first % 32) + 1, bytes),
                None => (1, bytes),
            };
            let whole = decode(&[body]);
            assert_eq!(whole, decode(&body.chunks(size).collect::<Vec<_>>()), "in pieces of {size}");
            let mut answer = SplitAnswer::default();
            let mut word = String::new();
            for item in whole.iter().flatten() {
                word.push(match item {
                    StreamItem::Record { framed: true, .. } => 'e',
                    StreamItem::Record { .. } => 'l',
                    StreamItem::Error(_) => 'x',
                    StreamItem::Done => 'd',
                });
                match item {
                    StreamItem::Record { value, .. } => {
                        let said = said::read(value);
                        said.content.iter().for_each(|text| answer.push(text));
                        said.reasoning.iter().for_each(|text| answer.reason(text));
                        word.push_str(said.finish.as_deref().unwrap_or_default());
                        word.push_str(
                            &of_record(EngineKind::Ollama, value).map(|r| of(&r.failure)).unwrap_or_default(),
                        );
                    }
                    StreamItem::Error(data) => word.push_str(&of(&of_event(EngineKind::OpenAi, data).failure)),
                    StreamItem::Done => {}
                }
                word.truncate(word.floor_char_boundary(60));
            }
            let (text, reasoning) = answer.finish();
            assert!(text.len() + reasoning.len() <= body.len() * 2);
            let status = StatusCode::from_u16([200, 400, 404, 500, 503][size % 5]).unwrap();
            for engine in EngineKind::ALL {
                let failure = of_response(engine, status, &HeaderMap::new(), body);
                assert!(failure.to_string().len() < 2_000, "{failure}");
                word.push_str(&of(&failure));
                let path = ["/api/tags", "/api/ps", "/v1/models", "/health"][size % 4];
                let reply = read_listing(engine, path, status, &HeaderMap::new(), body);
                word.push_str(&plain_words(&format!("{reply:?}")));
            }
            word + &whole.err().map(|failure| of(&failure)).unwrap_or_default()
        });

        fn of(failure: &Failure) -> String {
            plain_words(&failure.to_string())
        }

        fn plain_words(text: &str) -> String {
            text.chars().filter(|c| c.is_ascii_alphabetic()).take(24).collect()
        }
    }
}

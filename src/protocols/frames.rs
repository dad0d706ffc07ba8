//! Where the frames of a streamed answer end. What came is passed on as it came; only here is it cut, to be read, and to know where
//! something of our own may be put in between.

/// How a streamed answer is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Server-sent events: a frame ends with an empty line.
    Sse,
    /// A JSON value a line.
    Ndjson,
}

impl Framing {
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// A longer frame is passed on, and not read.
const MAX_READ: usize = 1 << 20;

/// Cuts what is pushed into frames, whatever the pieces are.
#[derive(Debug)]
pub struct FrameSplitter {
    framing: Framing,
    /// The frame that has not ended yet; no more of it than is read.
    open: Vec<u8>,
    is_too_long: bool,
    /// Bytes of the line that has not ended yet.
    line: usize,
    /// A CR ended the last line: an LF belongs to it.
    after_cr: bool,
    /// An empty line ended the last frame with a CR: an LF that follows belongs to it.
    ended_with_cr: bool,
}

impl FrameSplitter {
    pub fn new(framing: Framing) -> Self {
        Self { framing, open: Vec::new(), is_too_long: false, line: 0, after_cr: false, ended_with_cr: false }
    }

    /// Takes in a piece; tells each frame that it ends: how many bytes of the piece belong to it or to what was before, and its data,
    /// unless that is too long to be read.
    pub fn push(&mut self, piece: &[u8], mut on_frame: impl FnMut(usize, Option<&[u8]>)) {
        for (at, byte) in piece.iter().enumerate() {
            let ends = self.byte(*byte);
            if ends {
                let data = self.data();
                on_frame(at + 1, data.as_deref());
                self.open.clear();
                self.is_too_long = false;
            }
        }
    }

    /// Nothing of a frame is open: here something else may stand. After a CR that may be half a line's end, it may not.
    pub fn is_between(&self) -> bool {
        self.open.is_empty() && !self.is_too_long && !self.ended_with_cr
    }

    /// What came of a frame that did not end.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        let data = self.data();
        self.open.clear();
        data
    }

    /// Whether a frame ends with this byte.
    fn byte(&mut self, byte: u8) -> bool {
        if std::mem::take(&mut self.ended_with_cr) && byte == b'\n' {
            self.after_cr = false;
            return false;
        }
        let follows_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
        self.keep(byte);
        match (self.framing, byte) {
            (Framing::Ndjson, b'\n') => {
                self.line = 0;
                self.after_cr = false;
                true
            }
            (Framing::Sse, b'\n') if follows_cr => false,
            (Framing::Sse, b'\n' | b'\r') => {
                let is_empty = self.line == 0;
                self.line = 0;
                self.ended_with_cr = is_empty && byte == b'\r';
                if is_empty {
                    self.after_cr = false;
                }
                is_empty
            }
            _ => {
                self.line += 1;
                false
            }
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.open.len() < MAX_READ {
            self.open.push(byte);
        } else {
            self.is_too_long = true;
        }
    }

    /// Of an event its `data` lines, of a line the line.
    fn data(&self) -> Option<Vec<u8>> {
        if self.is_too_long {
            return None;
        }
        match self.framing {
            Framing::Ndjson => Some(self.open.trim_ascii().to_vec()),
            Framing::Sse => {
                let mut data = Vec::with_capacity(self.open.len());
                for line in self.open.split(|byte| matches!(byte, b'\n' | b'\r')) {
                    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
                    // Some engines name the field of an error so.
                    let told = line.strip_prefix(b"data:").or_else(|| line.strip_prefix(b"error:"));
                    if let Some(rest) = told {
                        if !data.is_empty() {
                            data.push(b'\n');
                        }
                        data.extend_from_slice(rest.strip_prefix(b" ").unwrap_or(rest));
                    }
                }
                Some(data)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of all frames, and where in the whole they end.
    fn frames(framing: Framing, pieces: &[&[u8]]) -> Vec<(usize, String)> {
        let (mut splitter, mut before, mut found) = (FrameSplitter::new(framing), 0, Vec::new());
        for piece in pieces {
            splitter.push(piece, |end, data| {
                found.push((before + end, String::from_utf8_lossy(data.unwrap_or(b"(long)")).into_owned()));
            });
            before += piece.len();
        }
        found
    }

    #[test]
    fn frames_end_with_an_empty_line_or_a_line() {
        let sse = |text: &str| frames(Framing::Sse, &[text.as_bytes()]);
        let of = |end: usize, data: &str| (end, data.to_owned());
        assert_eq!(sse("data: a\n\ndata: b\n\nda"), [of(9, "a"), of(18, "b")]);
        assert_eq!(sse("data: a\r\n\r\ndata:b\r\n\r\n"), [of(11, "a"), of(21, "b")].map(|(end, data)| (end - 1, data)));
        assert_eq!(sse("data: a\r\rdata: b\r\r"), [of(9, "a"), of(18, "b")]);
        assert_eq!(sse(": hello\n\nevent: x\ndata: 1\ndata: 2\n\n"), [of(9, ""), of(35, "1\n2")]);
        assert_eq!(frames(Framing::Ndjson, &[b"{}\n{\"a\"", b":1}\r\n"]), [of(3, "{}"), of(12, "{\"a\":1}")]);
    }

    #[test]
    fn something_may_stand_between_frames_only() {
        let mut splitter = FrameSplitter::new(Framing::Sse);
        for (piece, is_between) in
            [("data: a", false), ("\n", false), ("\n", true), ("data: b\r\n\r", false), ("\n", true), ("d", false)]
        {
            splitter.push(piece.as_bytes(), |_, _| {});
            assert_eq!(splitter.is_between(), is_between, "{piece:?}");
        }
        assert_eq!(splitter.rest(), Some(Vec::new()));
    }

    #[test]
    fn a_frame_that_is_too_long_is_not_read() {
        let long = format!("data: {}\n\n", "x".repeat(MAX_READ));
        assert_eq!(frames(Framing::Sse, &[long.as_bytes()])[0].1, "(long)");
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_frames(
            text in "(data: [ab{}]{0,5}(\n|\r\n|\r){1,3}|\n){0,8}",
            cuts in proptest::collection::vec(0_usize..80, 0..6),
            ndjson in any::<bool>(),
        ) {
            let framing = if ndjson { Framing::Ndjson } else { Framing::Sse };
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(frames(framing, &pieces), frames(framing, &[bytes]));
        }
    }
}

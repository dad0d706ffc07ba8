//! Bytes as lines, at a cost that is linear however they are cut. Pure.

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Bytes as lines, which end with LF, CR LF or CR. The first one may begin with a byte order mark.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    /// A CR ended the last line: an LF belongs to it.
    after_cr: bool,
    begun: bool,
}

impl Splitter {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(chunk);
    }

    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        if self.after_cr && self.start < self.buffer.len() {
            self.after_cr = false;
            if self.buffer[self.start] == b'\n' {
                self.start += 1;
                self.scanned = self.scanned.max(self.start);
            }
        }
        let found = self.buffer[self.scanned..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(end) = found.map(|at| self.scanned + at) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let line = self.buffer[self.start..end].to_vec();
        self.after_cr = self.buffer[end] == b'\r';
        self.start = end + 1;
        self.scanned = self.start;
        Some(self.without_bom(line))
    }

    /// Bytes of the line that has not ended yet.
    pub(super) fn open(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) fn rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.start);
        *self = Self { begun: self.begun, ..Self::default() };
        self.without_bom(rest)
    }

    fn without_bom(&mut self, line: Vec<u8>) -> Vec<u8> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first && line.starts_with(BOM) { line[BOM.len()..].to_vec() } else { line }
    }
}

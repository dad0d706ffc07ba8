//! An engine's answer on its way to whoever asked: as it came, without what they did not ask for, or in another protocol.

use super::{AnswerTranslator, Ask, FrameSplitter, Framing, Meter, Operation, chunk::Chunk, usage::UsageFilter};

/// A whole answer that is longer is not read for its counts, and can't be put into another protocol.
const MOST_READ: usize = 1 << 20;

/// Why an answer can't be put into another protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassageError {
    #[error("the answer is longer than {} MiB: ask for it streamed", MOST_READ >> 20)]
    TooLong,
    /// None of its words: they may be an answer's.
    #[error("what came is no chat completion")]
    NoAnswer,
}

/// What of an answer is passed on, and where something else may be put in between.
pub struct Passage {
    operation: Operation,
    form: Form,
}

enum Form {
    Framed { splitter: FrameSplitter, filter: PassageFilter },
    Whole { read: Vec<u8>, is_all_read: bool, translator: Option<Box<AnswerTranslator>>, streams: bool },
}

enum PassageFilter {
    /// Everything is passed on as it comes.
    Nothing,
    Usage(UsageFilter),
    /// What comes is passed on in another protocol.
    Translation(Box<AnswerTranslator>),
}

impl Passage {
    /// Of an answer that comes in frames. `ask` is what the engine was asked.
    pub fn framed(framing: Framing, ask: &Ask<'_>, translator: Option<AnswerTranslator>) -> Self {
        let filter = match (translator, ask.usage_options()) {
            (Some(translator), _) => PassageFilter::Translation(Box::new(translator)),
            (None, Some(_)) => PassageFilter::Usage(UsageFilter::default()),
            (None, None) => PassageFilter::Nothing,
        };
        Self { operation: ask.operation, form: Form::Framed { splitter: FrameSplitter::new(framing), filter } }
    }

    /// Of an answer that comes whole, to somebody who wants it whole, or streamed all the same.
    pub fn whole(ask: &Ask<'_>, translator: Option<AnswerTranslator>, streams: bool) -> Self {
        let translator = translator.map(Box::new);
        let form = Form::Whole { read: Vec::new(), is_all_read: true, translator, streams };
        Self { operation: ask.operation, form }
    }

    pub const fn is_framed(&self) -> bool {
        matches!(self.form, Form::Framed { .. })
    }

    /// Takes in a piece. Returns what is passed on (`None`: the piece), and whether that ends with a frame.
    pub fn push(&mut self, piece: &[u8], meter: &mut Meter) -> (Option<Vec<u8>>, bool) {
        match &mut self.form {
            Form::Framed { splitter, filter } => {
                let mut made = Made::default();
                splitter.push(piece, |end, data| filter.frame(data, end, (self.operation, &mut *meter), &mut made));
                match filter {
                    PassageFilter::Nothing => (None, splitter.is_between()),
                    // Whole frames alone.
                    PassageFilter::Usage(usage) => (Some(usage.pass(piece, &made.ends)), true),
                    PassageFilter::Translation(_) => (Some(made.translated.into()), true),
                }
            }
            Form::Whole { read, is_all_read, translator, .. } => {
                *is_all_read &= read.len() + piece.len() <= MOST_READ;
                if *is_all_read {
                    read.extend_from_slice(piece);
                }
                (translator.is_some().then(Vec::new), true)
            }
        }
    }

    /// After the last byte: what was not passed on yet.
    ///
    /// # Errors
    /// The answer can't be put into another protocol.
    pub fn end(self, meter: &mut Meter) -> Result<Vec<u8>, PassageError> {
        match self.form {
            Form::Framed { mut splitter, mut filter } => {
                let mut made = Made::default();
                if let Some(data) = splitter.rest().filter(|data| !data.is_empty()) {
                    // A frame that has no end.
                    filter.frame(Some(&data), 0, (self.operation, &mut *meter), &mut made);
                }
                match &mut filter {
                    PassageFilter::Translation(translator) if meter.is_whole && meter.parts > 0 => {
                        made.translated += &translator.end();
                    }
                    PassageFilter::Usage(usage) => return Ok(usage.rest()),
                    PassageFilter::Nothing | PassageFilter::Translation(_) => {}
                }
                Ok(made.translated.into())
            }
            Form::Whole { read, is_all_read, translator, streams } => {
                let Some(mut translator) = translator else {
                    meter.read(self.operation, &read);
                    return Ok(Vec::new());
                };
                if !is_all_read {
                    return Err(PassageError::TooLong);
                }
                let text = String::from_utf8_lossy(&read);
                let chunk = Chunk::read(&text);
                meter.chunk(&chunk);
                let answer = match streams {
                    true => Some(translator.read(&chunk) + &translator.end()),
                    false => translator.whole(&chunk),
                };
                answer.map(String::into_bytes).ok_or(PassageError::NoAnswer)
            }
        }
    }
}

/// What the frames of a piece become.
#[derive(Default)]
struct Made {
    /// Where in the piece each frame ends, and whether it is kept back.
    ends: Vec<(usize, bool)>,
    translated: String,
}

impl PassageFilter {
    /// Takes in a frame; one without data is too long to be read.
    fn frame(&mut self, data: Option<&[u8]>, end: usize, (operation, meter): (Operation, &mut Meter), made: &mut Made) {
        if let Self::Nothing = self {
            return meter.read(operation, data.unwrap_or_default());
        }
        let text = String::from_utf8_lossy(data.unwrap_or_default());
        let chunk = Chunk::read(&text);
        meter.chunk(&chunk);
        match self {
            Self::Nothing => {}
            Self::Usage(_) => made.ends.push((end, chunk.is_usage_alone)),
            Self::Translation(translator) if data.is_some() => made.translated += &translator.read(&chunk),
            Self::Translation(translator) => made.translated += &translator.fail("a part of it is too long"),
        }
    }
}

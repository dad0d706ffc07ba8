//! Engines are always asked what an answer took, so that tokens are counted exactly. OpenAI's streams tell it in a chunk of its own, which a
//! client that did not ask for it is not sent.

use serde::{Deserialize, de::IgnoredAny};

use super::{
    AnswerTranslator, Ask, FrameSplitter, Framing, Operation,
    object::{Object, ObjectWriter},
};

/// A longer frame is passed on as it comes.
const MOST_HELD: usize = 1 << 20;
const OPTIONS: &str = "stream_options";
const INCLUDE: &str = "include_usage";

impl Ask<'_> {
    /// `stream_options` as the engine gets them; `None`: as the client sent them.
    pub(super) fn usage_options(&self) -> Option<String> {
        if !matches!(self.operation, Operation::ChatCompletions | Operation::Completions) || !self.streams {
            return None;
        }
        let given = self.object.get(OPTIONS).filter(|options| *options != "null").unwrap_or("{}");
        // What is no object is the engine's to refuse.
        let options: Object = serde_json::from_str(given).ok()?;
        if options.get(INCLUDE) == Some("true") || options.disguised(&[INCLUDE]).is_some() {
            return None;
        }
        let mut out = ObjectWriter::new(given.len() + 32);
        options.fields().filter(|(name, _)| *name != INCLUDE).for_each(|(name, value)| out.field(name, value));
        out.field(INCLUDE, "true");
        Some(out.end())
    }
}

/// What of a streamed answer is passed on, and where something else may be put in between.
pub struct Passage {
    splitter: FrameSplitter,
    filter: PassageFilter,
}

enum PassageFilter {
    /// Everything is passed on as it comes.
    Nothing,
    Usage(UsageFilter),
    /// What comes is passed on in another protocol.
    Translation(Box<AnswerTranslator>),
}

impl Passage {
    pub fn new(framing: Framing, ask: &Ask<'_>) -> Self {
        let filter = match ask.usage_options() {
            Some(_) => PassageFilter::Usage(UsageFilter::default()),
            None => PassageFilter::Nothing,
        };
        Self { splitter: FrameSplitter::new(framing), filter }
    }

    pub fn translated(framing: Framing, translator: AnswerTranslator) -> Self {
        Self { splitter: FrameSplitter::new(framing), filter: PassageFilter::Translation(Box::new(translator)) }
    }

    /// Reads the frames that end in a piece. Returns what is passed on (`None`: the piece), and whether that ends with a frame.
    pub fn push(&mut self, piece: &[u8], mut read: impl FnMut(&[u8])) -> (Option<Vec<u8>>, bool) {
        let Self { splitter, filter } = self;
        let (mut ends, mut translated) = (Vec::new(), String::new());
        splitter.push(piece, |end, data| {
            read(data.unwrap_or_default());
            match (&mut *filter, data) {
                (PassageFilter::Nothing, _) => {}
                (PassageFilter::Usage(_), data) => ends.push((end, is_usage_alone(data.unwrap_or_default()))),
                (PassageFilter::Translation(translator), Some(data)) => translated += &translator.read(data),
                (PassageFilter::Translation(translator), None) => {
                    translated += &translator.fail("a part of it is too long")
                }
            }
        });
        match filter {
            PassageFilter::Nothing => (None, splitter.is_between()),
            // Whole frames alone.
            PassageFilter::Usage(filter) => (Some(filter.pass(piece, &ends)), true),
            PassageFilter::Translation(_) => (Some(translated.into()), true),
        }
    }

    /// Reads what came of a frame that has no end, after the last byte. Returns what that is in another protocol.
    pub fn flush(&mut self, read: impl FnOnce(&[u8])) -> String {
        let Some(data) = self.splitter.rest().filter(|data| !data.is_empty()) else { return String::new() };
        read(&data);
        match &mut self.filter {
            PassageFilter::Translation(translator) => translator.read(&data),
            PassageFilter::Nothing | PassageFilter::Usage(_) => String::new(),
        }
    }

    /// What was not passed on yet of an answer that is over: a frame that did not end, or the end in another protocol.
    pub fn rest(&mut self, is_whole: bool) -> Vec<u8> {
        match &mut self.filter {
            PassageFilter::Usage(filter) => filter.rest(),
            PassageFilter::Translation(translator) if is_whole => translator.end().into(),
            PassageFilter::Nothing | PassageFilter::Translation(_) => Vec::new(),
        }
    }
}

/// Passes on whole frames, but for those that tell usage alone.
#[derive(Debug, Default)]
struct UsageFilter {
    /// Of a frame that has not ended.
    held: Vec<u8>,
}

impl UsageFilter {
    /// What of a piece is passed on. `ends`: where in the piece a frame ends, and whether it is kept back.
    fn pass(&mut self, piece: &[u8], ends: &[(usize, bool)]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len() + piece.len());
        let mut from = 0;
        for &(end, is_dropped) in ends {
            self.held.extend_from_slice(&piece[from..end]);
            from = end;
            if is_dropped {
                self.held.clear();
            } else {
                out.append(&mut self.held);
            }
        }
        self.held.extend_from_slice(&piece[from..]);
        if self.held.len() > MOST_HELD {
            out.append(&mut self.held);
        }
        out
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// Whether a chunk tells usage, and nothing of an answer.
fn is_usage_alone(data: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Chunk {
        choices: Vec<IgnoredAny>,
        usage: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Chunk>(data).is_ok_and(|chunk| chunk.choices.is_empty() && chunk.usage.is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options(operation: Operation, body: &str) -> Option<String> {
        Ask::read(operation, body.as_bytes()).expect("a request").usage_options()
    }

    #[test]
    fn usage_is_asked_for_where_the_client_did_not() {
        let chat = |rest: &str| options(Operation::ChatCompletions, &format!(r#"{{"model":"m","stream":true{rest}}}"#));
        for (rest, sent) in [
            ("", Some(r#"{"include_usage":true}"#)),
            (r#","stream_options":null"#, Some(r#"{"include_usage":true}"#)),
            (r#","stream_options":{"include_usage":false,"a":[1]}"#, Some(r#"{"a":[1],"include_usage":true}"#)),
            (r#","stream_options":{"include_usage":true}"#, None),
            (r#","stream_options":3"#, None),
        ] {
            assert_eq!(chat(rest).as_deref(), sent, "{rest}");
        }
        assert_eq!(options(Operation::ChatCompletions, r#"{"model":"m"}"#), None, "a whole answer has it");
        assert_eq!(options(Operation::Messages, r#"{"model":"m","stream":true}"#), None, "it is always told there");
    }

    #[test]
    fn only_a_chunk_without_an_answer_is_usage_alone() {
        for (data, is_alone) in [
            (r#"{"id":"1","choices":[],"usage":{"prompt_tokens":1}}"#, true),
            (r#"{"choices":[],"usage":null}"#, false),
            (r#"{"choices":[],"prompt_filter_results":[]}"#, false),
            (r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}"#, false),
            ("[DONE]", false),
        ] {
            assert_eq!(is_usage_alone(data.as_bytes()), is_alone, "{data}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_are_the_client_gets_all_frames_but_usage(
            frames in proptest::collection::vec(any::<bool>(), 0..8), cuts in proptest::collection::vec(0..400_usize, 0..8), rest in "[a-z]{0,5}",
        ) {
            let frame = |at: usize, is_usage: bool| match is_usage {
                true => "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n".to_owned(),
                false => format!("data: {{\"choices\":[{at}]}}\n\n"),
            };
            let text = |usage: bool| {
                let kept = frames.iter().enumerate().filter(|(_, is_usage)| usage || !**is_usage);
                kept.map(|(at, is_usage)| frame(at, *is_usage)).collect::<String>() + &rest
            };
            let whole = text(true);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).chain([0, whole.len()]).collect();
            cuts.sort_unstable();
            let ask = Ask::read(Operation::ChatCompletions, br#"{"model":"m","stream":true}"#).unwrap();
            let (mut passage, mut out) = (Passage::new(Framing::Sse, &ask), Vec::new());
            for pair in cuts.windows(2) {
                let piece = &whole.as_bytes()[pair[0]..pair[1]];
                out.extend(passage.push(piece, |_| {}).0.expect("it is filtered"));
            }
            out.extend(passage.rest(true));
            prop_assert_eq!(String::from_utf8(out).unwrap(), text(false));
        }
    }
}

//! Engines are always asked what an answer took, so that tokens are counted exactly. OpenAI's streams tell it in a chunk of its own, which a
//! client that did not ask for it is not sent.

use super::{
    Ask, Operation,
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

/// Passes on whole frames, but for those that tell usage alone.
#[derive(Debug, Default)]
pub(super) struct UsageFilter {
    /// Of a frame that has not ended.
    held: Vec<u8>,
}

impl UsageFilter {
    /// What of a piece is passed on. `ends`: where in the piece a frame ends, and whether it is kept back.
    pub fn pass(&mut self, piece: &[u8], ends: &[(usize, bool)]) -> Vec<u8> {
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

    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocols::{Framing, Meter, Passage};

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
            let (mut passage, mut meter, mut out) = (Passage::framed(Framing::Sse, &ask, None), Meter::default(), Vec::new());
            for pair in cuts.windows(2) {
                let piece = &whole.as_bytes()[pair[0]..pair[1]];
                out.extend(passage.push(piece, &mut meter).0.expect("it is filtered"));
            }
            out.extend(passage.end(&mut meter).expect("it is streamed"));
            prop_assert_eq!(String::from_utf8(out).unwrap(), text(false));
        }
    }
}

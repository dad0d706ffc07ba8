//! Whether a server answered a part of the prompt only: it counted far fewer tokens than any tokenizer makes of the whole. Pure.

/// Bytes of a prompt to one of its tokens, before an engine counted any.
pub const USUAL_BYTES_PER_TOKEN: f64 = 4.0;
/// Tokens that must lack at least: below, templates and counting differ.
const LEAST_MISSING: u64 = 256;
/// No tokenizer makes fewer tokens of running text than one for so many characters of a long word.
const CHARS_PER_TOKEN: u64 = 12;

/// What is counted: embedding models' tokenizers make one token of any word that they don't know, however long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokenizer {
    Chat,
    Embedding,
}

/// Says so when `counted` tokens can't be all of `texts`. A server that counts none doesn't count.
pub fn prompt_cut<'a>(
    tokenizer: Tokenizer,
    texts: impl IntoIterator<Item = &'a str>,
    counted: Option<u64>,
) -> Option<String> {
    let counted = counted.filter(|n| *n > 0)?;
    let least: u64 = texts.into_iter().map(|text| least_tokens(tokenizer, text)).sum();
    (counted + LEAST_MISSING <= least).then(|| {
        format!("the server counted {counted} tokens of a prompt that has at least {least}: it answered a part of it")
    })
}

/// A lower bound. Two words make at least one token (tokens of several words are rare); a long word makes more, unless it
/// repeats one character, of which some tokenizers make one token.
fn least_tokens(tokenizer: Tokenizer, text: &str) -> u64 {
    let half_tokens: u64 = text
        .split_whitespace()
        .map(|word| match tokenizer {
            Tokenizer::Embedding => 1,
            Tokenizer::Chat => (2 * changes(word) / CHARS_PER_TOKEN).max(1),
        })
        .sum();
    half_tokens / 2
}

/// The characters of a word that neither of the two before repeats: rulers of tables and of titles count little.
fn changes(word: &str) -> u64 {
    let mut before = [None, None];
    let mut count = 0;
    for char in word.chars() {
        if !before.contains(&Some(char)) {
            count += 1;
        }
        before = [before[1], Some(char)];
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_cut(text: &str, counted: u64) -> bool {
        prompt_cut(Tokenizer::Chat, [text], Some(counted)).is_some()
    }

    #[test]
    fn a_prompt_of_which_a_part_was_read_is_found() {
        let words = "one word and then another one ".repeat(2_000);
        assert!(is_cut(&words, 2_048));
        assert!(!is_cut(&words, 12_000));
        let text: String = ('a'..='z').cycle().take(60_000).collect();
        assert!(is_cut(&text, 4_096), "without spaces as well");
        assert!(!is_cut("hello world", 1));
        assert!(prompt_cut(Tokenizer::Chat, [words.as_str()], None).is_none(), "not counted");
        assert!(prompt_cut(Tokenizer::Chat, [words.as_str()], Some(0)).is_none(), "not counted");
        assert!(prompt_cut(Tokenizer::Embedding, [words.as_str(), words.as_str()], Some(1_024)).is_some());
    }

    /// Tokens that the leanest of today's large vocabularies make of such text, rounded down.
    #[test]
    fn ordinary_text_of_any_language_is_not_called_cut() {
        let cases = [
            ("The internationalization of telecommunication infrastructures. ", 8),
            ("Donaudampfschifffahrtsgesellschaftskapitän und Rechtsschutzversicherungsgesellschaften. ", 18),
            ("अंतर्राष्ट्रीय विश्वविद्यालय में विद्यार्थियों की संख्या। ", 11),
            ("中华人民共和国国务院关于进一步加强安全生产工作的通知", 10),
            ("สวัสดีชาวโลกทุกคนยินดีต้อนรับ", 7),
            ("საქართველოს პარლამენტი ", 4),
            ("    if (value === undefined) {\n        return null;\n    }\n", 13),
            ("| --- | --- | ------------------------------ |\n", 6),
            ("================================================================================\n", 1),
            ("                                                                        \n\n\n", 1),
            ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==\n", 50),
            ("d41d8cd98f00b204e9800998ecf8427e", 16),
            ("https://example.com/a/b?c=d&e=f ", 10),
        ];
        for (text, tokens) in cases {
            assert!(!is_cut(&text.repeat(500), 500 * tokens), "{text:?} {}", least_tokens(Tokenizer::Chat, text));
        }
    }

    proptest! {
        /// A tokenizer that is leaner than any: 12 characters of a word a token, and runs for nothing.
        #[test]
        fn no_text_that_was_read_whole_is_called_cut(words in proptest::collection::vec("\\PC{1,40}", 0..400)) {
            let text = words.join(" ");
            let tokens: usize = text.split_whitespace().map(|word| word.chars().count().div_ceil(12)).sum();
            prop_assert!(!is_cut(&text, tokens as u64));
            let tokens = text.split_whitespace().count();
            prop_assert!(prompt_cut(Tokenizer::Embedding, [text.as_str()], Some(tokens as u64)).is_none());
        }
    }
}

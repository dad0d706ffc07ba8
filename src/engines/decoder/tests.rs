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
                    word.push_str(&of_record(EngineKind::Ollama, value).map(|r| of(&r.failure)).unwrap_or_default());
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
